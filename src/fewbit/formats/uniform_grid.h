// The uniform grid: w = scale * (code - zero_point), fitted to each row of a group of columns.
//
// Range of a group x: [min(x, 0), max(x, 0)] (GPTQ), or [min x, max x] (AWQ, arXiv 2306.00978).
//   asymmetric   s = (hi - lo) / (2^b - 1), z = round(-lo / s)
//   sym_offset   hi = -lo = max |x|, s as above, z = 2^(b-1): GPTQ's symmetric grid
//   sym_signed   s = max |x| / (2^(b-1) - 1), z = 2^(b-1): codes -2^(b-1) .. 2^(b-1) - 1 of the
//                signed grids of QuaRot and AWQ, stored with an offset
// Clipping search: the range shrinks by 1 - i / grid, i = 0 .. shrink * grid - 1, and the first
// candidate of the smallest sum importance_c |quantised - x|^norm stays. Scales are rounded to
// scale_dtype before zero points, errors and codes are computed from them.
#pragma once

#include <memory>
#include <string>

#include "fewbit/formats/grid.h"

namespace fewbit {

struct UniformGridOptions {
  enum class Symmetry { asymmetric, sym_offset, sym_signed };
  enum class Range { with_zero, min_max };
  enum class Clip { none, mse };

  int bits = 4;
  size_t group_size = 128;  // 0: the whole row
  Symmetry symmetry = Symmetry::asymmetric;
  Range range = Range::with_zero;
  Dtype scale_dtype = Dtype::f16;
  Clip clip = Clip::none;
  double mse_norm = 2.4;
  int mse_grid = 100;
  double mse_shrink = 0.8;
  // Also tries the integer on the other side of the ideal zero point (asymmetric; helps at 2 bits).
  bool mse_zero_neighbour = false;
};

class UniformGrid final : public Grid {
 public:
  // Error if an option is out of range or sym_signed is asked for 1 bit.
  explicit UniformGrid(UniformGridOptions options);
  std::unique_ptr<GridEncoder> begin(size_t rows, size_t cols) const override;
  std::string describe() const override;
  const UniformGridOptions& options() const { return options_; }

 private:
  UniformGridOptions options_;
};

}  // namespace fewbit
