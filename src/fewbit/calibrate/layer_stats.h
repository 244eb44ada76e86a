// LayerStats: what a pass may know of the inputs of a step. A pass declares which statistics it
// needs (StatsRequest); only those are kept. Two shards of the same step merge exactly in the order
// in which they are merged, so that results do not depend on the number of threads.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/formats/cross_product.h"
#include "fewbit/formats/hessian.h"

namespace fewbit {

struct StatsRequest {
  bool hessian = false;        // sum over tokens of x x^T
  size_t hessian_block = 0;    // not 0: of it, the diagonal blocks of so many columns
  bool mean_absolute = false;  // sum over tokens of |x|, by input column
  bool max_absolute = false;   // max over tokens of |x|, by input column
  // sum over tokens of (x_exact - x) x^T, x_exact the input of the same token in the exact stream
  bool drift = false;
};

class LayerStats {
 public:
  LayerStats() = default;
  LayerStats(size_t in_features, StatsRequest request);

  // `inputs` [.., in_features] float32. Error if a value is not finite: the message names `site`.
  void add(const at::Tensor& inputs, const std::string& site);
  // The same with what stands there in the exact stream, of the same shape, for request.drift.
  void add(const at::Tensor& inputs, const at::Tensor& exact, const std::string& site);
  void merge(const LayerStats& other);

  uint64_t tokens() const { return tokens_; }
  // H = (2 / tokens) sum x x^T [in, in], GPTQ's Hessian up to its scale. Error without tokens.
  DoubleMatrix hessian() const;
  // The diagonal block of H that begins at column index * request.hessian_block; the last may be
  // smaller. Error without tokens.
  DoubleMatrix hessian_block(size_t index) const;
  // D = (2 / tokens) sum (x_exact - x) x^T [in, in]: row = column of the difference. Error without
  // tokens.
  DoubleMatrix drift() const;
  // Mean of |x| by column. Error without tokens.
  std::vector<double> mean_absolute() const;
  // Largest |x| by column. Error without tokens.
  std::vector<double> max_absolute() const;

 private:
  size_t in_features_ = 0;
  StatsRequest request_;
  uint64_t tokens_ = 0;
  HessianAccumulator hessian_;
  std::vector<HessianAccumulator> hessian_blocks_;
  CrossProductAccumulator drift_;
  std::vector<double> absolute_, largest_;
};

}  // namespace fewbit
