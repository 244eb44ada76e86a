#include "fewbit/formats/bit_pack.h"

#include <algorithm>
#include <array>

namespace fewbit {
namespace {

// Eight codes of b bits fill exactly b bytes, so whole octets never share a byte.
constexpr size_t kOctet = 8;

template <int bits>
void pack_octets(const uint8_t* codes, size_t octets, uint8_t* packed) {
  for (size_t o = 0; o < octets; ++o, codes += kOctet, packed += bits) {
    uint64_t window = 0;
    for (size_t i = 0; i < kOctet; ++i) window |= static_cast<uint64_t>(codes[i]) << (i * bits);
    for (int b = 0; b < bits; ++b) packed[b] = static_cast<uint8_t>(window >> (8 * b));
  }
}

template <int bits>
void unpack_octets(const uint8_t* packed, size_t octets, uint8_t* codes) {
  constexpr uint64_t mask = (uint64_t{1} << bits) - 1;
  for (size_t o = 0; o < octets; ++o, codes += kOctet, packed += bits) {
    uint64_t window = 0;
    for (int b = 0; b < bits; ++b) window |= static_cast<uint64_t>(packed[b]) << (8 * b);
    for (size_t i = 0; i < kOctet; ++i)
      codes[i] = static_cast<uint8_t>((window >> (i * bits)) & mask);
  }
}

template <int bits>
void pack(std::span<const uint8_t> codes, std::span<uint8_t> packed) {
  const size_t octets = codes.size() / kOctet, rest = codes.size() % kOctet;
  pack_octets<bits>(codes.data(), octets, packed.data());
  if (rest == 0) return;
  std::array<uint8_t, kOctet> last{}, bytes{};
  std::copy_n(codes.data() + octets * kOctet, rest, last.begin());
  pack_octets<bits>(last.data(), 1, bytes.data());
  std::copy_n(bytes.begin(), packed_bytes(rest, bits), packed.data() + octets * bits);
}

template <int bits>
void unpack(std::span<const uint8_t> packed, std::span<uint8_t> codes) {
  const size_t octets = codes.size() / kOctet, rest = codes.size() % kOctet;
  unpack_octets<bits>(packed.data(), octets, codes.data());
  if (rest == 0) return;
  std::array<uint8_t, kOctet> last{}, bytes{};
  std::copy_n(packed.data() + octets * bits, packed_bytes(rest, bits), bytes.begin());
  unpack_octets<bits>(bytes.data(), 1, last.data());
  std::copy_n(last.begin(), rest, codes.data() + octets * kOctet);
}

using Pack = void (*)(std::span<const uint8_t>, std::span<uint8_t>);
constexpr std::array<Pack, 9> kPack = {nullptr, pack<1>, pack<2>, pack<3>, pack<4>,
                                       pack<5>, pack<6>, pack<7>, pack<8>};
constexpr std::array<Pack, 9> kUnpack = {nullptr,   unpack<1>, unpack<2>, unpack<3>, unpack<4>,
                                         unpack<5>, unpack<6>, unpack<7>, unpack<8>};

}  // namespace

void pack_codes(std::span<const uint8_t> codes, int bits, std::span<uint8_t> packed) {
  kPack[static_cast<size_t>(bits)](codes, packed);
}

void unpack_codes(std::span<const uint8_t> packed, int bits, std::span<uint8_t> codes) {
  kUnpack[static_cast<size_t>(bits)](packed, codes);
}

}  // namespace fewbit
