#include "fewbit/runtime/rotary_angles.h"

#include <cmath>

#include "fewbit/model/rope_divisors.h"

namespace fewbit {
namespace {

std::vector<double> frequencies(const BlockSpec& block, size_t rotary_size) {
  std::vector<double> result(rotary_size / 2);
  for (size_t i = 0; i < result.size(); ++i) {
    result[i] =
        std::pow(block.rope_base, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_size));
  }
  const RopeScaling& scaling = block.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::linear) {
    for (double& frequency : result) frequency /= scaling.factor;
  } else if (scaling.kind == RopeScaling::Kind::llama3) {
    const std::vector<float> divisors = rope_divisors(scaling, block.rope_base, rotary_size);
    for (size_t i = 0; i < result.size(); ++i) result[i] /= divisors[i];
  }
  return result;
}

}  // namespace

RotaryAngles::RotaryAngles(const BlockSpec& block, size_t rotary_size,
                           std::span<const size_t> positions)
    : half_(rotary_size / 2), cosine_(positions.size() * half_), sine_(positions.size() * half_) {
  const std::vector<double> steps = frequencies(block, rotary_size);
  for (size_t row = 0; row < positions.size(); ++row) {
    for (size_t i = 0; i < half_; ++i) {
      const double angle = steps[i] * static_cast<double>(positions[row]);
      cosine_[row * half_ + i] = static_cast<float>(std::cos(angle));
      sine_[row * half_ + i] = static_cast<float>(std::sin(angle));
    }
  }
}

bool same_rotation(const BlockSpec& a, const BlockSpec& b) {
  return a.rope_base == b.rope_base && a.rope_scaling == b.rope_scaling;
}

}  // namespace fewbit
