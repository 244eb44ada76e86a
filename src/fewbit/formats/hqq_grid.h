// The grid of HQQ: affine codes with a real zero point, w = scale * (code - zero_point), whose zero
// point makes the l_p distance to the weights small (half-quadratic quantization; no data needed).
//
//   scale   s = (max - min) / (2^b - 1) of the group, at least 5e-5; 1 if max - min <= 1e-4
//   start   z = -min / s, rounded to an integer or not
//   step    e = w - s (clamp(round(w / s + z), 0, 2^b - 1) - z)
//           z <- z - mean over the group of sign(e) min(|e|, |e|^(p-1) / beta) / s
// The step is the closed-form minimiser in z after the proximal step on e: written with the shrunk
// residual E = sign(e) max(|e| - |e|^(p-1) / beta, 0) it is z <- mean(code - (w - E) / s).
//
// When to stop, by the mean of |e|:
//   tensor   after the first step before which it had not fallen, summed over the whole matrix; the
//            zero points of the last step are kept (the reference)
//   group    each group when its zero point no longer moves, keeping that of its smallest error; so
//            the grid can be fitted group by group, as error feedback and clipping searches want it
// Scales and zero points are rounded to scale_dtype before codes are chosen. f16 holds a zero point
// to 2^-11 of its size: groups far from zero need f32.
//
// Cost: up to `iterations` roundings and powers per weight. Source: the authors' blog
// (Half-Quadratic Quantization of Large Machine Learning Models, 2023) and mobiusml/hqq.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fewbit/formats/grid.h"

namespace fewbit {

struct HqqGridOptions {
  enum class Stop { group, tensor };

  int bits = 4;
  size_t group_size = 64;  // 0: the whole row
  bool round_zero = false;
  Stop stop = Stop::group;
  int iterations = 20;
  double norm = 0.7;  // p
  double beta = 10;
  Dtype scale_dtype = Dtype::f16;
};

class HqqGrid final : public Grid {
 public:
  // Error if an option is out of range.
  explicit HqqGrid(HqqGridOptions options);
  std::unique_ptr<GridEncoder> begin(size_t rows, size_t cols) const override;
  std::string describe() const override;

 private:
  HqqGridOptions options_;
};

// Fits zero points with Stop::tensor and returns the mean |e| before every step, as
// `begin()->fit_matrix()` does on the way: for those who want to see the search converge.
std::vector<double> hqq_error_history(const HqqGridOptions& options,
                                      MatrixView<const float> weights);

}  // namespace fewbit
