#include "fewbit/formats/panel_codes.h"

#include <algorithm>

#include "fewbit/base/threads.h"

namespace fewbit {

PanelCodes::PanelCodes(size_t rows, size_t cols)
    : rows_(rows),
      cols_(cols),
      padded_rows_((rows + kPanelRows - 1) / kPanelRows * kPanelRows),
      codes_(padded_rows_ * cols) {}

void PanelCodes::pack_into(CodeMatrix& target) const {
  parallel_for_chunks(rows_, kPanelRows, [&](size_t first, size_t last) {
    // Transposed in tiles, so that both sides stay in the first-level cache.
    constexpr size_t kTile = 64;
    std::vector<uint8_t> rows(kPanelRows * cols_);
    for (size_t tile = 0; tile < cols_; tile += kTile) {
      const size_t end = std::min(tile + kTile, cols_);
      for (size_t c = tile; c < end; ++c) {
        const uint8_t* column = codes_.data() + c * padded_rows_ + first;
        for (size_t r = 0; r < kPanelRows; ++r) rows[r * cols_ + c] = column[r];
      }
    }
    for (size_t r = first; r < last; ++r) {
      target.set_row(r, std::span(rows).subspan((r - first) * cols_, cols_));
    }
  });
}

}  // namespace fewbit
