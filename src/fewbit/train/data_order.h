// Which windows of the training text a step reads: a pure function of (seed, step), independent of
// threads and of the model, so that every size and bit width sees identical batches and a resumed
// run continues exactly.
//
// The text is cut into windows of `context` tokens (each with the token behind it as last target).
// An epoch is a permutation of all windows keyed by (seed, epoch); the remainder of the text is
// dropped.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace fewbit {

struct TrainingBatch {
  at::Tensor inputs, targets;  // [sequences, context] int64
};

class DataOrder {
 public:
  // `tokens` is borrowed. Error if it holds no whole window.
  DataOrder(std::span<const int32_t> tokens, size_t context, size_t sequences, uint64_t seed);

  // The batch of update `step`, counted from 0. Not thread-safe.
  TrainingBatch batch(uint64_t step);
  size_t windows() const { return windows_; }

 private:
  uint32_t window_at(uint64_t position);

  std::span<const int32_t> tokens_;
  size_t context_, sequences_, windows_;
  uint64_t seed_;
  // Permutation of the epoch in use.
  uint64_t epoch_ = UINT64_MAX;
  std::vector<uint32_t> order_;
};

}  // namespace fewbit
