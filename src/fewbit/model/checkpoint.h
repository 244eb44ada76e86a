// Checkpoint: a model on disk, opened: what it is (ModelSpec), its tensors, where its tokenizer
// is, and what is known of its training. Everything that says MODEL on the command line goes
// through open_checkpoint().
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "fewbit/base/json.h"
#include "fewbit/model/model_spec.h"
#include "fewbit/model/tensor_source.h"

namespace fewbit {

class GgufFile;

enum class CheckpointKind {
  hf,       // A directory with config.json and safetensors, sharded or not.
  gguf,     // A .gguf file.
  llama2c,  // A llama2.c .bin file.
  fewbit    // A directory whose config.json holds "fewbit": canonical tensor names, packed codes.
};
std::string_view checkpoint_kind_name(CheckpointKind kind);

// How a checkpoint came to be; `training.json` in its directory. Absent fields are unknown.
struct TrainingRecord {
  std::string run;                 // Which run; checkpoints of one run share it.
  std::optional<uint64_t> params;  // N: non-embedding.
  std::optional<uint64_t> tokens;  // D: seen so far.
  std::optional<uint64_t> step;
  std::optional<uint64_t> batch_tokens;
  std::optional<double> learning_rate;  // At this step.
  std::optional<std::string> schedule;
  std::optional<uint64_t> seed;
  // Trained with low-bit weights: how, and their nominal bits (the mean over the quantized
  // weights).
  std::optional<std::string> quantizer;
  std::optional<double> bits;
  std::optional<uint64_t> quantized_tokens;  // Of `tokens`: those seen with the quantizer.
  std::optional<std::string> start;          // Hash of the checkpoint that the run started from.
  friend bool operator==(const TrainingRecord&, const TrainingRecord&) = default;
};
TrainingRecord read_training_record(const std::filesystem::path& path);
Json training_record_json(const TrainingRecord& record);
void write_training_record(const std::filesystem::path& path, const TrainingRecord& record);

// The vocabulary of a GGUF model inside a directory that was made from it.
inline constexpr const char* kGgufTokenizerName = "tokenizer.gguf";

// Where the tokenizer is. All absent: the checkpoint has none.
struct TokenizerSource {
  std::optional<std::filesystem::path> tokenizer_json;  // HF; tokenizer_config.json beside it.
  std::shared_ptr<const GgufFile> gguf;                 // Vocabulary in the metadata.
  bool empty() const { return !tokenizer_json && !gguf; }
};

struct Checkpoint {
  std::filesystem::path path;
  CheckpointKind kind = CheckpointKind::hf;
  ModelSpec spec;
  std::shared_ptr<const TensorSource> tensors;
  // Identity of the content for result tables: SHA-256 over config, tensor headers and a sample of
  // every tensor's bytes; reading a model of any size takes milliseconds.
  std::string hash;
  uint64_t tensor_bytes = 0;  // Of all stored tensors.
  std::optional<TrainingRecord> training;
  TokenizerSource tokenizer;
  // How the inputs of its linears are quantized (fewbit directories; null if they are not). What
  // runs the model has to apply it: activation_hooks() of train/.
  Json activations;
};

// Recognises the kind by content. Errors name the file, the key or tensor and what would be right;
// an unknown architecture or unsupported setting is refused before any tensor is read.
Checkpoint open_checkpoint(const std::filesystem::path& path);

}  // namespace fewbit
