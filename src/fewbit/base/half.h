// IEEE binary16 and bfloat16 as stored in files, converted one value at a time.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace fewbit {

inline float bf16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Round to nearest, ties to even; a NaN stays a quiet NaN.
inline uint16_t float_to_bf16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>(bits >> 16);
}

// Without branches, so that loops over it vectorise.
inline float f16_to_float(uint16_t bits) {
  // Exponent and mantissa in their float places; the exponents' biases differ by 112.
  constexpr uint32_t kRebias = 112u << 23, kExponent = 0x1fu << 23, kOne = 1u << 23;
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  const uint32_t exponent = magnitude & kExponent;
  // Infinity and NaN go up once more, to the largest exponent of a float.
  const uint32_t normal = magnitude + kRebias + (exponent == kExponent ? kRebias : 0);
  // Subnormal: (2^-14 + mantissa * 2^-24) - 2^-14, exact in float.
  const float shifted = std::bit_cast<float>(magnitude + kRebias + kOne);
  const auto subnormal = std::bit_cast<uint32_t>(shifted - std::bit_cast<float>(kRebias + kOne));
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  return std::bit_cast<float>(sign | (exponent == 0 ? subnormal : normal));
}

// Round to nearest, ties to even; overflow gives infinity, a NaN stays a quiet NaN.
inline uint16_t float_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  // 65520 is the midpoint above the largest finite value, and rounds up to infinity.
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Below 2^-14: the result is a multiple of 2^-24. Adding 0.5 leaves that multiple, rounded to
    // nearest even, in the low mantissa bits.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace fewbit
