#include "fewbit/model/tensor_source.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"

namespace fewbit {
namespace {

size_t product(std::span<const size_t> shape) {
  size_t elements = 1;
  for (const size_t size : shape) elements *= size;
  return elements;
}

bool is_norm_weight(std::string_view name) { return name.ends_with("norm.weight"); }

bool writes_residual(std::string_view name) {
  return name.ends_with("attn.o.weight") || name.ends_with(".down.weight");
}

}  // namespace

size_t TensorInfo::elements() const { return product(shape); }

std::span<const float> TensorSource::borrow(std::string_view) const { return {}; }

std::optional<QuantizedMatrix> TensorSource::quantized(std::string_view) const {
  return std::nullopt;
}

std::vector<float> TensorSource::load(std::string_view name) const {
  std::vector<float> values(info(name).elements());
  load(name, values);
  return values;
}

Matrix TensorSource::load_matrix(std::string_view name) const {
  const TensorInfo information = info(name);
  require(information.shape.size() == 2, "tensor {} has {} dimensions, not 2", name,
          information.shape.size());
  return Matrix(information.shape[0], information.shape[1], load(name));
}

MemoryTensorSource::MemoryTensorSource(std::vector<std::pair<std::string, Tensor>> tensors) {
  for (auto& [name, tensor] : tensors) {
    require(product(tensor.shape) == tensor.values.size(),
            "tensor {}: {} values do not fill shape [{}]", name, tensor.values.size(),
            fmt::join(tensor.shape, ", "));
    names_.push_back(name);
    const bool fresh = tensors_.emplace(name, std::move(tensor)).second;
    require(fresh, "tensor {} is given twice", name);
  }
}

bool MemoryTensorSource::contains(std::string_view name) const {
  return tensors_.find(name) != tensors_.end();
}

const MemoryTensorSource::Tensor& MemoryTensorSource::at(std::string_view name) const {
  const auto found = tensors_.find(name);
  require(found != tensors_.end(), "tensor {} is missing", name);
  return found->second;
}

TensorInfo MemoryTensorSource::info(std::string_view name) const {
  const Tensor& tensor = at(name);
  return {tensor.shape, "F32", tensor.values.size() * sizeof(float)};
}

void MemoryTensorSource::load(std::string_view name, std::span<float> out) const {
  const Tensor& tensor = at(name);
  require(out.size() == tensor.values.size(), "tensor {}: {} elements asked for, {} present", name,
          out.size(), tensor.values.size());
  std::copy(tensor.values.begin(), tensor.values.end(), out.begin());
}

std::span<const float> MemoryTensorSource::borrow(std::string_view name) const {
  return at(name).values;
}

OverlaySource::OverlaySource(std::shared_ptr<const TensorSource> base,
                             std::shared_ptr<const TensorSource> changed)
    : base_(std::move(base)), changed_(std::move(changed)), names_(base_->names()) {
  for (const std::string& name : changed_->names()) {
    if (!base_->contains(name)) names_.push_back(name);
  }
}

bool OverlaySource::contains(std::string_view name) const {
  return changed_->contains(name) || base_->contains(name);
}

const TensorSource& OverlaySource::owner(std::string_view name) const {
  return changed_->contains(name) ? *changed_ : *base_;
}

std::optional<QuantizedMatrix> OverlaySource::quantized(std::string_view layer) const {
  return owner(fmt::format("{}.weight", layer)).quantized(layer);
}

std::shared_ptr<MemoryTensorSource> random_tensors(const ModelSpec& spec, uint64_t seed,
                                                   double deviation) {
  const double residual_deviation =
      deviation / std::sqrt(2 * static_cast<double>(spec.blocks.size()));
  std::vector<std::pair<std::string, MemoryTensorSource::Tensor>> tensors;
  for (const TensorSpec& wanted : model_tensors(spec)) {
    MemoryTensorSource::Tensor tensor{wanted.shape, std::vector<float>(product(wanted.shape))};
    if (is_norm_weight(wanted.name)) {
      std::fill(tensor.values.begin(), tensor.values.end(), spec.norm_plus_one ? 0.0f : 1.0f);
    } else if (!wanted.name.ends_with(".bias")) {
      RandomStream stream(seed, "init " + wanted.name);
      stream.fill_normal(tensor.values, 0,
                         writes_residual(wanted.name) ? residual_deviation : deviation);
    }
    tensors.emplace_back(wanted.name, std::move(tensor));
  }
  return std::make_shared<MemoryTensorSource>(std::move(tensors));
}

void check_tensors(const ModelSpec& spec, const TensorSource& source) {
  for (const TensorSpec& wanted : model_tensors(spec)) {
    require(source.contains(wanted.name), "tensor {} is missing", wanted.name);
    const std::vector<size_t> shape = source.shape(wanted.name);
    require(shape == wanted.shape, "tensor {}: shape [{}] should be [{}]", wanted.name,
            fmt::join(shape, ", "), fmt::join(wanted.shape, ", "));
  }
}

}  // namespace fewbit
