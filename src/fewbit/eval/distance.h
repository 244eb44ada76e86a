// Distance of a quantized model from its base over many tokens: means with errors, percentiles,
// agreement. Definitions as in llama.cpp's perplexity tool (docs/guide/eval.md).
//
// The error of a mean is se(x) = sqrt((mean(x^2) - mean(x)^2) / (n - 1)), 0 for n <= 10. It takes
// tokens as independent, which they are not within a window: it is optimistic. The errors of
// LossResult, taken over windows, are the honest ones.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/base/statistics.h"
#include "fewbit/eval/token_loss.h"

namespace fewbit {

struct QuantileValue {
  double fraction = 0;
  std::string key;  // "p999" = 99.9 %, "median", "p05" = 5 %, "p001" = 0.1 %
  double value = 0;
};

// Mean with error, extremes, quantiles from high to low.
struct Distribution {
  Estimate mean;
  double max = 0, min = 0;
  std::vector<QuantileValue> quantiles;
};

struct DistanceSummary {
  size_t count = 0;
  Estimate ppl_quantized, ppl_base;
  double correlation = 0;  // Of the two models' token losses.
  Estimate ln_ratio;       // ln(ppl_quantized / ppl_base)
  Estimate ratio;
  Estimate ppl_difference;
  Distribution kld;     // Nats.
  Distribution p_diff;  // As a fraction, not in %.
  Estimate p_diff_rms;
  Estimate same_top;  // Share of tokens whose argmax is the same.
};

// `tokens` holds at least one.
DistanceSummary summarize_distance(std::span<const TokenComparison> tokens);

// Flat: count, ppl_q, ppl_q_unc, ..., kld_mean, kld_unc, kld_p999, ..., same_top, same_top_unc.
Json to_json(const DistanceSummary& summary);

// Mean and se() above.
Estimate token_mean(std::span<const double> values);

}  // namespace fewbit
