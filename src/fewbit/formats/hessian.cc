#include "fewbit/formats/hessian.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/dense_kernels.h"
#include "fewbit/formats/panel_codes.h"

namespace fewbit {
namespace {

// Tokens summed in float before they are added in double.
constexpr size_t kHessianPanel = 256;
// Features of one task's square of H.
constexpr size_t kTile = 128;
static_assert(kTile % kProductColumns == 0);

}  // namespace

HessianAccumulator::HessianAccumulator(size_t features)
    : sum_((features + kTile - 1) / kTile * kTile, (features + kTile - 1) / kTile * kTile),
      features_(features) {}

void HessianAccumulator::add(MatrixView<const float> inputs) {
  require(inputs.cols() == features_, "inputs of {} features added to a Hessian of {}",
          inputs.cols(), features_);
  const size_t padded = sum_.rows(), tiles = padded / kTile;
  AlignedFloats rows(kHessianPanel * padded), columns(kHessianPanel * padded);
  for (size_t first = 0; first < inputs.rows(); first += kHessianPanel) {
    const size_t tokens = std::min(kHessianPanel, inputs.rows() - first);
    // The panel as it is, and transposed: [padded][kHessianPanel].
    parallel_for(tiles, [&](size_t tile) {
      const size_t begin = tile * kTile, end = std::min(begin + kTile, features_);
      for (size_t t = 0; t < tokens; ++t) {
        const float* row = inputs.row(first + t).data();
        for (size_t f = begin; f < end; ++f) {
          rows[t * padded + f] = row[f];
          columns[f * kHessianPanel + t] = row[f];
        }
      }
    });
    // Upper triangle of tiles, numbered row by row.
    parallel_for(tiles * (tiles + 1) / 2, [&](size_t task) {
      size_t i = 0;
      while (task >= tiles - i) task -= tiles - i++;
      const size_t j = i + task;
      add_product(&columns[i * kTile * kHessianPanel], kHessianPanel, &rows[j * kTile], padded,
                  tokens, sum_.data() + i * kTile * padded + j * kTile, padded, kTile, kTile);
    });
  }
  tokens_ += inputs.rows();
}

void HessianAccumulator::merge(const HessianAccumulator& other) {
  require(other.features_ == features_, "a Hessian of {} features merged into one of {}",
          other.features_, features_);
  parallel_for(sum_.rows(), [&](size_t r) {
    for (size_t c = 0; c < sum_.cols(); ++c) sum_(r, c) += other.sum_(r, c);
  });
  tokens_ += other.tokens_;
}

DoubleMatrix HessianAccumulator::symmetric(double scale) const {
  DoubleMatrix result(features_, features_);
  parallel_for(features_, [&](size_t r) {
    for (size_t c = 0; c < features_; ++c) {
      result(r, c) = scale * sum_(std::min(r, c), std::max(r, c));
    }
  });
  return result;
}

}  // namespace fewbit
