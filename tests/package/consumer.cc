// Rounds a matrix to 4 bits with the installed library and checks the error bound.
#include <cmath>
#include <cstdio>

#include "fewbit/formats/format_registry.h"
#include "fewbit/methods/registry.h"

int main() {
  fewbit::Matrix weights(2, 32);
  for (size_t i = 0; i < weights.size(); ++i) {
    weights.values()[i] = std::sin(static_cast<float>(i));
  }
  const auto grid = fewbit::grid_from_options("uniform", {{"bits", "4"}, {"group_size", "32"}});
  const auto quantized = fewbit::quantize_to_nearest(*grid, weights.view());
  const fewbit::Matrix decoded = quantized.dequantize();
  for (size_t i = 0; i < weights.size(); ++i) {
    if (std::fabs(decoded.values()[i] - weights.values()[i]) > 2.0f / 15) return 1;
  }
  std::printf("%zu methods, %.3f bits per weight\n", fewbit::methods().size(),
              quantized.bits_per_weight());
  return 0;
}
