#include "fewbit/formats/cross_product.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/dense_kernels.h"
#include "fewbit/formats/panel_codes.h"

namespace fewbit {
namespace {

// Tokens summed in float before they are added in double.
constexpr size_t kTokens = 256;
// Features of one task's square of D.
constexpr size_t kTile = 128;
static_assert(kTile % kProductColumns == 0);

}  // namespace

CrossProductAccumulator::CrossProductAccumulator(size_t features)
    : sum_((features + kTile - 1) / kTile * kTile, (features + kTile - 1) / kTile * kTile),
      features_(features) {}

void CrossProductAccumulator::add(MatrixView<const float> left, MatrixView<const float> right) {
  require(left.cols() == features_ && right.cols() == features_ && left.rows() == right.rows(),
          "inputs [{}, {}] and [{}, {}] added to a product of {} features", left.rows(),
          left.cols(), right.rows(), right.cols(), features_);
  const size_t padded = sum_.rows(), tiles = padded / kTile;
  // The left panel transposed, [padded][kTokens]; the right one as it is, in aligned memory.
  AlignedFloats columns(kTokens * padded), rows(kTokens * padded);
  for (size_t first = 0; first < left.rows(); first += kTokens) {
    const size_t tokens = std::min(kTokens, left.rows() - first);
    parallel_for(tiles, [&](size_t tile) {
      const size_t begin = tile * kTile, end = std::min(begin + kTile, features_);
      for (size_t t = 0; t < tokens; ++t) {
        const float* a = left.row(first + t).data();
        const float* b = right.row(first + t).data();
        for (size_t f = begin; f < end; ++f) {
          columns[f * kTokens + t] = a[f];
          rows[t * padded + f] = b[f];
        }
      }
    });
    parallel_for(tiles * tiles, [&](size_t task) {
      const size_t i = task / tiles, j = task % tiles;
      add_product(&columns[i * kTile * kTokens], kTokens, &rows[j * kTile], padded, tokens,
                  sum_.data() + i * kTile * padded + j * kTile, padded, kTile, kTile);
    });
  }
}

void CrossProductAccumulator::merge(const CrossProductAccumulator& other) {
  require(other.features_ == features_, "a product of {} features merged into one of {}",
          other.features_, features_);
  parallel_for(sum_.rows(), [&](size_t r) {
    for (size_t c = 0; c < sum_.cols(); ++c) sum_(r, c) += other.sum_(r, c);
  });
}

DoubleMatrix CrossProductAccumulator::scaled(double scale) const {
  DoubleMatrix result(features_, features_);
  parallel_for(features_, [&](size_t r) {
    for (size_t c = 0; c < features_; ++c) result(r, c) = scale * sum_(r, c);
  });
  return result;
}

}  // namespace fewbit
