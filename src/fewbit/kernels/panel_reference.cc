#include <algorithm>
#include <cmath>
#include <vector>

#include "fewbit/kernels/panel_products.h"

namespace fewbit {
namespace {

int value_of(const PanelFormat& format, uint8_t code) {
  switch (format.codes) {
    case CodeLayout::bits1:
      return 2 * code;
    case CodeLayout::table4:
      return format.table[code];
    default:
      return code;
  }
}

}  // namespace

void multiply_panels_reference(const PanelMatrix& weights, size_t first_panel, size_t last_panel,
                               const ActivationTile& x, size_t token, float* y) {
  const PanelFormat& format = weights.format();
  const size_t units = weights.units();
  std::vector<uint8_t> codes(weights.padded_cols());
  std::vector<float> scales(units * kPanelHeight), mins(scales.size());
  for (size_t panel = first_panel; panel < last_panel; ++panel) {
    weights.expand_scales(panel, 0, units, scales.data(), mins.data());
    for (size_t r = 0; r < kPanelHeight; ++r) {
      weights.get_row_codes(panel, r, codes);
      float sum = 0;
      for (size_t u = 0; u < units; ++u) {
        int32_t dot = 0;
        for (size_t i = 0; i < format.unit_columns; ++i) {
          const size_t c = u * format.unit_columns + i, quad = c / kQuadColumns;
          const int8_t activation =
              x.codes[kQuadColumns * (quad * x.width + token) + c % kQuadColumns];
          dot += (value_of(format, codes[c]) - format.offset) * activation;
        }
        const size_t place = u * x.width + token, unit = u * kPanelHeight + r;
        sum = std::fma(static_cast<float>(dot), scales[unit] * x.scales[place], sum);
        if (format.has_mins()) sum = std::fma(mins[unit], x.scaled_sums[place], sum);
      }
      y[(panel - first_panel) * kPanelHeight + r] = sum;
    }
  }
}

}  // namespace fewbit
