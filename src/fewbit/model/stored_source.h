// TensorSource over the stored tensors of a file: what a container offers, and the source that cuts
// canonical tensors out of it along their bindings (tensor_names.h).
#pragma once

#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/model/tensor_names.h"
#include "fewbit/model/tensor_source.h"

namespace fewbit {

// Stored tensors as matrices of rows of floats. Implementations map their files.
class TensorContainer {
 public:
  virtual ~TensorContainer() = default;
  // The file or directory, for errors.
  virtual const std::string& what() const = 0;
  virtual std::vector<std::string> names() const = 0;
  virtual bool contains(std::string_view name) const = 0;
  // Shape row-major, outermost extent first. Error that names the tensor if absent.
  virtual TensorInfo info(std::string_view name) const = 0;
  // Rows [first, first + out.rows()) of the tensor as [elements / last extent, last extent].
  virtual void decode_rows(std::string_view name, size_t first, MatrixView<float> out) const = 0;
  // The stored bytes of the tensor.
  virtual std::span<const std::byte> bytes(std::string_view name) const = 0;
  // The mapped floats if the tensor is stored as aligned float32, else empty.
  virtual std::span<const float> floats(std::string_view name) const = 0;
};

// Checks that every bound tensor is there in its stored shape (errors name both names), and warns
// of stored tensors that nothing binds, unless they are known to carry nothing or are in `known`.
std::shared_ptr<const TensorSource> bind_tensors(
    std::shared_ptr<const TensorContainer> container, std::vector<TensorBinding> bindings,
    const std::set<std::string, std::less<>>& known = {});

// Bindings that share a stored tensor, at the place of the first of them: what a writer writes.
std::vector<std::vector<TensorBinding>> group_by_stored(std::vector<TensorBinding> bindings);
// The values of such a group's stored tensor, row-major.
std::vector<float> load_stored(std::span<const TensorBinding> group, const TensorSource& tensors);

// `values` as bytes of F32, F16 or BF16. A finite value that F16 cannot hold is an Error that names
// the tensor.
std::vector<std::byte> encode_floats(Dtype dtype, std::span<const float> values,
                                     const std::string& name);

// The inverse for one stored tensor: `parts` are the bindings that share it, `values` their
// canonical values in the same order; returns the stored values, row-major.
std::vector<float> compose_stored(std::span<const TensorBinding> parts,
                                  std::span<const std::vector<float>> values);

}  // namespace fewbit
