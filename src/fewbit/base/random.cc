#include "fewbit/base/random.h"

#include <cmath>
#include <numbers>
#include <numeric>

#include "fewbit/base/random_key.h"

namespace fewbit {
namespace {

// Philox constants of the paper: multipliers and Weyl increments of the key.
constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;

// FNV-1a, 64 bits: turns a purpose into a key.
uint64_t hash_text(std::string_view text, uint64_t hash = 0xcbf29ce484222325ull) {
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3ull;
  return hash;
}

// SplitMix64's finaliser: spreads nearby seeds.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = kMultiplier0 * c[0], p1 = kMultiplier1 * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    k[0] += kWeyl0;
    k[1] += kWeyl1;
  }
  return c;
}

// Words 4 index to 4 index + 3 of a stream.
std::array<uint32_t, 4> words_at(uint64_t index, std::array<uint32_t, 2> key) {
  return philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0}, key);
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  return philox(counter, key);
}

std::array<uint32_t, 2> stream_key(uint64_t seed, std::string_view purpose) {
  const uint64_t key = mix(mix(seed + 0x9e3779b97f4a7c15ull) ^ hash_text(purpose));
  return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
}

RandomStream::RandomStream(uint64_t seed, std::string_view purpose)
    : key_(stream_key(seed, purpose)) {}

void RandomStream::set_position(uint64_t position) { position_ = position; }

uint32_t RandomStream::next_u32() {
  const uint64_t index = position_ / 4;
  if (index != block_index_) {
    block_ = words_at(index, key_);
    block_index_ = index;
  }
  return block_[position_++ % 4];
}

uint64_t RandomStream::next_u64() {
  const uint64_t index = position_ / 4, word = position_ % 4;
  if (word == 3) {  // the only pair that lies in two blocks
    const uint64_t low = next_u32();
    return low | (static_cast<uint64_t>(next_u32()) << 32);
  }
  if (index != block_index_) {
    block_ = words_at(index, key_);
    block_index_ = index;
  }
  position_ += 2;
  return block_[word] | (static_cast<uint64_t>(block_[word + 1]) << 32);
}

double RandomStream::uniform() { return static_cast<double>(next_u64() >> 11) * 0x1p-53; }

double RandomStream::normal() {
  // 1 - uniform lies in (0, 1], so the logarithm is finite.
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

uint64_t RandomStream::below(uint64_t bound) {
  // Values at and above the largest multiple of `bound` are drawn again. Only the last `bound`
  // values can be such: hardly ever is the division for the limit needed.
  uint64_t value = next_u64();
  while (value > UINT64_MAX - bound && value >= UINT64_MAX - UINT64_MAX % bound) {
    value = next_u64();
  }
  return value % bound;
}

std::vector<uint32_t> RandomStream::permutation(size_t count) {
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[below(i)]);
  return order;
}

void RandomStream::fill_normal(std::span<float> out, double mean, double stddev) {
  for (float& value : out) value = static_cast<float>(mean + stddev * normal());
}

}  // namespace fewbit
