#include "fewbit/calibrate/quantize_model.h"

#include "fewbit/base/error.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/random.h"
#include "fewbit/io/gguf_metadata.h"
#include "fewbit/model/write_checkpoint.h"

namespace fewbit {

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
  walk_blocks(decoder, checkpoint.spec, passes, calibration, options, [&](WalkedBlock& block) {
    for (auto& [layer, matrix] : block.quantized) result.layers[layer] = std::move(matrix);
    for (LayerReport& report : block.reports) result.reports.push_back(std::move(report));
  });
  result.seconds = clock.seconds();
  return result;
}

ParameterMap dequantized_parameters(const Decoder& decoder, const QuantizedModel& model) {
  ParameterMap parameters = decoder.load_all_parameters();
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
  return {{"bpw", model.bits_per_weight()},
          {"quantized_weights", model.quantized_weights()},
          {"stored_bytes", model.stored_bytes()},
          {"calibration_tokens", model.calibration_tokens},
          {"seconds", model.seconds},
          {"layers", std::move(layers)}};
}

void write_quantized_model(const std::filesystem::path& directory, bool replace,
                           const Checkpoint& checkpoint, const QuantizedModel& model,
                           const Json& report) {
  WriteOptions options;
  options.dtype = WriteDtype::exact;
  options.replace = replace;
  options.training = checkpoint.training;
  options.copied_files = companion_files(checkpoint);
  options.texts["quantization.json"] = report.dump(1) + "\n";
  if (checkpoint.kind == CheckpointKind::gguf && checkpoint.tokenizer.gguf) {
    options.texts[kGgufTokenizerName] = gguf_metadata_bytes(*checkpoint.tokenizer.gguf);
  }
  write_fewbit_checkpoint(directory, model.spec, *checkpoint.tensors, model.layers, options);
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
