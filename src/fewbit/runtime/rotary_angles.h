// Cosines and sines of rotary positions, made for the positions of one step.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "fewbit/model/model_spec.h"

namespace fewbit {

// Angles of the pairs of one head per position: [positions, rotary_size / 2]. Frequency i is
// base^(-2 i / rotary_size), scaled as the block says; angles are computed in double.
class RotaryAngles {
 public:
  RotaryAngles(const BlockSpec& block, size_t rotary_size, std::span<const size_t> positions);

  const float* cosine(size_t row) const { return cosine_.data() + row * half_; }
  const float* sine(size_t row) const { return sine_.data() + row * half_; }
  size_t half() const { return half_; }

 private:
  size_t half_;
  std::vector<float> cosine_, sine_;
};

// Whether two blocks have the same angles.
bool same_rotation(const BlockSpec& a, const BlockSpec& b);

}  // namespace fewbit
