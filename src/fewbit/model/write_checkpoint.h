// Writing checkpoints: Hugging Face directories that other tools open, and fewbit directories,
// which hold codes, or a model that no family's config.json can state. Directories appear whole or
// not at all; the same input gives the same bytes. One stored tensor is in memory at a time.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/formats/quantized_matrix.h"
#include "fewbit/io/hf_directory.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/model/model_spec.h"
#include "fewbit/model/tensor_source.h"

namespace fewbit {

enum class WriteDtype {
  f32,
  f16,
  bf16,
  exact  // Per tensor the smallest of the three that holds every value exactly.
};
// "f32", "f16", "bf16" or "exact"; Error for other words.
WriteDtype parse_write_dtype(std::string_view word);

struct WriteOptions {
  WriteDtype dtype = WriteDtype::f32;
  bool replace = false;  // An existing directory is replaced; otherwise it is an Error.
  size_t max_shard_bytes = HfDirectoryWriter::kDefaultShardBytes;
  std::optional<TrainingRecord> training;
  // See Checkpoint::activations; fewbit directories only.
  Json activations;
  // Files copied beside the weights under their own names.
  std::vector<std::filesystem::path> copied_files;
  // Text files by name: what made the model, for instance.
  std::map<std::string, std::string> texts;
};

// The files beside a checkpoint's weights that a copy should keep: tokenizer, generation settings.
std::vector<std::filesystem::path> companion_files(const Checkpoint& checkpoint);

// Config, names, fusion and layout of the family that spec.architecture names. Error if the family
// cannot state the spec. A value beyond the range of f16 is an Error that names the tensor.
void write_hf_checkpoint(const std::filesystem::path& directory, const ModelSpec& spec,
                         const TensorSource& tensors, const WriteOptions& options = {});

// `quantized`: linears by layer name ("blocks.3.attn.q") whose codes are stored in place of floats.
// Opened again, load(layer + ".weight") gives their dequantized values bit for bit.
void write_fewbit_checkpoint(const std::filesystem::path& directory, const ModelSpec& spec,
                             const TensorSource& tensors,
                             const std::map<std::string, QuantizedMatrix, std::less<>>& quantized,
                             const WriteOptions& options = {.dtype = WriteDtype::exact});

}  // namespace fewbit
