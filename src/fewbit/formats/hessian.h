// Accumulates H = X^t X of a linear layer's inputs.
//
// Inputs come in panels [tokens, features] of floats; H is kept in double. Sums of float panels are
// formed in float over at most 256 tokens and then added in double, so H does not lose
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
  // Adds another shard of the same width: shards in a fixed order give the same bits.
  void merge(const HessianAccumulator& other);

  size_t features() const { return features_; }
  uint64_t tokens() const { return tokens_; }
  // scale * X^t X, symmetric. GPTQ's H has scale 2 / sequences.
  DoubleMatrix symmetric(double scale) const;

 private:
  DoubleMatrix sum_;  // Padded to whole tiles; tiles on and above the diagonal.
  size_t features_ = 0;
  uint64_t tokens_ = 0;
};

}  // namespace fewbit
