// LayerStats: what a pass may know of the inputs of a step. A pass declares which statistics it
// needs (StatsRequest); only those are kept. Two shards of the same step merge exactly in the order
// in which they are merged, so that results do not depend on the number of threads.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "fewbit/base/matrix.h"

namespace fewbit {

struct StatsRequest {
  bool gram = false;          // sum over tokens of x x^T
  bool mean_absolute = false; // sum over tokens of |x|, by input column

  bool any() const { return gram || mean_absolute; }
  StatsRequest operator|(const StatsRequest& other) const {
    return {gram || other.gram, mean_absolute || other.mean_absolute};
  }
};

class LayerStats {
 public:
  LayerStats() = default;
  LayerStats(size_t in_features, StatsRequest request);

  // `inputs` [.., in_features] float32 on any device. Error if a value is not finite: the message
  // names `site`.
  void add(const at::Tensor& inputs, const std::string& site);
  void merge(const LayerStats& other);

  uint64_t tokens() const { return tokens_; }
  // Columns whose input was never different from zero.
  std::vector<bool> dead_columns() const;
  // H = (2 / tokens) sum x x^T [in, in], double (GPTQ's Hessian up to its scale).
  DoubleMatrix hessian() const;
  // Mean of |x| by column.
  std::vector<double> mean_absolute() const;

 private:
  size_t in_features_ = 0;
  StatsRequest request_;
  uint64_t tokens_ = 0;
  DoubleMatrix gram_;
  std::vector<double> absolute_;
};

}  // namespace fewbit
