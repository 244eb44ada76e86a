// The types whose codes point into a table of groups of four or eight ("IQ"), and those of four
// bits with a table of unevenly spaced values. All but IQ4_NL are super-blocks of 256 elements.
#include <bit>

#include "fewbit/formats/ggml_blocks_grids.h"
#include "fewbit/formats/ggml_blocks_internal.h"

namespace fewbit::ggml_blocks {
namespace {

constexpr size_t kGroups = 8;  // Of 32 elements in a super-block.

// The eight signs that seven bits stand for: the eighth makes the number of minus signs even.
uint8_t even_signs(uint32_t seven_bits) {
  return static_cast<uint8_t>(seven_bits | (std::popcount(seven_bits) & 1) << 7);
}

// count elements: scale * magnitude, negative where the sign bit is set
template <size_t count>
void decode_signed(const uint8_t* magnitudes, uint32_t signs, float scale, float* out) {
  for (size_t j = 0; j < count; ++j) {
    const float value = scale * static_cast<float>(magnitudes[j]);
    out[j] = signs >> j & 1 ? -value : value;
  }
}

// Eight elements: scale * (grid + delta)
void decode_shifted(const std::array<int8_t, 8>& grid, float scale, float delta, float* out) {
  for (size_t j = 0; j < 8; ++j) out[j] = scale * (static_cast<float>(grid[j]) + delta);
}

// Scale of a four-bit code of the two-bit types.
float iq2_scale(float d, uint32_t code) { return d * (0.5f + static_cast<float>(code)) * 0.25f; }

constexpr float kIq1Delta = 0.125f;

void decode_iq4_nibbles(const uint8_t* qs, float scale, float* out) {
  for (size_t j = 0; j < 16; ++j) {
    out[j] = scale * static_cast<float>(kIq4Values[qs[j] & 15]);
    out[j + 16] = scale * static_cast<float>(kIq4Values[qs[j] >> 4]);
  }
}

}  // namespace

// {d, u32 (indices, signs and scale)[8]}
void decode_iq2_xxs(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (size_t g = 0; g < kGroups; ++g) {
    const uint8_t* indices = block + 2 + 8 * g;
    const auto rest = load<uint32_t>(indices + 4);
    const float scale = iq2_scale(d, rest >> 28);
    for (size_t l = 0; l < 4; ++l) {
      decode_signed<8>(iq2xxs_grid()[indices[l]].data(), even_signs(rest >> (7 * l) & 127), scale,
                       out + 32 * g + 8 * l);
    }
  }
}

// {d, u16 qs[32], scales[8]}: nine bits of index, seven of signs; a scale for each 16 elements
void decode_iq2_xs(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (size_t g = 0; g < kGroups; ++g) {
    const uint8_t scales = block[66 + g];
    for (size_t l = 0; l < 4; ++l) {
      const uint32_t code = load<uint16_t>(block + 2 + 2 * (4 * g + l));
      decode_signed<8>(iq2xs_grid()[code & 511].data(), even_signs(code >> 9),
                       iq2_scale(d, l < 2 ? scales & 15u : scales >> 4u), out + 32 * g + 8 * l);
    }
  }
}

// {d, qs[32], signs[32], qh[8], scales[8]}: ten bits of index, eight signs
void decode_iq2_s(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (size_t g = 0; g < kGroups; ++g) {
    const uint32_t high = block[66 + g];
    const uint8_t scales = block[74 + g];
    for (size_t l = 0; l < 4; ++l) {
      const uint32_t index = block[2 + 4 * g + l] | (high << (8 - 2 * l) & 0x300);
      decode_signed<8>(iq2s_grid()[index].data(), block[34 + 4 * g + l],
                       iq2_scale(d, l < 2 ? scales & 15u : scales >> 4u), out + 32 * g + 8 * l);
    }
  }
}

// {d, qs[64], u32 (signs and scale)[8]}: groups of four
void decode_iq3_xxs(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (size_t g = 0; g < kGroups; ++g) {
    const uint8_t* indices = block + 2 + 8 * g;
    const auto rest = load<uint32_t>(block + 66 + 4 * g);
    const float scale = d * (0.5f + static_cast<float>(rest >> 28)) * 0.5f;
    for (size_t l = 0; l < 4; ++l) {
      const uint32_t signs = even_signs(rest >> (7 * l) & 127);
      float* group = out + 32 * g + 8 * l;
      decode_signed<4>(iq3xxs_grid()[indices[2 * l]].data(), signs, scale, group);
      decode_signed<4>(iq3xxs_grid()[indices[2 * l + 1]].data(), signs >> 4, scale, group + 4);
    }
  }
}

// {d, qs[64], qh[8], signs[32], scales[4]}: groups of four, nine bits of index, eight signs
void decode_iq3_s(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (size_t g = 0; g < kGroups; ++g) {
    const uint8_t* indices = block + 2 + 8 * g;
    const uint32_t high = block[66 + g];
    const uint32_t code = block[106 + g / 2] >> (g % 2 ? 4 : 0) & 15u;
    const float scale = d * static_cast<float>(1 + 2 * code);
    for (size_t l = 0; l < 4; ++l) {
      const uint32_t signs = block[74 + 4 * g + l];
      const uint32_t first = indices[2 * l] | (high << (8 - 2 * l) & 256);
      const uint32_t second = indices[2 * l + 1] | (high << (7 - 2 * l) & 256);
      float* group = out + 32 * g + 8 * l;
      decode_signed<4>(iq3s_grid()[first].data(), signs, scale, group);
      decode_signed<4>(iq3s_grid()[second].data(), signs >> 4, scale, group + 4);
    }
  }
}

// {d, qs[32], u16 qh[8]}: eleven bits of index, three of scale, the sign of delta
void decode_iq1_s(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (size_t g = 0; g < kGroups; ++g) {
    const uint32_t high = load<uint16_t>(block + 34 + 2 * g);
    const float scale = d * static_cast<float>(2 * (high >> 12 & 7) + 1);
    const float delta = high & 0x8000 ? -kIq1Delta : kIq1Delta;
    for (size_t l = 0; l < 4; ++l) {
      const uint32_t index = block[2 + 4 * g + l] | (high >> (3 * l) & 7) << 8;
      decode_shifted(iq1s_grid()[index], scale, delta, out + 32 * g + 8 * l);
    }
  }
}

// {qs[32], qh[16], u16 scales[4]}: d is spread over the high bits of the scales
void decode_iq1_m(const uint8_t* block, float* out) {
  uint16_t scales[4];
  std::memcpy(scales, block + 48, sizeof scales);
  const float d = f16_to_float(static_cast<uint16_t>(
      scales[0] >> 12 | (scales[1] >> 8 & 0xf0) | (scales[2] >> 4 & 0xf00) | (scales[3] & 0xf000)));
  for (size_t g = 0; g < kGroups; ++g) {
    const uint32_t codes = scales[g / 2] >> (6 * (g % 2));
    for (size_t l = 0; l < 4; ++l) {
      const uint32_t code = codes >> (l < 2 ? 0 : 3) & 7;
      const float scale = d * static_cast<float>(2 * code + 1);
      const uint32_t high = block[32 + 2 * g + l / 2] >> (l % 2 ? 4 : 0);
      const uint32_t index = block[4 * g + l] | (high & 7) << 8;
      decode_shifted(iq1s_grid()[index], scale, high & 8 ? -kIq1Delta : kIq1Delta,
                     out + 32 * g + 8 * l);
    }
  }
}

// {d, qs[16]}, 32 elements: d * table[q]
void decode_iq4_nl(const uint8_t* block, float* out) {
  decode_iq4_nibbles(block + 2, load_half(block), out);
}

// {d, u16 scales_h, scales_l[4], qs[128]}: (d * (ls - 32)) * table[q]
void decode_iq4_xs(const uint8_t* block, float* out) {
  const float d = load_half(block);
  const uint32_t high = load<uint16_t>(block + 2);
  for (size_t g = 0; g < kGroups; ++g) {
    const int low = block[4 + g / 2] >> (g % 2 ? 4 : 0) & 15;
    const int code = low | static_cast<int>(high >> (2 * g) & 3) << 4;
    decode_iq4_nibbles(block + 8 + 16 * g, d * static_cast<float>(code - 32), out + 32 * g);
  }
}

}  // namespace fewbit::ggml_blocks
