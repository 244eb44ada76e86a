#include "fewbit/calibrate/quantize_model.h"

#include <algorithm>
#include <memory>
#include <string_view>

#include "fewbit/base/error.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/random.h"
#include "fewbit/io/gguf_metadata.h"
#include "fewbit/model/write_checkpoint.h"

namespace fewbit {
namespace {

// Adds the block's tensors that have no codes and are no longer the checkpoint's. They are compared
// by value: a pass need not say what it has changed.
void gather_changed(const WalkedBlock& block, const TensorSource& source, ParameterMap& changed) {
  for (const auto& [name, tensor] : block.parameters) {
    const std::string_view layer = std::string_view(name).substr(0, name.rfind('.'));
    if (name.ends_with(".weight") && block.quantized.contains(layer)) continue;
    const at::Tensor now = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
    if (source.contains(name)) {
      std::vector<float> loaded;
      std::span<const float> before = source.borrow(name);
      if (before.empty()) {
        loaded = source.load(name);
        before = loaded;
      }
      const std::span<const float> after(now.data_ptr<float>(), static_cast<size_t>(now.numel()));
      if (std::ranges::equal(before, after)) continue;
    }
    changed[name] = now;
  }
}

std::shared_ptr<const TensorSource> overlay(const Checkpoint& checkpoint,
                                            const ParameterMap& changed) {
  if (changed.empty()) return checkpoint.tensors;
  std::vector<std::pair<std::string, MemoryTensorSource::Tensor>> tensors;
  for (const auto& [name, tensor] : changed) {
    const at::Tensor values = tensor.contiguous();
    const float* first = values.data_ptr<float>();
    tensors.emplace_back(name,
                         MemoryTensorSource::Tensor{{values.sizes().begin(), values.sizes().end()},
                                                    {first, first + values.numel()}});
  }
  return std::make_shared<OverlaySource>(checkpoint.tensors,
                                         std::make_shared<MemoryTensorSource>(std::move(tensors)));
}

}  // namespace

uint64_t QuantizedModel::quantized_weights() const {
  uint64_t weights = 0;
  for (const auto& [name, matrix] : layers) weights += matrix.weights();
  return weights;
}

uint64_t QuantizedModel::stored_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, matrix] : layers) bytes += matrix.stored_bytes();
  return bytes;
}

double QuantizedModel::bits_per_weight() const {
  const uint64_t weights = quantized_weights();
  return weights == 0 ? 0
                      : 8.0 * static_cast<double>(stored_bytes()) / static_cast<double>(weights);
}

QuantizedModel quantize_model(const Checkpoint& checkpoint,
                              std::span<const std::unique_ptr<Pass>> passes,
                              const CalibrationSet& calibration, const WalkOptions& options) {
  const Stopwatch clock;
  QuantizedModel result;
  result.spec = checkpoint.spec;
  if (calibration.tokens.defined()) {
    result.calibration_tokens = static_cast<uint64_t>(calibration.tokens.numel());
  }
  const Decoder decoder(checkpoint.spec, checkpoint.tensors);
  const bool transforms =
      std::ranges::any_of(passes, [](const auto& pass) { return pass->changes_tensors(); });
  walk_blocks(decoder, checkpoint.spec, passes, calibration, options, [&](WalkedBlock& block) {
    if (transforms) gather_changed(block, *checkpoint.tensors, result.changed);
    for (auto& [layer, matrix] : block.quantized) result.layers[layer] = std::move(matrix);
    for (LayerReport& report : block.reports) result.reports.push_back(std::move(report));
    for (TransformReport& report : block.transforms) {
      result.transforms.push_back(std::move(report));
    }
  });
  result.seconds = clock.seconds();
  return result;
}

ParameterMap dequantized_parameters(const Decoder& decoder, const QuantizedModel& model) {
  ParameterMap parameters = decoder.load_all_parameters();
  for (const auto& [name, tensor] : model.changed) {
    parameters[name] = tensor.to(decoder.device());
  }
  for (const auto& [layer, matrix] : model.layers) {
    const auto found = parameters.find(layer + ".weight");
    require(found != parameters.end(), "{}: the model has no such layer", layer);
    at::Tensor weight = at::empty(
        {static_cast<int64_t>(matrix.rows()), static_cast<int64_t>(matrix.cols())}, at::kFloat);
    matrix.dequantize_rows(0, {weight.data_ptr<float>(), matrix.rows(), matrix.cols()});
    found->second = weight.to(found->second.device());
  }
  return parameters;
}

Json to_json(const QuantizedModel& model) {
  Json layers = Json::array();
  for (const LayerReport& report : model.reports) {
    Json layer = {{"layer", report.layer},
                  {"method", report.method},
                  {"bpw", report.bits_per_weight},
                  {"relative_error", report.relative_error},
                  {"seconds", report.seconds}};
    if (report.objective) layer["objective"] = *report.objective;
    if (!report.warnings.empty()) layer["warnings"] = report.warnings;
    layers.push_back(std::move(layer));
  }
  Json transforms = Json::array();
  for (const TransformReport& report : model.transforms) {
    Json transform = {{"where", report.where},
                      {"method", report.method},
                      {"detail", report.detail},
                      {"seconds", report.seconds}};
    if (report.objective_before) transform["objective_before"] = *report.objective_before;
    if (report.objective_after) transform["objective_after"] = *report.objective_after;
    if (!report.warnings.empty()) transform["warnings"] = report.warnings;
    transforms.push_back(std::move(transform));
  }
  Json result = {{"bpw", model.bits_per_weight()},
                 {"quantized_weights", model.quantized_weights()},
                 {"stored_bytes", model.stored_bytes()},
                 {"calibration_tokens", model.calibration_tokens},
                 {"seconds", model.seconds},
                 {"layers", std::move(layers)}};
  if (!transforms.empty()) result["transforms"] = std::move(transforms);
  return result;
}

void write_quantized_model(const std::filesystem::path& directory, bool replace,
                           const Checkpoint& checkpoint, const QuantizedModel& model,
                           const Json& report) {
  WriteOptions options;
  options.dtype = WriteDtype::exact;
  options.replace = replace;
  options.training = checkpoint.training;
  options.activations = checkpoint.activations;
  options.copied_files = companion_files(checkpoint);
  options.texts["quantization.json"] = report.dump(1) + "\n";
  if (checkpoint.kind == CheckpointKind::gguf && checkpoint.tokenizer.gguf) {
    options.texts[kGgufTokenizerName] = gguf_metadata_bytes(*checkpoint.tokenizer.gguf);
  }
  write_fewbit_checkpoint(directory, model.spec, *overlay(checkpoint, model.changed), model.layers,
                          options);
}

at::Tensor sample_windows(std::span<const int32_t> tokens, size_t count, size_t length,
                          uint64_t seed) {
  require(tokens.size() >= 2, "calibration text of {} tokens; at least 2 are needed",
          tokens.size());
  require(count > 0 && length > 0, "calibration of {} windows of {} tokens", count, length);
  if (tokens.size() <= length) {
    count = 1;
    length = tokens.size();
  }
  RandomStream random(seed, "calibration");
  at::Tensor windows =
      at::empty({static_cast<int64_t>(count), static_cast<int64_t>(length)}, at::kLong);
  int64_t* out = windows.data_ptr<int64_t>();
  for (size_t w = 0; w < count; ++w) {
    const size_t first = random.below(tokens.size() - length + 1);
    for (size_t t = 0; t < length; ++t) *out++ = tokens[first + t];
  }
  return windows;
}

}  // namespace fewbit
