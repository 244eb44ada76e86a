// Shared by the ggml decoders: how a block's fields are read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fewbit/base/half.h"

namespace fewbit::ggml_blocks {

inline constexpr size_t kSuperBlock = 256;

// Decodes one block that begins at `block` into its elements.
using DecodeBlock = void (*)(const uint8_t* block, float* out);

// Signed codes of 4 bits of IQ4_NL and IQ4_XS.
inline constexpr std::array<int8_t, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                      1,    13,   25,  38,  53,  69,  89,  113};

template <class T>
T load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

inline float load_half(const uint8_t* bytes) { return f16_to_float(load<uint16_t>(bytes)); }

// ggml_blocks_iq.cc
void decode_iq1_s(const uint8_t* block, float* out);
void decode_iq1_m(const uint8_t* block, float* out);
void decode_iq2_xxs(const uint8_t* block, float* out);
void decode_iq2_xs(const uint8_t* block, float* out);
void decode_iq2_s(const uint8_t* block, float* out);
void decode_iq3_xxs(const uint8_t* block, float* out);
void decode_iq3_s(const uint8_t* block, float* out);
void decode_iq4_nl(const uint8_t* block, float* out);
void decode_iq4_xs(const uint8_t* block, float* out);

}  // namespace fewbit::ggml_blocks
