// Activations rounded to int8 in blocks, arranged for the integer kernels.
//
// A block of columns with largest magnitude m has scale m / 127 and codes round(x * 127 / m), ties
// to even. Tokens are grouped in tiles, so that a kernel that multiplies a tile reads one stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/formats/panel_codes.h"

namespace fewbit {

// `width` tokens side by side: quad k of token j at 4 (k width + j) of `codes`, unit u of token j
// at u width + j of the others.
struct ActivationTile {
  size_t width;
  const int8_t* codes;
  const float* scales;
  const int32_t* sums;       // of the unit's codes
  const float* scaled_sums;  // scale * sum
};

class QuantizedActivations {
 public:
  // Quantises x [tokens, cols] for `units` units of `unit_columns` columns, cols <= units *
  // unit_columns; the columns beyond are 0. A block is a unit, or two units of 16 columns. A block
  // that holds an infinity or NaN gets the scale NaN. Tokens in parallel.
  QuantizedActivations(MatrixView<const float> x, size_t unit_columns, size_t units,
                       size_t tile_width);

  size_t tokens() const { return tokens_; }
  size_t unit_columns() const { return unit_columns_; }
  size_t units() const { return units_; }
  size_t tiles() const { return (tokens_ + tile_width_ - 1) / tile_width_; }
  // Tile i holds tokens [i * tile_width(), i * tile_width() + tile(i).width).
  size_t tile_width() const { return tile_width_; }
  ActivationTile tile(size_t index) const;

 private:
  size_t tokens_, unit_columns_, units_, tile_width_;
  std::vector<int8_t, PanelAllocator<int8_t>> codes_;
  std::vector<float> scales_, scaled_sums_;
  std::vector<int32_t> sums_;
};

// Columns of a block for units of this size.
size_t activation_block(size_t unit_columns);

}  // namespace fewbit
