// Distance from the convex hull of the data: is a query an extrapolation, and how far?
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "fewbit/laws/law_point.h"

namespace fewbit {

// In (ln N, ln D, P), or those of them that the points have.
class DataHull {
 public:
  DataHull() = default;
  explicit DataHull(std::span<const LawPoint> points);

  bool empty() const { return points_.empty(); }

  // From the nearest place in the hull to the query.
  struct Offset {
    double ln_params = 0, ln_tokens = 0, bits = 0;
    bool outside = false;
  };
  Offset offset(const LawPoint& query) const;

 private:
  bool with_bits_ = false;
  std::vector<std::array<double, 3>> points_;
};

// "N is 2.3 e-folds above, D 1.0 e-folds below, P 1 bit above"; empty inside.
std::string describe(const DataHull::Offset& offset);

}  // namespace fewbit
