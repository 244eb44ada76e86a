#include "fewbit/train/rate_range.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/train/trainer.h"

namespace fewbit {
namespace {

constexpr double kSmoothing = 0.9;
// Nats above the lowest smoothed loss that count as broken away.
constexpr double kBrokenAway = 1;
constexpr double kSuggestedShare = 1.0 / 3;

}  // namespace

RateRangeResult test_rate_range(const TrainingRun& run, std::span<const int32_t> tokens,
                                const RateRange& range) {
  require(range.from > 0 && range.to > range.from,
          "a range of learning rates from {} to {}: they must be positive and rise", range.from,
          range.to);
  require(range.steps >= 2, "a range test of {} steps; at least 2 are needed", range.steps);
  TrainingRun tested = run;
  // Losses that are not finite end the test here, not with an error.
  tested.spikes = SpikePolicy{.norm_factor = HUGE_VAL, .loss_rise = HUGE_VAL};
  tested.total_tokens = std::max(run.total_tokens, range.steps * run.tokens_per_step());
  Trainer trainer(tested, tokens);
  RateRangeResult result;
  double mean = 0, lowest = HUGE_VAL;
  for (uint64_t step = 0; step < range.steps; ++step) {
    const double part = static_cast<double>(step) / static_cast<double>(range.steps - 1);
    const double rate = range.from * std::pow(range.to / range.from, part);
    const Update update = trainer.update(rate);
    if (update.verdict != SpikeGuard::Verdict::accept) break;
    mean = kSmoothing * mean + (1 - kSmoothing) * update.loss;
    const double smoothed = mean / (1 - std::pow(kSmoothing, static_cast<double>(step + 1)));
    result.points.push_back({rate, update.loss, smoothed});
    if (smoothed < lowest) {
      lowest = smoothed;
      result.lowest = rate;
    }
    if (smoothed > lowest + kBrokenAway) break;
  }
  result.suggested = result.lowest * kSuggestedShare;
  return result;
}

}  // namespace fewbit
