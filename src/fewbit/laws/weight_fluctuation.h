// How much weights move between checkpoints, against the error that quantization makes (Fig 12 of
// Ouyang et al., arXiv 2411.17691).
//
// Changes are raw, or divided by rms(w) or by the square root of the tokens between the checkpoints
// (log-spaced checkpoints are not equally far apart). Under a decaying learning rate changes shrink
// by construction: show the learning rate beside them.
#pragma once

#include <span>

namespace fewbit {

struct FluctuationStatistics {
  double mean = 0, standard_deviation = 0;  // ddof 0
  double q1 = 0, median = 0, q3 = 0;        // type 7
  // Extreme changes within 1.5 interquartile ranges of the quartiles (Tukey).
  double lower_whisker = 0, upper_whisker = 0;
  double mean_abs = 0, rms = 0;
  double share_outside = 0;  // of the changes beyond the whiskers
};

// Of after - before, times `scale`. Equal sizes, not empty.
FluctuationStatistics fluctuation(std::span<const float> before, std::span<const float> after,
                                  double scale = 1);

double root_mean_square(std::span<const float> values);

// rms(quantized - original) / rms(after - before); `original` is usually `after`. The paper's
// argument predicts that QiD rises when this passes about 1. Infinite if the weights did not move.
double quantization_to_update_ratio(std::span<const float> before, std::span<const float> after,
                                    std::span<const float> original,
                                    std::span<const float> quantized);

}  // namespace fewbit
