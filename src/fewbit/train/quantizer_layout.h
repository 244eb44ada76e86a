// What a trained weight matrix is made of, before it is packed: which weights share a scale, which
// levels a code stands for, and the QuantizedMatrix that codes and scales become.
//
// Level grids. With the scale a of its group, u = w / a, a weight becomes
//
//   code = round(h clip(u, low, high) - t) - first_step      (two signs: code = u >= 0)
//   w^   = (a unit) (first_level + level_step code)
//
// Levels are small integers, and a unit is what is stored, so that a stored number times an exact
// integer gives the very value that training saw.
//
//   grid                 levels           unit        rounding
//   sign                 -1, 1            1           sign(u), sign(0) = +1
//   stretched, k levels  integers or odd  2/k or 1/k  h = k/2, t = 0 or 1/2, clip at +-0.99
//   signed, b bits       -2^(b-1)..       1           h = 1, t = 0
//   ternary              -1, 0, 1         1           h = 1, t = 0
//
// Rounding is half to even everywhere.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

#include "fewbit/formats/quantized_matrix.h"

namespace fewbit {

// Consecutive weights of the row-major matrix [rows, cols] that share one scale.
class ScaleGroups {
 public:
  // One scale for the whole matrix, or one for each of `shards` equal runs of rows.
  static ScaleGroups per_matrix(int64_t rows, int64_t cols, int64_t shards = 1);
  static ScaleGroups per_row(int64_t rows, int64_t cols);
  // One for every `group_size` columns of a row; Error unless that divides the columns.
  static ScaleGroups per_group(int64_t rows, int64_t cols, int64_t group_size);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t length() const { return length_; }
  int64_t count() const { return length_ == 0 ? 0 : rows_ * cols_ / length_; }
  bool within_rows() const { return length_ <= cols_; }
  // [rows, cols] as [count, length], and back. Error unless the shape is the expected one.
  at::Tensor split(const at::Tensor& matrix) const;
  at::Tensor join(const at::Tensor& groups) const;
  // "row", "matrix", "2 shards" or "g64".
  std::string describe() const;

 private:
  ScaleGroups(int64_t rows, int64_t cols, int64_t length)
      : rows_(rows), cols_(cols), length_(length) {}
  int64_t rows_ = 0, cols_ = 0, length_ = 0;
};

struct LevelGrid {
  std::string name;  // for messages
  int bits = 0;      // width of a stored code
  int levels = 0;
  double unit = 1;
  int first_level = 0, level_step = 1;
  bool sign = false;  // code = u >= 0; the rest is unused
  int first_step = 0;
  double steps_per_unit = 1, shift = 0;
  double clip_low = 0, clip_high = 0;
  // Sign grids: weights of exactly 0 stay 0, as in implementations that use a three-valued sign. No
  // stored code can say so: for comparisons only, packing is an Error.
  bool zero_stays_zero = false;

  int last_level() const { return first_level + level_step * (levels - 1); }
  // Largest |w^| / a on either side.
  double low() const { return unit * first_level; }
  double high() const { return unit * last_level(); }
};

LevelGrid sign_grid();
// ParetoQ's stretched elastic grid, `levels` >= 3; three of them need no multiple of a quarter.
LevelGrid stretched_grid(int levels);
// -2^(bits-1) .. 2^(bits-1) - 1, 2 to 8 bits.
LevelGrid signed_grid(int bits);
// 0 .. 2^bits - 1, for activations that are never negative.
LevelGrid unsigned_grid(int bits);
LevelGrid ternary_grid();

// `scale` as it comes back after being stored; F32 leaves it alone, whatever its precision.
at::Tensor round_to_stored(const at::Tensor& scale, Dtype dtype);

// Codes with what decodes them: the trained matrix as integers.
struct QuantizedTensor {
  ScaleGroups groups = ScaleGroups::per_row(0, 0);
  Dtype scale_dtype = Dtype::f16;
  int bits = 0;
  int first_level = 0, level_step = 1;  // level of a code, unless there are zero points
  at::Tensor codes;                     // uint8 [rows, cols]
  at::Tensor scales;                    // [groups, 1], rounded to scale_dtype
  at::Tensor zeros;                     // [groups, 1], whole numbers; undefined: levels

  // Levels (code - zero point, or first_level + level_step code) [rows, cols] in the type of the
  // scales.
  at::Tensor integers() const;
  // scale * level.
  at::Tensor dequantize() const;
  // Codes on a uniform plane where its grid can hold the levels, on a codebook plane otherwise
  // (odd levels; scales shared between rows). Zero points are integers of `bits` bits if all fit,
  // floats otherwise.
  QuantizedMatrix pack() const;
};

}  // namespace fewbit
