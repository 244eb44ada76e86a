// Draws of rows with replacement, thousands of times: the same as RandomStream::below() for each
// draw, only faster.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace fewbit {

class RowSampler {
 public:
  // rows > 0.
  explicit RowSampler(size_t rows);

  // Goes to the start of RandomStream(seed, purpose).
  void restart(uint64_t seed, std::string_view purpose);

  // Draws `rows` rows, from where the last draw ended; counts[i] = how often row i is among them.
  void draw(std::vector<uint32_t>& counts);

 private:
  size_t rows_;
  std::array<uint32_t, 2> key_{};
  uint64_t position_ = 0;  // in the stream, in 64-bit values
  std::vector<uint64_t> values_;
};

}  // namespace fewbit
