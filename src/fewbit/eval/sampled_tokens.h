// Text that a model writes itself, token by token: what a model without a tokenizer is evaluated
// on. Its own loss there estimates its entropy, and the rise of a quantized model's loss over it is
// an unbiased estimate of KL(model || quantized) per token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fewbit/base/progress.h"
#include "fewbit/model/language_model.h"

namespace fewbit {

struct SampleOptions {
  size_t sequences = 1;
  size_t length = 0;  // Tokens of a sequence, behind BOS; the context must hold them.
  int32_t bos = 0;
  uint64_t seed = 0;
  double temperature = 1;  // 0: the most likely token.
  // Tokens that may be drawn: ids below; 0: all of the model's.
  size_t vocabulary = 0;
  size_t batch = 64;  // Sequences that run together.
  Progress::Mode progress = Progress::Mode::off;
};

// The sequences without their BOS. Every sequence has a random stream of its own, so that the first
// ones are the same however many are asked for. Without a cache: costs length^2 / 2 tokens each.
std::vector<std::vector<int32_t>> sample_sequences(LanguageModel& model,
                                                   const SampleOptions& options);

}  // namespace fewbit
