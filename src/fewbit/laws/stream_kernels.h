// Values of a random stream, many at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace fewbit {

// Values are made so many at a time.
inline constexpr size_t kStreamValues = 16;

// The values that RandomStream::next_u64() returns from word 4 `block` on, for the stream_key()
// `key`. The number of values must be a multiple of kStreamValues.
void fill_stream_values(std::array<uint32_t, 2> key, uint64_t block, std::span<uint64_t> values);

}  // namespace fewbit
