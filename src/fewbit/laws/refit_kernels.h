// Single-threaded SIMD sums over the rows of a log-linear problem: all that a Newton step needs, in
// one pass. The order of each sum depends on the machine's vectors only.
//
// With p = exp(x . z), r = p - y and the count c of each row, the estimating equations are
//
//   linear     0 = g = sum c r p x              dg/dz = sum c p (p + r) x x'
//   weighted   0 = g = sum c w r p x            dg/dz = sum c w p (p + r (1 - 2 s^2 p^2 w)) x x'
//              with w = 1 / (v + s^2 p^2), so that the weights move along with p
//
// and the objective is sum c r^2 or sum c w r^2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace fewbit {

// Rows are padded to a multiple of this with zeros (variances: ones), all arrays aligned to 64
// bytes.
inline constexpr size_t kRefitRowAlignment = 8;
inline constexpr size_t kMaxRefitParameters = 8;
inline constexpr size_t kMaxRefitPairs = kMaxRefitParameters * (kMaxRefitParameters + 1) / 2;

struct RefitRows {
  size_t rows = 0;  // with the padding
  size_t parameters = 0;
  const double* design = nullptr;     // x: [parameters, rows]
  const double* values = nullptr;     // y
  const double* variances = nullptr;  // v; null: the linear objective
  double squared_scatter = 0;         // s^2
};

// Symmetric matrices are given by their lower triangle, row by row.
struct RefitSums {
  double objective = 0;
  std::array<double, kMaxRefitParameters> gradient;
  std::array<double, kMaxRefitPairs> hessian;
};

// What each row adds for each time it is counted, without its factors x: objective, g, dg/dz.
struct RefitTerms {
  double* objective = nullptr;
  double* slope = nullptr;
  double* curvature = nullptr;
};

void fill_refit_terms(const RefitRows& rows, const double* z, const RefitTerms& terms);

// The sums where each row's terms are known, and the Gram matrix sum c x x'. Also writes the counts
// as floating-point numbers for sum_refit_rows().
void sum_refit_terms(const RefitRows& rows, const RefitTerms& terms, const uint32_t* counts,
                     double* real_counts, RefitSums& sums,
                     std::array<double, kMaxRefitPairs>& gram);

void sum_refit_rows(const RefitRows& rows, const double* z, const double* counts, RefitSums& sums);

}  // namespace fewbit
