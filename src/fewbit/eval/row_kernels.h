// Reductions over one row of logits, vectorised for the machine at hand (Highway dispatch). Sums
// are double. Not for use outside eval/: token_loss.h checks what these assume.
#pragma once

#include <cstddef>

namespace fewbit {

struct RowPeak {
  float max = 0;
  size_t argmax = 0;  // Lowest index of the maximum; undefined with a NaN.
  bool has_nan = false;
};
// count > 0.
RowPeak row_peak(const float* row, size_t count);

// sum_v exp(row[v] - max).
double row_exp_sum(const float* row, size_t count, float max);

struct PairSums {
  double base = 0;       // sum_v exp(p[v] - p_max)
  double quantized = 0;  // sum_v exp(q[v] - q_max)
  // sum_v exp(p[v] - p_max) ((p[v] - p_max) - (q[v] - q_max)); a token that the base gives no
  // probability adds nothing.
  double weighted_difference = 0;
};
PairSums row_pair_sums(const float* p, const float* q, size_t count, float p_max, float q_max);

}  // namespace fewbit
