// For kernels that make the words of a RandomStream themselves, many at a time.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace fewbit {

// Words 4 i to 4 i + 3 of RandomStream(seed, purpose) are
// philox4x32({low half of i, high half of i, 0, 0}, stream_key(seed, purpose)).
std::array<uint32_t, 2> stream_key(uint64_t seed, std::string_view purpose);

}  // namespace fewbit
