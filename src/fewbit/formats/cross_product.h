// Accumulates D = A^t B of two panels of activations of the same tokens: how the inputs of a layer
// in one run of a network (A: their difference from another run) go with those in the other (B).
//
// Sums as HessianAccumulator's: in float over at most 256 tokens, then in double; the result
// depends on the panels and their order, never on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fewbit/base/matrix.h"

namespace fewbit {

class CrossProductAccumulator {
 public:
  CrossProductAccumulator() = default;
  explicit CrossProductAccumulator(size_t features);

  // D += left^t right. Error unless both have features() columns and as many rows.
  void add(MatrixView<const float> left, MatrixView<const float> right);
  void merge(const CrossProductAccumulator& other);

  size_t features() const { return features_; }
  // scale * A^t B: row = feature of A.
  DoubleMatrix scaled(double scale) const;

 private:
  DoubleMatrix sum_;  // Padded to whole tiles.
  size_t features_ = 0;
};

}  // namespace fewbit
