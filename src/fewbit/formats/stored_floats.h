// An array of floats kept in the type that the file holds: F16, BF16 or F32.
//
// Scales and codebooks are rounded to this type before codes are chosen, so that what was fitted is
// what is stored.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "fewbit/io/safetensors.h"

namespace fewbit {

// `value` as it comes back after being stored as `dtype` (nearest, ties to even).
float round_to_dtype(Dtype dtype, float value);

// "f16", "bf16" or "f32", as options spell it; Error for other words.
Dtype float_dtype_from_word(std::string_view word);
std::string_view word_of_float_dtype(Dtype dtype);

class StoredFloats {
 public:
  StoredFloats() = default;
  // `count` zeros. Error unless `dtype` is F16, BF16 or F32.
  StoredFloats(Dtype dtype, size_t count);
  // Rounds `values`.
  StoredFloats(Dtype dtype, std::span<const float> values);
  // Copies little-endian bytes; their number must be a multiple of the element's size.
  static StoredFloats from_bytes(Dtype dtype, std::span<const std::byte> bytes);

  Dtype dtype() const { return dtype_; }
  size_t size() const { return bytes_.size() / dtype_bytes(dtype_); }
  float operator[](size_t i) const;
  void set(size_t i, float value);
  std::vector<float> to_floats() const;
  std::span<const std::byte> bytes() const { return bytes_; }
  friend bool operator==(const StoredFloats&, const StoredFloats&) = default;

 private:
  Dtype dtype_ = Dtype::f32;
  std::vector<std::byte> bytes_;
};

}  // namespace fewbit
