#include "fewbit/formats/ggml_blocks.h"

#include <bit>
#include <limits>

#include "fewbit/base/error.h"
#include "fewbit/formats/ggml_blocks_internal.h"

namespace fewbit {
namespace ggml_blocks {
namespace {

// --- Blocks of 32 -------------------------------------------------------------------------------
// Codes of 4 bits: byte j holds element j in its low half and element j + 16 in its high half.

// {d, qs[16]}: d * (q - 8)
void decode_q4_0(const uint8_t* block, float* out) {
  const float d = load_half(block);
  const uint8_t* qs = block + 2;
  for (size_t j = 0; j < 16; ++j) {
    out[j] = static_cast<float>((qs[j] & 15) - 8) * d;
    out[j + 16] = static_cast<float>((qs[j] >> 4) - 8) * d;
  }
}

// {d, m, qs[16]}: d * q + m
void decode_q4_1(const uint8_t* block, float* out) {
  const float d = load_half(block), m = load_half(block + 2);
  const uint8_t* qs = block + 4;
  for (size_t j = 0; j < 16; ++j) {
    out[j] = static_cast<float>(qs[j] & 15) * d + m;
    out[j + 16] = static_cast<float>(qs[j] >> 4) * d + m;
  }
}

// The codes of Q5_0 and Q5_1: four low bits as above, bit 4 of element j at bit j of `high`.
void unpack_5_bits(const uint8_t* high, const uint8_t* qs, uint8_t* codes) {
  for (size_t j = 0; j < 16; ++j) {
    codes[j] = qs[j] & 15;
    codes[j + 16] = qs[j] >> 4;
  }
  for (size_t j = 0; j < 32; ++j) {
    codes[j] = static_cast<uint8_t>(codes[j] | ((high[j / 8] >> (j % 8)) & 1) << 4);
  }
}

// {d, qh[4], qs[16]}: d * (q - 16)
void decode_q5_0(const uint8_t* block, float* out) {
  const float d = load_half(block);
  uint8_t codes[32];
  unpack_5_bits(block + 2, block + 6, codes);
  for (size_t j = 0; j < 32; ++j) out[j] = static_cast<float>(codes[j] - 16) * d;
}

// {d, m, qh[4], qs[16]}: d * q + m
void decode_q5_1(const uint8_t* block, float* out) {
  const float d = load_half(block), m = load_half(block + 2);
  uint8_t codes[32];
  unpack_5_bits(block + 4, block + 8, codes);
  for (size_t j = 0; j < 32; ++j) out[j] = static_cast<float>(codes[j]) * d + m;
}

// {d, qs[32] signed}: d * q
void decode_q8_0(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (size_t j = 0; j < 32; ++j)
    out[j] = static_cast<float>(static_cast<int8_t>(block[2 + j])) * d;
}

// Twice the values of E2M1.
constexpr int8_t kFp4Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// {e, qs[16]}: 2^(e - 128) * doubled E2M1
void decode_mxfp4(const uint8_t* block, float* out) {
  // The two smallest scales are subnormal floats.
  const uint32_t e = block[0];
  const float scale = std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23);
  for (size_t j = 0; j < 16; ++j) {
    out[j] = static_cast<float>(kFp4Doubled[block[1 + j] & 15]) * scale;
    out[j + 16] = static_cast<float>(kFp4Doubled[block[1 + j] >> 4]) * scale;
  }
}

// Half the value of an unsigned E4M3 scale: the table is doubled.
float half_of_ue4m3(uint8_t bits) {
  if (bits == 0 || bits == 0x7f) return 0.0f;
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float value = exponent == 0
                          ? std::ldexp(static_cast<float>(mantissa), -9)
                          : std::ldexp(1.0f + static_cast<float>(mantissa) / 8.0f, exponent - 7);
  return value * 0.5f;
}

// {d[4], qs[32]}, 64 elements in sub-blocks of 16 (8 bytes): UE4M3 * E2M1
void decode_nvfp4(const uint8_t* block, float* out) {
  for (size_t s = 0; s < 4; ++s) {
    const float scale = half_of_ue4m3(block[s]);
    const uint8_t* qs = block + 4 + 8 * s;
    for (size_t j = 0; j < 8; ++j) {
      out[16 * s + j] = static_cast<float>(kFp4Doubled[qs[j] & 15]) * scale;
      out[16 * s + 8 + j] = static_cast<float>(kFp4Doubled[qs[j] >> 4]) * scale;
    }
  }
}

// --- One and two bits ---------------------------------------------------------------------------

// {d, qs[16]}, 128 elements: a set bit is +d, a clear one -d
void decode_q1_0(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (size_t j = 0; j < 128; ++j) out[j] = (block[2 + j / 8] >> (j % 8) & 1) ? d : -d;
}

// {d, qs[16]}, 64 elements, four to a byte: d * (q - 1)
void decode_q2_0(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (size_t j = 0; j < 64; ++j) {
    out[j] = static_cast<float>((block[2 + j / 4] >> (2 * (j % 4)) & 3) - 1) * d;
  }
}

// Two-bit codes of a super-block: element 128 h + 32 s + l is bits 2s, 2s + 1 of qs[32 h + l].
void unpack_2_bits(const uint8_t* qs, uint8_t* codes) {
  for (size_t h = 0; h < 2; ++h) {
    for (size_t s = 0; s < 4; ++s) {
      for (size_t l = 0; l < 32; ++l) codes[128 * h + 32 * s + l] = qs[32 * h + l] >> (2 * s) & 3;
    }
  }
}

// {qs[64], d}: d * (q - 1)
void decode_tq2_0(const uint8_t* block, float* out) {
  const float d = load_half(block + 64);
  uint8_t codes[kSuperBlock];
  unpack_2_bits(block, codes);
  for (size_t j = 0; j < kSuperBlock; ++j) out[j] = static_cast<float>(codes[j] - 1) * d;
}

// Digits of bytes that hold fractions in base 3, most significant first: multiplying by 3^n (and
// dropping the carry) moves digit n to the front, where the product with 3 reads it off.
// Digit n of byte m is element m + count * n.
void decode_trits(const uint8_t* bytes, size_t count, size_t digits, float d, float* out) {
  uint8_t power = 1;
  for (size_t n = 0; n < digits; ++n) {
    for (size_t m = 0; m < count; ++m) {
      const auto shifted = static_cast<uint8_t>(bytes[m] * power);
      out[count * n + m] = static_cast<float>((shifted * 3 >> 8) - 1) * d;
    }
    power = static_cast<uint8_t>(power * 3);
  }
}

// {qs[48], qh[4], d}: 160 elements in 32 bytes, 80 in 16, 16 in 4; d * (trit - 1)
void decode_tq1_0(const uint8_t* block, float* out) {
  const float d = load_half(block + 52);
  decode_trits(block, 32, 5, d, out);
  decode_trits(block + 32, 16, 5, d, out + 160);
  decode_trits(block + 48, 4, 4, d, out + 240);
}

// --- Super-blocks of 256 with scales of their own ("K-quants") ----------------------------------

// {scales[16], qs[64], d, dmin}: sub-blocks of 16; (d * sc) * q - dmin * mn
void decode_q2_k(const uint8_t* block, float* out) {
  const float d = load_half(block + 80), dmin = load_half(block + 82);
  uint8_t codes[kSuperBlock];
  unpack_2_bits(block + 16, codes);
  for (size_t b = 0; b < 16; ++b) {
    const float scale = d * static_cast<float>(block[b] & 15);
    const float offset = dmin * static_cast<float>(block[b] >> 4);
    for (size_t j = 16 * b; j < 16 * b + 16; ++j) {
      out[j] = scale * static_cast<float>(codes[j]) - offset;
    }
  }
}

// {hmask[32], qs[64], scales[12], d}: sub-blocks of 16; (d * (sc - 32)) * (q - 4)
void decode_q3_k(const uint8_t* block, float* out) {
  const uint8_t* scales = block + 96;
  const float d = load_half(block + 108);
  uint8_t codes[kSuperBlock];
  unpack_2_bits(block + 32, codes);
  // Bit g of hmask[l] is the third bit of element 32 g + l.
  for (size_t g = 0; g < 8; ++g) {
    for (size_t l = 0; l < 32; ++l) {
      codes[32 * g + l] = static_cast<uint8_t>(codes[32 * g + l] | (block[l] >> g & 1) << 2);
    }
  }
  for (size_t b = 0; b < 16; ++b) {
    const int low = b < 8 ? scales[b] & 15 : scales[b - 8] >> 4;
    const int high = scales[8 + b % 4] >> (2 * (b / 4)) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    for (size_t j = 16 * b; j < 16 * b + 16; ++j) {
      out[j] = scale * static_cast<float>(codes[j] - 4);
    }
  }
}

struct ScaleAndMin {
  float scale, min;
};

// Six-bit scale and minimum of sub-block j of Q4_K and Q5_K: the first four are whole bytes' low
// bits, the last four have their high bits in what those left free.
ScaleAndMin k_scale(const uint8_t* scales, size_t j) {
  int scale, min;
  if (j < 4) {
    scale = scales[j] & 63;
    min = scales[j + 4] & 63;
  } else {
    scale = (scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4;
    min = scales[j + 4] >> 4 | (scales[j] >> 6) << 4;
  }
  return {static_cast<float>(scale), static_cast<float>(min)};
}

// Half of the 64 elements of pair p of sub-blocks: (d * sc) * q - dmin * mn
void decode_k_sub_block(const uint8_t* codes, ScaleAndMin factors, float d, float dmin,
                        float* out) {
  const float scale = d * factors.scale, offset = dmin * factors.min;
  for (size_t l = 0; l < 32; ++l) out[l] = scale * static_cast<float>(codes[l]) - offset;
}

// {d, dmin, scales[12], qs[128]}: sub-blocks of 32; byte 32 p + l of qs holds elements 64 p + l and
// 64 p + 32 + l
void decode_q4_k(const uint8_t* block, float* out) {
  const float d = load_half(block), dmin = load_half(block + 2);
  for (size_t j = 0; j < 8; ++j) {
    const uint8_t* qs = block + 16 + 32 * (j / 2);
    const int shift = j % 2 ? 4 : 0;
    uint8_t codes[32];
    for (size_t l = 0; l < 32; ++l) codes[l] = qs[l] >> shift & 15;
    decode_k_sub_block(codes, k_scale(block + 4, j), d, dmin, out + 32 * j);
  }
}

// {d, dmin, scales[12], qh[32], qs[128]}: as Q4_K, and bit j of qh[l] is bit 4 of element 32 j + l
void decode_q5_k(const uint8_t* block, float* out) {
  const float d = load_half(block), dmin = load_half(block + 2);
  const uint8_t* high = block + 16;
  for (size_t j = 0; j < 8; ++j) {
    const uint8_t* qs = block + 48 + 32 * (j / 2);
    const int shift = j % 2 ? 4 : 0;
    uint8_t codes[32];
    for (size_t l = 0; l < 32; ++l) {
      codes[l] = static_cast<uint8_t>((qs[l] >> shift & 15) | (high[l] >> j & 1) << 4);
    }
    decode_k_sub_block(codes, k_scale(block + 4, j), d, dmin, out + 32 * j);
  }
}

// {ql[128], qh[64], scales[16] signed, d}: sub-blocks of 16; (d * sc) * (q - 32). Of the 128
// elements of half h, quarter k has its low bits in ql[64 h + 32 (k % 2) + l] (low or high four)
// and its high bits at bits 2k, 2k + 1 of qh[32 h + l].
void decode_q6_k(const uint8_t* block, float* out) {
  const float d = load_half(block + 208);
  for (size_t h = 0; h < 2; ++h) {
    const uint8_t* high = block + 128 + 32 * h;
    for (size_t k = 0; k < 4; ++k) {
      const uint8_t* low = block + 64 * h + 32 * (k % 2);
      const int shift = k < 2 ? 0 : 4;
      for (size_t part = 0; part < 2; ++part) {
        const auto factor = static_cast<int8_t>(block[192 + 8 * h + 2 * k + part]);
        const float scale = d * static_cast<float>(factor);
        for (size_t l = 16 * part; l < 16 * part + 16; ++l) {
          const int code = (low[l] >> shift & 15) | (high[l] >> (2 * k) & 3) << 4;
          out[128 * h + 32 * k + l] = scale * static_cast<float>(code - 32);
        }
      }
    }
  }
}

// --- Floating-point elements, in runs of their own ----------------------------------------------

void decode_f16(const uint8_t* block, float* out) { *out = load_half(block); }
void decode_bf16(const uint8_t* block, float* out) { *out = bf16_to_float(load<uint16_t>(block)); }
void decode_f32(const uint8_t* block, float* out) { *out = load<float>(block); }
void decode_f64(const uint8_t* block, float* out) {
  *out = static_cast<float>(load<double>(block));
}

// --- All blocks of a span -----------------------------------------------------------------------

using DecodeBlocks = void (*)(const uint8_t* bytes, size_t blocks, float* out);

// With the block's decoder and sizes known to the compiler, so that it can inline and vectorise.
template <DecodeBlock decode, size_t elements, size_t block_bytes>
void decode_blocks(const uint8_t* __restrict bytes, size_t blocks, float* __restrict out) {
  for (size_t i = 0; i < blocks; ++i) decode(bytes + i * block_bytes, out + i * elements);
}

struct Decoder {
  GgmlType type;
  size_t elements, bytes;
  DecodeBlocks decode;
};

template <DecodeBlock decode, size_t elements, size_t bytes>
constexpr Decoder decoder(GgmlType type) {
  return {type, elements, bytes, decode_blocks<decode, elements, bytes>};
}

constexpr Decoder kDecoders[] = {
    decoder<decode_f32, 1, 4>(GgmlType::f32),
    decoder<decode_f16, 1, 2>(GgmlType::f16),
    decoder<decode_bf16, 1, 2>(GgmlType::bf16),
    decoder<decode_f64, 1, 8>(GgmlType::f64),
    decoder<decode_q4_0, 32, 18>(GgmlType::q4_0),
    decoder<decode_q4_1, 32, 20>(GgmlType::q4_1),
    decoder<decode_q5_0, 32, 22>(GgmlType::q5_0),
    decoder<decode_q5_1, 32, 24>(GgmlType::q5_1),
    decoder<decode_q8_0, 32, 34>(GgmlType::q8_0),
    decoder<decode_q2_k, 256, 84>(GgmlType::q2_k),
    decoder<decode_q3_k, 256, 110>(GgmlType::q3_k),
    decoder<decode_q4_k, 256, 144>(GgmlType::q4_k),
    decoder<decode_q5_k, 256, 176>(GgmlType::q5_k),
    decoder<decode_q6_k, 256, 210>(GgmlType::q6_k),
    decoder<decode_tq1_0, 256, 54>(GgmlType::tq1_0),
    decoder<decode_tq2_0, 256, 66>(GgmlType::tq2_0),
    decoder<decode_mxfp4, 32, 17>(GgmlType::mxfp4),
    decoder<decode_nvfp4, 64, 36>(GgmlType::nvfp4),
    decoder<decode_q1_0, 128, 18>(GgmlType::q1_0),
    decoder<decode_q2_0, 64, 18>(GgmlType::q2_0),
    decoder<decode_iq1_s, 256, 50>(GgmlType::iq1_s),
    decoder<decode_iq1_m, 256, 56>(GgmlType::iq1_m),
    decoder<decode_iq2_xxs, 256, 66>(GgmlType::iq2_xxs),
    decoder<decode_iq2_xs, 256, 74>(GgmlType::iq2_xs),
    decoder<decode_iq2_s, 256, 82>(GgmlType::iq2_s),
    decoder<decode_iq3_xxs, 256, 98>(GgmlType::iq3_xxs),
    decoder<decode_iq3_s, 256, 110>(GgmlType::iq3_s),
    decoder<decode_iq4_nl, 32, 18>(GgmlType::iq4_nl),
    decoder<decode_iq4_xs, 256, 136>(GgmlType::iq4_xs),
};

const Decoder* find_decoder(GgmlType type) {
  for (const Decoder& candidate : kDecoders) {
    if (candidate.type == type) return &candidate;
  }
  return nullptr;
}

}  // namespace
}  // namespace ggml_blocks

bool ggml_decodable(GgmlType type) { return ggml_blocks::find_decoder(type) != nullptr; }

void dequantize_ggml(GgmlType type, std::span<const std::byte> bytes, std::span<float> out) {
  const std::string_view name = ggml_type_info(type).name;
  const ggml_blocks::Decoder* decoder = ggml_blocks::find_decoder(type);
  require(decoder != nullptr, "ggml type {} does not hold weights and is not decoded", name);
  const size_t blocks = out.size() / decoder->elements;
  require(out.size() % decoder->elements == 0 && bytes.size() / decoder->bytes == blocks &&
              bytes.size() % decoder->bytes == 0,
          "{} bytes of {} do not hold {} elements ({} bytes per block of {})", bytes.size(), name,
          out.size(), decoder->bytes, decoder->elements);
  decoder->decode(reinterpret_cast<const uint8_t*>(bytes.data()), blocks, out.data());
}

}  // namespace fewbit
