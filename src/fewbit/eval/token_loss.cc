#include "fewbit/eval/token_loss.h"

#include <cmath>
#include <limits>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/eval/row_kernels.h"

namespace fewbit {
namespace {

// Rows that a thread takes at once: enough work beside the hand-over, small enough to balance.
size_t rows_per_chunk(size_t columns) {
  constexpr size_t kLogitsPerChunk = 16384;
  return std::max<size_t>(1, kLogitsPerChunk / std::max<size_t>(1, columns));
}

RowSum checked_row_sum(const float* logits, size_t count) {
  const RowPeak peak = row_peak(logits, count);
  // A NaN anywhere, or a maximum that is not a number to subtract.
  require(!peak.has_nan && std::isfinite(peak.max), "the model's logits are not finite: {}",
          peak.has_nan ? "a row holds NaN" : "the largest of a row is infinite");
  return {peak.max, std::log(row_exp_sum(logits, count, peak.max)), peak.argmax};
}

void check_targets(std::span<const int32_t> targets, size_t vocabulary) {
  for (const int32_t target : targets) {
    require(target >= 0 && static_cast<size_t>(target) < vocabulary,
            "token {} is outside the vocabulary of {} tokens", target, vocabulary);
  }
}

}  // namespace

RowSum row_sum(std::span<const float> logits) {
  require(!logits.empty(), "a row of no logits");
  return checked_row_sum(logits.data(), logits.size());
}

void log_softmax_row(std::span<const float> logits, std::span<double> out) {
  require(out.size() == logits.size(), "{} log-probabilities for {} logits", out.size(),
          logits.size());
  const RowSum sum = row_sum(logits);
  for (size_t i = 0; i < logits.size(); ++i) {
    out[i] = static_cast<double>(logits[i]) - static_cast<double>(sum.max) - sum.log_sum;
  }
}

void score_rows(MatrixView<const float> logits, std::span<const int32_t> targets,
                std::span<TokenScore> out) {
  require(targets.size() == logits.rows() && out.size() == logits.rows(),
          "{} rows of logits for {} targets and {} scores", logits.rows(), targets.size(),
          out.size());
  check_targets(targets, logits.cols());
  parallel_for_chunks(logits.rows(), rows_per_chunk(logits.cols()), [&](size_t first, size_t last) {
    for (size_t r = first; r < last; ++r) {
      const float* row = logits.row(r).data();
      const size_t target = static_cast<size_t>(targets[r]);
      const RowSum sum = checked_row_sum(row, logits.cols());
      out[r].nll = static_cast<double>(sum.max) - static_cast<double>(row[target]) + sum.log_sum;
      out[r].hit = sum.argmax == target;
    }
  });
}

void compare_rows(MatrixView<const float> base, MatrixView<const float> quantized,
                  std::span<const int32_t> targets, std::span<TokenComparison> out) {
  require(base.rows() == quantized.rows() && base.cols() == quantized.cols(),
          "logits of [{}, {}] against [{}, {}]", base.rows(), base.cols(), quantized.rows(),
          quantized.cols());
  require(targets.size() == base.rows() && out.size() == base.rows(),
          "{} rows of logits for {} targets and {} comparisons", base.rows(), targets.size(),
          out.size());
  check_targets(targets, base.cols());
  const size_t columns = base.cols();
  parallel_for_chunks(base.rows(), rows_per_chunk(columns), [&](size_t first, size_t last) {
    for (size_t r = first; r < last; ++r) {
      const float* p = base.row(r).data();
      const float* q = quantized.row(r).data();
      const size_t target = static_cast<size_t>(targets[r]);
      const RowPeak p_peak = row_peak(p, columns), q_peak = row_peak(q, columns);
      require(!p_peak.has_nan && std::isfinite(p_peak.max),
              "the reference model's logits are not finite");
      require(!q_peak.has_nan && std::isfinite(q_peak.max),
              "the quantized model's logits are not finite");
      const PairSums sums = row_pair_sums(p, q, columns, p_peak.max, q_peak.max);
      const double log_p = std::log(sums.base), log_q = std::log(sums.quantized);
      TokenComparison& c = out[r];
      c.nll_base = static_cast<double>(p_peak.max) - static_cast<double>(p[target]) + log_p;
      c.nll_quantized = static_cast<double>(q_peak.max) - static_cast<double>(q[target]) + log_q;
      // sum p (lp - lq), with the sums taken relative to each row's maximum.
      c.kld = sums.weighted_difference / sums.base - (log_p - log_q);
      c.p_diff = std::exp(-c.nll_quantized) - std::exp(-c.nll_base);
      c.same_top = p_peak.argmax == q_peak.argmax;
      c.hit_base = p_peak.argmax == target;
      c.hit_quantized = q_peak.argmax == target;
    }
  });
}

}  // namespace fewbit
