// Time and memory of a run before it starts.
#pragma once

#include <cstdint>

#include "fewbit/train/training_run.h"

namespace fewbit {

struct RunEstimate {
  double flops = 0;            // 6 N D and attention; a teacher adds its forward pass
  uint64_t state_bytes = 0;    // weights, moments, a teacher's weights
  uint64_t working_bytes = 0;  // gradients of the shards, fake-quantized weights, activations
  // Of the quantized linears in the file, all overhead aside: nominal bits times weights.
  uint64_t packed_bytes = 0;
  uint64_t memory_bytes() const { return state_bytes + working_bytes; }
};
// `threads`: that run shards at a time.
RunEstimate estimate(const TrainingRun& run, size_t threads);

// Seconds per update of the run's dearer phase on this machine as it is now: the median of a few
// on random tokens. Takes the memory of the run.
double timed_step(const TrainingRun& run);

}  // namespace fewbit
