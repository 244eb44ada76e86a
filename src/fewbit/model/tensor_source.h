// TensorSource: the tensors of a model by canonical name, read only when asked for. Files stay
// memory-mapped, so that a model larger than memory can be walked block by block.
//
// A name is in a source if names() holds it; its data is always offered as floats, whatever the
// stored type. A weight that is stored as codes is also offered as a QuantizedMatrix, and its
// floats are exactly that matrix dequantized.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/formats/quantized_matrix.h"
#include "fewbit/model/model_spec.h"

namespace fewbit {

// What is known of a tensor without reading it.
struct TensorInfo {
  std::vector<size_t> shape;
  std::string stored_type;    // As the file spells it: "F32", "BF16", "Q4_K", "codes", ...
  uint64_t stored_bytes = 0;  // Its share of the file.
  size_t elements() const;
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // Canonical names in the order of model_tensors().
  virtual const std::vector<std::string>& names() const = 0;
  virtual bool contains(std::string_view name) const = 0;
  // Error that names the tensor if absent; so for all below.
  virtual TensorInfo info(std::string_view name) const = 0;
  // Writes the tensor, row-major, into `out`, whose size must be its number of elements.
  // Thread-safe.
  virtual void load(std::string_view name, std::span<float> out) const = 0;
  // The mapped floats themselves where they are stored exactly so and aligned, else empty. Valid as
  // long as this source lives.
  virtual std::span<const float> borrow(std::string_view name) const;

  // The codes of a linear that is stored quantized, by layer name ("blocks.3.attn.q"); empty if it
  // is stored as floats. load(layer + ".weight") gives exactly its dequantized values.
  virtual std::optional<QuantizedMatrix> quantized(std::string_view layer) const;

  std::vector<size_t> shape(std::string_view name) const { return info(name).shape; }
  std::vector<float> load(std::string_view name) const;
  // For tensors of two dimensions.
  Matrix load_matrix(std::string_view name) const;
};

// Tensors held in memory: what training makes, and tests.
class MemoryTensorSource : public TensorSource {
 public:
  struct Tensor {
    std::vector<size_t> shape;
    std::vector<float> values;
  };
  explicit MemoryTensorSource(std::vector<std::pair<std::string, Tensor>> tensors);

  const std::vector<std::string>& names() const override { return names_; }
  bool contains(std::string_view name) const override;
  TensorInfo info(std::string_view name) const override;
  using TensorSource::load;
  void load(std::string_view name, std::span<float> out) const override;
  std::span<const float> borrow(std::string_view name) const override;

 private:
  const Tensor& at(std::string_view name) const;

  std::vector<std::string> names_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

// The tensors of `base`, of which some are replaced or added by `changed`.
class OverlaySource : public TensorSource {
 public:
  OverlaySource(std::shared_ptr<const TensorSource> base,
                std::shared_ptr<const TensorSource> changed);

  const std::vector<std::string>& names() const override { return names_; }
  bool contains(std::string_view name) const override;
  TensorInfo info(std::string_view name) const override { return owner(name).info(name); }
  using TensorSource::load;
  void load(std::string_view name, std::span<float> out) const override {
    owner(name).load(name, out);
  }
  std::span<const float> borrow(std::string_view name) const override {
    return owner(name).borrow(name);
  }
  std::optional<QuantizedMatrix> quantized(std::string_view layer) const override;

 private:
  const TensorSource& owner(std::string_view name) const;

  std::shared_ptr<const TensorSource> base_, changed_;
  std::vector<std::string> names_;
};

// Every tensor that `spec` calls for, drawn as its family initialises it: linears and embeddings
// normal(0, deviation), projections that write the residual stream divided by sqrt(2 * blocks),
// norms one (zero if norm_plus_one), biases zero. Depends on the seed and the names only.
std::shared_ptr<MemoryTensorSource> random_tensors(const ModelSpec& spec, uint64_t seed,
                                                   double deviation = 0.02);

// Throws an Error that names the first tensor of `spec` which `source` lacks or holds in another
// shape.
void check_tensors(const ModelSpec& spec, const TensorSource& source);

}  // namespace fewbit
