#include "fewbit/kernels/activation_blocks.h"

#include <algorithm>
#include <cstring>

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
  const size_t padded = unit_columns * units;
  const ActivationLayout layout{unit_columns, units, activation_block(unit_columns)};
  parallel_for(tiles(), [&](size_t index) {
    const size_t first = index * tile_width_, width = std::min(tile_width_, tokens_ - first);
    std::vector<float> row(padded), scales(units_);
    std::vector<int8_t, PanelAllocator<int8_t>> codes(width == 1 ? 0 : padded);
    std::vector<int32_t> sums(units_);
    for (size_t j = 0; j < width; ++j) {
      std::copy_n(x.row(first + j).data(), x.cols(), row.data());
      int8_t* target = &codes_[first * padded];
      quantize_activation_row(layout, row.data(), width == 1 ? target : codes.data(), scales.data(),
                              sums.data());
      for (size_t u = 0; u < units_; ++u) {
        const size_t place = first * units_ + u * width + j;
        scales_[place] = scales[u];
        sums_[place] = sums[u];
        scaled_sums_[place] = scales[u] * static_cast<float>(sums[u]);
      }
      if (width == 1) continue;
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
