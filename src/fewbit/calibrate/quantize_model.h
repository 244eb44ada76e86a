// Runs the passes of a recipe over a checkpoint and gathers the result: codes by layer, tensors
// that transforms have changed, what each layer came to, what the whole costs in stored bits.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/calibrate/walk.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/network/decoder.h"

namespace fewbit {

struct QuantizedModel {
  ModelSpec spec;
  // By layer name: "blocks.3.attn.q".
  std::map<std::string, QuantizedMatrix, std::less<>> layers;
  // Tensors without codes that differ from the checkpoint's, on the CPU: norms into which a scale
  // was folded. What is in neither map is as in the checkpoint.
  ParameterMap changed;
  std::vector<LayerReport> reports;
  std::vector<TransformReport> transforms;
  double seconds = 0;
  uint64_t calibration_tokens = 0;

  uint64_t quantized_weights() const;
  uint64_t stored_bytes() const;  // Of the quantized layers.
  // Stored bits of the quantized layers over their weights, nothing left out.
  double bits_per_weight() const;
};

QuantizedModel quantize_model(const Checkpoint& checkpoint,
                              std::span<const std::unique_ptr<Pass>> passes,
                              const CalibrationSet& calibration, const WalkOptions& options);

// All parameters of the model, changed tensors replaced and quantized layers dequantized: what
// evaluation runs on.
ParameterMap dequantized_parameters(const Decoder& decoder, const QuantizedModel& model);

// Totals and layers, for --json and the recipe's report.
Json to_json(const QuantizedModel& model);

// Writes the model as a fewbit directory: packed codes, changed tensors, everything else as the
// checkpoint has it, the tokenizer (a GGUF file's vocabulary becomes tokenizer.gguf), the training
// record, and quantization.json = `report`. Opened again it computes the same logits to the bit.
void write_quantized_model(const std::filesystem::path& directory, bool replace,
                           const Checkpoint& checkpoint, const QuantizedModel& model,
                           const Json& report);

// `count` windows of `length` tokens at random offsets of `tokens`, the same for the same seed.
// A text shorter than one window gives one window of the whole text; Error below 2 tokens.
at::Tensor sample_windows(std::span<const int32_t> tokens, size_t count, size_t length,
                          uint64_t seed);

}  // namespace fewbit
