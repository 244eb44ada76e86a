// Loss of tokens under rows of logits, and the distance of one model's rows from another's.
//
// With lp = z - logsumexp(z) in nats:
//   nll     -lp[y], y the token to predict
//   kld     sum_v exp(lp[v]) (lp[v] - lq[v]) = KL(base || quantized)
//   p_diff  exp(lq[y]) - exp(lp[y])
// Logits are float, every exponential and sum is double; the argmax of equal values is the lowest
// index. A row is handled by one thread, so results do not depend on the number of threads.
//
// Cost: two passes over a row (maximum, sum); a row of 50,000 logits takes some 20 us a core.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "fewbit/base/matrix.h"

namespace fewbit {

struct TokenScore {
  double nll = 0;
  bool hit = false;  // The target is the argmax.
};

struct TokenComparison {
  double nll_base = 0, nll_quantized = 0;
  double kld = 0;
  double p_diff = 0;
  bool same_top = false;
  bool hit_base = false, hit_quantized = false;
};

// Row i of `logits` predicts targets[i]. Errors: a target outside the row; logits that hold a NaN
// or +infinity, or -infinity only, which no probability comes from.
void score_rows(MatrixView<const float> logits, std::span<const int32_t> targets,
                std::span<TokenScore> out);

// Both panels over the same targets and the same vocabulary.
void compare_rows(MatrixView<const float> base, MatrixView<const float> quantized,
                  std::span<const int32_t> targets, std::span<TokenComparison> out);

// What the softmax of a row needs: max z, ln sum exp(z - max), and where the maximum stands.
struct RowSum {
  float max = 0;
  double log_sum = 0;
  size_t argmax = 0;
};
RowSum row_sum(std::span<const float> logits);

// log-probabilities of a row into `out`, of equal size.
void log_softmax_row(std::span<const float> logits, std::span<double> out);

}  // namespace fewbit
