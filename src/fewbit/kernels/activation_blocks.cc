#include "fewbit/kernels/activation_blocks.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "fewbit/base/threads.h"
#include "fewbit/kernels/activation_kernels.h"
#include "fewbit/kernels/panel_matrix.h"

namespace fewbit {

size_t activation_block(size_t unit_columns) { return std::max(unit_columns, kColumnPadding); }

QuantizedActivations::QuantizedActivations(MatrixView<const float> x, size_t unit_columns,
                                           size_t units, size_t tile_width)
    : tokens_(x.rows()),
      unit_columns_(unit_columns),
      units_(units),
      tile_width_(tile_width),
      codes_(tokens_ * unit_columns * units),
      scales_(tokens_ * units),
      scaled_sums_(tokens_ * units),
      sums_(tokens_ * units) {
  const size_t padded = unit_columns * units, block = activation_block(unit_columns);
  parallel_for(tiles(), [&](size_t index) {
    const size_t first = index * tile_width_, width = std::min(tile_width_, tokens_ - first);
    std::vector<float> row(padded);
    std::vector<int8_t, PanelAllocator<int8_t>> codes(padded);
    for (size_t j = 0; j < width; ++j) {
      std::copy_n(x.row(first + j).data(), x.cols(), row.data());
      float* scales = &scales_[first * units_];
      for (size_t c = 0; c < padded; c += block) {
        const float scale = quantize_activations(std::span(row).subspan(c, block), &codes[c]);
        for (size_t u = c / unit_columns; u * unit_columns < c + block; ++u) {
          const size_t place = u * width + j;
          scales[place] = scale;
          const int32_t sum = sum_codes(std::span(codes).subspan(u * unit_columns, unit_columns));
          sums_[first * units_ + place] = sum;
          scaled_sums_[first * units_ + place] = scale * static_cast<float>(sum);
        }
      }
      int8_t* target = &codes_[first * padded];
      for (size_t k = 0; k < padded / kQuadColumns; ++k) {
        std::memcpy(target + kQuadColumns * (k * width + j), &codes[kQuadColumns * k],
                    kQuadColumns);
      }
    }
  });
}

ActivationTile QuantizedActivations::tile(size_t index) const {
  const size_t first = index * tile_width_;
  return {std::min(tile_width_, tokens_ - first), &codes_[first * units_ * unit_columns_],
          &scales_[first * units_], &sums_[first * units_], &scaled_sums_[first * units_]};
}

}  // namespace fewbit
