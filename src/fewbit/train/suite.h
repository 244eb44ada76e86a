// suite.toml: a whole suite of training runs in one file (docs/guide/train.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "fewbit/train/training_run.h"

namespace fewbit {

struct SuiteTokenizer {
  bool byte_level = true;  // ids are bytes
  size_t vocabulary = 0;   // of a trained BPE
};

struct Suite {
  std::string title;
  std::vector<std::filesystem::path> texts;  // joined in this order
  SuiteTokenizer tokenizer;
  // One per model and seed. Without `init`, spec.vocab_size is 0 until the tokenizer is known
  // (set_vocabulary); with it, spec and tokenizer are the checkpoint's.
  std::vector<TrainingRun> runs;

  // Relative paths are relative to the file. Errors name file and key.
  static Suite read(const std::filesystem::path& path);
  static Suite parse(std::string_view text, const std::filesystem::path& path);
  void set_vocabulary(size_t size);
};

// A Llama-shaped decoder: RMSNorm, rotary positions, gated SiLU MLP. `ffn_size` 0: 8/3 of hidden,
// rounded up to a multiple of 32, so that a block has about 12 hidden^2 parameters.
ModelSpec llama_spec(size_t layers, size_t hidden, size_t heads, size_t ffn_size, size_t context,
                     bool tied_head);

// `count` token counts from `first` to `last`, evenly spaced in the logarithm.
std::vector<uint64_t> log_spaced(uint64_t first, uint64_t last, size_t count);

}  // namespace fewbit
