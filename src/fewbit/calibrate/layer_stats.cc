#include "fewbit/calibrate/layer_stats.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// Rows of tokens on the CPU; Error if a value is not finite.
at::Tensor rows_of(const at::Tensor& inputs, size_t in_features, const std::string& site) {
  const at::Tensor rows =
      inputs.detach().reshape({-1, inputs.size(-1)}).to(at::kCPU, at::kFloat).contiguous();
  require(static_cast<size_t>(rows.size(1)) == in_features,
          "{}: inputs have {} features, statistics {}", site, rows.size(1), in_features);
  // The sum is finite unless a value is not (or the values are absurdly large).
  require(rows.numel() == 0 || at::isfinite(rows.abs().sum()).item<bool>(),
          "{}: the calibration inputs hold NaN or infinite values", site);
  return rows;
}

MatrixView<const float> view_of(const at::Tensor& rows) {
  return {rows.data_ptr<float>(), static_cast<size_t>(rows.size(0)),
          static_cast<size_t>(rows.size(1))};
}

}  // namespace

LayerStats::LayerStats(size_t in_features, StatsRequest request)
    : in_features_(in_features), request_(request) {
  if (request.hessian) hessian_ = HessianAccumulator(in_features);
  for (size_t first = 0; request.hessian_block > 0 && first < in_features;
       first += request.hessian_block) {
    hessian_blocks_.emplace_back(std::min(request.hessian_block, in_features - first));
  }
  if (request.drift) drift_ = CrossProductAccumulator(in_features);
  if (request.mean_absolute) absolute_.assign(in_features, 0.0);
  if (request.max_absolute) largest_.assign(in_features, 0.0);
}

void LayerStats::add(const at::Tensor& inputs, const std::string& site) {
  const at::Tensor rows = rows_of(inputs, in_features_, site);
  if (rows.size(0) == 0) return;
  tokens_ += static_cast<uint64_t>(rows.size(0));
  const MatrixView<const float> panel = view_of(rows);
  if (request_.hessian) hessian_.add(panel);
  for (size_t i = 0; i < hessian_blocks_.size(); ++i) {
    HessianAccumulator& block = hessian_blocks_[i];
    block.add(panel.cols_from(i * request_.hessian_block, block.features()));
  }
  if (request_.mean_absolute) {
    for (size_t t = 0; t < panel.rows(); ++t) {
      const auto row = panel.row(t);
      for (size_t c = 0; c < in_features_; ++c) absolute_[c] += std::fabs(row[c]);
    }
  }
  if (request_.max_absolute) {
    for (size_t t = 0; t < panel.rows(); ++t) {
      const auto row = panel.row(t);
      for (size_t c = 0; c < in_features_; ++c) {
        largest_[c] = std::max<double>(largest_[c], std::fabs(row[c]));
      }
    }
  }
}

void LayerStats::add(const at::Tensor& inputs, const at::Tensor& exact, const std::string& site) {
  require(inputs.sizes() == exact.sizes(),
          "{}: the quantized and the full-precision run have inputs of different shapes", site);
  add(inputs, site);
  if (!request_.drift || inputs.numel() == 0) return;
  const at::Tensor rows = rows_of(inputs, in_features_, site);
  const at::Tensor difference = rows_of(exact, in_features_, site) - rows;
  drift_.add(view_of(difference), view_of(rows));
}

void LayerStats::merge(const LayerStats& other) {
  require(other.in_features_ == in_features_, "statistics of {} and {} features cannot be merged",
          in_features_, other.in_features_);
  tokens_ += other.tokens_;
  if (request_.hessian) hessian_.merge(other.hessian_);
  for (size_t i = 0; i < hessian_blocks_.size(); ++i) {
    hessian_blocks_[i].merge(other.hessian_blocks_.at(i));
  }
  if (request_.drift) drift_.merge(other.drift_);
  for (size_t c = 0; c < absolute_.size(); ++c) absolute_[c] += other.absolute_[c];
  for (size_t c = 0; c < largest_.size(); ++c) {
    largest_[c] = std::max(largest_[c], other.largest_[c]);
  }
}

DoubleMatrix LayerStats::hessian() const {
  require(tokens_ > 0 && request_.hessian, "no Hessian was collected");
  return hessian_.symmetric(2.0 / static_cast<double>(tokens_));
}

DoubleMatrix LayerStats::hessian_block(size_t index) const {
  require(tokens_ > 0 && index < hessian_blocks_.size(), "no block {} of a Hessian was collected",
          index);
  return hessian_blocks_[index].symmetric(2.0 / static_cast<double>(tokens_));
}

DoubleMatrix LayerStats::drift() const {
  require(tokens_ > 0 && request_.drift, "no drift of inputs was collected");
  return drift_.scaled(2.0 / static_cast<double>(tokens_));
}

std::vector<double> LayerStats::mean_absolute() const {
  require(tokens_ > 0 && request_.mean_absolute, "no means were collected");
  std::vector<double> mean = absolute_;
  for (double& value : mean) value /= static_cast<double>(tokens_);
  return mean;
}

std::vector<double> LayerStats::max_absolute() const {
  require(tokens_ > 0 && request_.max_absolute, "no maxima were collected");
  return largest_;
}

}  // namespace fewbit
