#include "fewbit/network/ops.h"

#include <cmath>
#include <numbers>

namespace fewbit::ops {
namespace {

thread_local MatmulDtype current_matmul_dtype = MatmulDtype::f32;

// Angular frequency of pair `index` after the block's scaling.
double frequency(const BlockSpec& block, size_t rotary_size, size_t index) {
  const double plain = std::pow(
      block.rope_base, -2.0 * static_cast<double>(index) / static_cast<double>(rotary_size));
  const RopeScaling& scaling = block.rope_scaling;
  switch (scaling.kind) {
    case RopeScaling::Kind::none:
      return plain;
    case RopeScaling::Kind::linear:
      return plain / scaling.factor;
    case RopeScaling::Kind::llama3: {
      // Turns within the original context: few of them are interpolated, many are kept.
      const double turns = scaling.original_context * plain / (2 * std::numbers::pi);
      if (turns < scaling.low_frequency_factor) return plain / scaling.factor;
      if (turns > scaling.high_frequency_factor) return plain;
      const double kept = (turns - scaling.low_frequency_factor) /
                          (scaling.high_frequency_factor - scaling.low_frequency_factor);
      return (1 - kept) * plain / scaling.factor + kept * plain;
    }
  }
  throw std::logic_error("rope scaling");
}

}  // namespace

void set_matmul_dtype(MatmulDtype dtype) { current_matmul_dtype = dtype; }
MatmulDtype matmul_dtype() { return current_matmul_dtype; }

RotaryTable rotary_table(const BlockSpec& block, size_t rotary_size, size_t first, size_t length) {
  const size_t half = rotary_size / 2;
  const auto shape = {static_cast<int64_t>(length), static_cast<int64_t>(half)};
  RotaryTable table{at::empty(shape, at::kFloat), at::empty(shape, at::kFloat)};
  float* cosine = table.cosine.data_ptr<float>();
  float* sine = table.sine.data_ptr<float>();
  for (size_t i = 0; i < half; ++i) {
    const double step = frequency(block, rotary_size, i);
    for (size_t t = 0; t < length; ++t) {
      const double angle = step * static_cast<double>(first + t);
      cosine[t * half + i] = static_cast<float>(std::cos(angle));
      sine[t * half + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

}  // namespace fewbit::ops
