// What this machine could do at most: the denominators of the benchmarks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fewbit {

// Sum of 8-byte words: a plain read.
uint64_t sum_of_words(std::span<const std::byte> bytes);

// Integer operations a second of one thread that does nothing but multiply registers of bytes with
// the dot product of the panel kernels (a multiplication and an addition count as two).
double dot_product_peak();

}  // namespace fewbit
