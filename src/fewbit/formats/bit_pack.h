// Codes of 1 to 8 bits as one dense bit stream, low bits first: code i occupies bits
// [i * bits, (i + 1) * bits), bit k of the stream is bit k % 8 of byte k / 8. The unused high bits
// of the last byte are 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fewbit {

// Bytes that hold `count` codes.
constexpr size_t packed_bytes(size_t count, int bits) {
  return (count * static_cast<size_t>(bits) + 7) / 8;
}

// `packed` has packed_bytes(codes.size(), bits) bytes; codes are below 2^bits.
void pack_codes(std::span<const uint8_t> codes, int bits, std::span<uint8_t> packed);
void unpack_codes(std::span<const uint8_t> packed, int bits, std::span<uint8_t> codes);

// Code `index` of a stream.
inline uint8_t packed_code(std::span<const uint8_t> packed, int bits, size_t index) {
  const size_t bit = index * static_cast<size_t>(bits), byte = bit / 8;
  unsigned window = packed[byte];
  if (bit % 8 + static_cast<size_t>(bits) > 8)
    window |= static_cast<unsigned>(packed[byte + 1]) << 8;
  return static_cast<uint8_t>((window >> (bit % 8)) & ((1u << bits) - 1));
}

}  // namespace fewbit
