// Accumulates H = X^t X of a linear layer's inputs.
//
// Inputs come in panels [tokens, features] of floats; H is kept in double. Sums of float panels are
// formed in float over at most kHessianPanel tokens and then added in double, so H does not lose
// small entries however many tokens come. The result depends on the panels given and their order,
// never on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fewbit/base/matrix.h"

namespace fewbit {

class HessianAccumulator {
 public:
  HessianAccumulator() = default;
  explicit HessianAccumulator(size_t features);

  // H += X^t X. Error unless `inputs` has features() columns.
  void add(MatrixView<const float> inputs);
  // Adds another shard of the same width.
  void merge(const HessianAccumulator& other);

  size_t features() const { return sum_.rows(); }
  uint64_t tokens() const { return tokens_; }
  // Upper triangle of X^t X, unscaled; the lower triangle is 0.
  const DoubleMatrix& sum() const { return sum_; }
  // scale * X^t X, symmetric. GPTQ's H has scale 2 / sequences.
  DoubleMatrix symmetric(double scale) const;

 private:
  DoubleMatrix sum_;
  uint64_t tokens_ = 0;
};

}  // namespace fewbit
