#include "fewbit/train/training_state.h"

#include <ATen/core/grad_mode.h>

#include <cstring>

#include "fewbit/base/error.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/train/block_training.h"

namespace fewbit {
namespace {

constexpr const char* kStep = "step";
constexpr const char* kConfig = "config";
constexpr const char* kQuantizer = "quantizer";
constexpr const char* kTeacher = "teacher";

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

std::vector<size_t> shape_of(const at::Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

Dtype dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Dtype::f32;
    case at::kByte:
      return Dtype::u8;
    case at::kBool:
      return Dtype::boolean;
    default:
      throw std::logic_error("a state tensor of an unexpected type");
  }
}

}  // namespace

TrainingState::TrainingState(const ModelSpec& model, const TensorSource& start, bool with_moments)
    : spec(model), with_moments_(with_moments) {
  for (const TensorSpec& wanted : model_tensors(spec)) {
    const std::vector<int64_t> shape(wanted.shape.begin(), wanted.shape.end());
    at::Tensor value = at::empty(shape, at::kFloat);
    start.load(wanted.name, {value.data_ptr<float>(), static_cast<size_t>(value.numel())});
    tensors.push_back(trained_tensor(wanted.name, value));
    if (!with_moments) stop_training(tensors.back());
  }
}

void TrainingState::start_quantizers(const QuantizerOptions& options) {
  quantizers = make_quantizers(options, spec, tensors);
  for (TrainedTensor& tensor : tensors) {
    if (!with_moments_) stop_training(tensor);
    if (!tensor.trained) continue;
    tensor.first_moment.zero_();
    tensor.second_moment.zero_();
  }
}

void TrainingState::finish_quantizers(const QuantizerOptions& options) {
  if (options.scales_only) freeze_all_but_scales(options, quantizers, tensors);
}

void TrainingState::keep_teacher() {
  for (size_t t = 0; t < model_tensors(spec).size(); ++t) {
    teacher[tensors[t].name] = tensors[t].value.clone();
  }
}

std::vector<TrainingState::Part> TrainingState::parts() const {
  std::vector<Part> all;
  for (const TrainedTensor& tensor : tensors) {
    all.push_back({"weight." + tensor.name, tensor.value});
    if (!tensor.trained) continue;
    all.push_back({"first_moment." + tensor.name, tensor.first_moment});
    all.push_back({"second_moment." + tensor.name, tensor.second_moment});
  }
  for (const QuantizerTensor& buffer : quantizers.buffers()) {
    all.push_back({"buffer." + buffer.name, buffer.tensor});
  }
  for (const auto& [name, value] : teacher) all.push_back({"teacher." + name, value});
  return all;
}

void TrainingState::save(const std::filesystem::path& path, const std::string& config_hash) const {
  std::vector<TensorToWrite> writes;
  for (const Part& part : parts()) {
    writes.push_back({part.name, dtype_of(part.value), shape_of(part.value), bytes_of(part.value)});
  }
  std::map<std::string, std::string> metadata = spikes.save();
  metadata[kStep] = std::to_string(step);
  metadata[kConfig] = config_hash;
  metadata[kQuantizer] = quantized() ? "1" : "0";
  metadata[kTeacher] = teacher.empty() ? "0" : "1";
  write_safetensors(path, writes, metadata);
}

void TrainingState::load(const std::filesystem::path& path, const std::string& config_hash,
                         const QuantizerOptions& options) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  require(file.metadata(kConfig) == config_hash,
          "{}: the state of a run with another configuration", path.string());
  const auto holds = [&](const char* key) {
    const auto found = file.metadata().find(key);
    return found != file.metadata().end() && found->second == "1";
  };
  if (holds(kTeacher)) keep_teacher();  // Makes the room; the values follow.
  if (holds(kQuantizer)) {
    start_quantizers(options);
    finish_quantizers(options);
  }
  for (const Part& part : parts()) {
    const TensorView& stored = file.tensor(part.name);
    require(stored.dtype == dtype_of(part.value) && stored.shape == shape_of(part.value),
            "{}: tensor {} has another type or shape", path.string(), stored.name);
    std::memcpy(part.value.data_ptr(), stored.bytes.data(), stored.bytes.size());
  }
  spikes.load(file.metadata());
  step = std::stoull(file.metadata(kStep));
}

std::shared_ptr<TensorSource> TrainingState::snapshot() const {
  const at::NoGradGuard no_gradient;
  std::map<size_t, at::Tensor> unpacked;
  for (const QuantizedLayer& layer : quantizers.layers) {
    if (!layer.quantizer->packs()) {
      unpacked[layer.weight] = layer.quantizer->forward(layer.latent);
    }
  }
  std::vector<std::pair<std::string, MemoryTensorSource::Tensor>> copies;
  for (size_t t = 0; t < model_tensors(spec).size(); ++t) {
    const auto found = unpacked.find(t);
    const at::Tensor value =
        (found == unpacked.end() ? tensors[t].value : found->second).contiguous();
    const float* values = value.data_ptr<float>();
    copies.push_back({tensors[t].name, {shape_of(value), {values, values + value.numel()}}});
  }
  return std::make_shared<MemoryTensorSource>(std::move(copies));
}

}  // namespace fewbit
