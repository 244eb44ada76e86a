// Counter-based random numbers (Philox 4x32-10, Salmon et al., SC 2011).
//
// A stream is (seed, purpose): values depend only on them and on the position, never on threads or
// on what other streams drew, so init, data order, dropout and zeroth-order noise are independent
// and a resumed run continues exactly. State = one counter, which checkpoints store.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace fewbit {

// Four 32-bit words at `counter` of the stream with `key`.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

class RandomStream {
 public:
  // `purpose` separates streams of one seed: "init", "data", "bootstrap", ...
  RandomStream(uint64_t seed, std::string_view purpose);

  uint32_t next_u32();
  uint64_t next_u64();
  // Uniform in [0, 1), 53 bits.
  double uniform();
  // Standard normal (Box-Muller).
  double normal();
  // Uniform in [0, bound), unbiased. bound > 0.
  uint64_t below(uint64_t bound);
  // 0..count-1 in random order (Fisher-Yates).
  std::vector<uint32_t> permutation(size_t count);
  void fill_normal(std::span<float> out, double mean, double stddev);

  // Position in the stream, in 32-bit words; set_position(position()) is a no-op.
  uint64_t position() const { return position_; }
  void set_position(uint64_t position);

 private:
  std::array<uint32_t, 2> key_;
  uint64_t position_ = 0;
  std::array<uint32_t, 4> block_{};
  uint64_t block_index_ = UINT64_MAX;
};

}  // namespace fewbit
