#include "fewbit/laws/hull.h"

#include <Eigen/Dense>
#include <algorithm>
#include <set>
#include <string>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// Distances below this are rounding, in e-folds or bits.
constexpr double kInside = 1e-9;

using Point = Eigen::Vector3d;

// The point of smallest norm in the affine hull of the corners, by weights that sum to 1.
Eigen::VectorXd affine_weights(const std::vector<Point>& corners) {
  const auto k = static_cast<Eigen::Index>(corners.size());
  if (k == 1) return Eigen::VectorXd::Ones(1);
  Eigen::MatrixXd edges(3, k - 1);
  for (Eigen::Index i = 1; i < k; ++i) {
    edges.col(i - 1) = corners[static_cast<size_t>(i)] - corners[0];
  }
  Eigen::VectorXd weights(k);
  weights.tail(k - 1) = edges.colPivHouseholderQr().solve(-corners[0]);
  weights[0] = 1 - weights.tail(k - 1).sum();
  return weights;
}

// Point of smallest norm in the convex hull (Wolfe 1976): a set of corners is grown by the point
// that lies farthest towards the origin and shrunk until the origin's projection onto their affine
// hull lies between them.
Point smallest_in_hull(const std::vector<Point>& points) {
  const auto nearest = std::min_element(
      points.begin(), points.end(),
      [](const Point& a, const Point& b) { return a.squaredNorm() < b.squaredNorm(); });
  std::vector<Point> corners = {*nearest};
  std::vector<double> weights = {1};
  Point best = *nearest;
  double scale = 0;
  for (const Point& point : points) scale = std::max(scale, point.squaredNorm());
  const double tolerance = 1e-14 * scale;
  const size_t limit = 20 * points.size() + 100;  // never reached but for rounding
  for (size_t round = 0; round < limit; ++round) {
    const auto extreme =
        std::min_element(points.begin(), points.end(),
                         [&](const Point& a, const Point& b) { return best.dot(a) < best.dot(b); });
    if (best.squaredNorm() - best.dot(*extreme) <= tolerance) break;
    if (std::find(corners.begin(), corners.end(), *extreme) != corners.end()) break;
    corners.push_back(*extreme);
    weights.push_back(0);
    for (;;) {
      const Eigen::VectorXd target = affine_weights(corners);
      if (target.minCoeff() > 0 || corners.size() == 1) {
        weights.assign(target.begin(), target.end());
        break;
      }
      // Move towards the projection until a weight reaches zero; that corner leaves.
      double share = 1;
      size_t leaving = corners.size() - 1;
      for (size_t i = 0; i < corners.size(); ++i) {
        const double to = target[static_cast<Eigen::Index>(i)];
        if (to > 0 || weights[i] - to <= 0) continue;
        const double here = weights[i] / (weights[i] - to);
        if (here < share) {
          share = here;
          leaving = i;
        }
      }
      for (size_t i = 0; i < corners.size(); ++i) {
        weights[i] += share * (target[static_cast<Eigen::Index>(i)] - weights[i]);
      }
      corners.erase(corners.begin() + static_cast<std::ptrdiff_t>(leaving));
      weights.erase(weights.begin() + static_cast<std::ptrdiff_t>(leaving));
    }
    best.setZero();
    for (size_t i = 0; i < corners.size(); ++i) best += weights[i] * corners[i];
  }
  return best;
}

std::array<double, 3> coordinates(const LawPoint& at, bool with_bits) {
  return {at.ln(LawVariable::params), at.ln(LawVariable::tokens),
          with_bits ? at[LawVariable::bits] : 0};
}

}  // namespace

DataHull::DataHull(std::span<const LawPoint> points) {
  with_bits_ = std::all_of(points.begin(), points.end(),
                           [](const LawPoint& at) { return at.has(LawVariable::bits); });
  std::set<std::array<double, 3>> distinct;
  for (const LawPoint& at : points) {
    if (at.has(LawVariable::params) && at.has(LawVariable::tokens)) {
      distinct.insert(coordinates(at, with_bits_));
    }
  }
  points_.assign(distinct.begin(), distinct.end());
}

DataHull::Offset DataHull::offset(const LawPoint& query) const {
  require(!points_.empty(), "the fit's data have no points with N and D");
  const auto q = coordinates(query, with_bits_ && query.has(LawVariable::bits));
  const bool with_bits = with_bits_ && query.has(LawVariable::bits);
  std::vector<Point> relative;
  for (const auto& point : points_) {
    relative.emplace_back(point[0] - q[0], point[1] - q[1], with_bits ? point[2] - q[2] : 0);
  }
  const Point nearest = smallest_in_hull(relative);
  if (nearest.norm() <= kInside) return {};
  return {-nearest[0], -nearest[1], -nearest[2], true};
}

std::string describe(const DataHull::Offset& offset) {
  if (!offset.outside) return "";
  constexpr double kShown = 5e-4;
  std::string text;
  const auto add = [&](const char* symbol, double value, const char* unit) {
    if (std::abs(value) < kShown) return;
    text += fmt::format("{}{} is {:.2f} {} {}", text.empty() ? "" : ", ", symbol, std::abs(value),
                        unit, value > 0 ? "above" : "below");
  };
  add("N", offset.ln_params, "e-folds");
  add("D", offset.ln_tokens, "e-folds");
  add("P", offset.bits, "bits");
  return text.empty() ? "at the edge of the data" : text;
}

}  // namespace fewbit
