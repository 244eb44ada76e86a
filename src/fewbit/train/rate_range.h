// Learning-rate range test (Smith, arXiv 1506.01186): a short training whose rate grows
// geometrically, to see where the loss falls and where it breaks away.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fewbit/train/training_run.h"

namespace fewbit {

struct RateRange {
  double from = 1e-6, to = 1;
  uint64_t steps = 100;
};

struct RatePoint {
  double rate = 0, loss = 0;
  double smoothed = 0;  // Exponential mean of the losses so far, bias-corrected.
};

struct RateRangeResult {
  std::vector<RatePoint> points;  // Ends where the loss is not finite or far above its lowest.
  double lowest = 0;              // Rate at the lowest smoothed loss.
  double suggested = 0;           // A third of it: the peak of a schedule is held for longer.
};

// The first steps of the run, whatever its schedule says; under quantizers only if they start at
// once.
RateRangeResult test_rate_range(const TrainingRun& run, std::span<const int32_t> tokens,
                                const RateRange& range);

}  // namespace fewbit
