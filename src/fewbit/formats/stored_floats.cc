#include "fewbit/formats/stored_floats.h"

#include <cstring>

#include "fewbit/base/error.h"
#include "fewbit/base/half.h"

namespace fewbit {
namespace {

void require_float_dtype(Dtype dtype) {
  require(dtype == Dtype::f16 || dtype == Dtype::bf16 || dtype == Dtype::f32,
          "dtype {} is not allowed here; allowed: F16, BF16 or F32", dtype_name(dtype));
}

}  // namespace

float round_to_dtype(Dtype dtype, float value) {
  switch (dtype) {
    case Dtype::f16:
      return f16_to_float(float_to_f16(value));
    case Dtype::bf16:
      return bf16_to_float(float_to_bf16(value));
    default:
      return value;
  }
}

Dtype float_dtype_from_word(std::string_view word) {
  if (word == "f16") return Dtype::f16;
  if (word == "bf16") return Dtype::bf16;
  require(word == "f32", "'{}' is not a float type; allowed: f16, bf16 or f32", word);
  return Dtype::f32;
}

std::string_view word_of_float_dtype(Dtype dtype) {
  require_float_dtype(dtype);
  return dtype == Dtype::f16 ? "f16" : dtype == Dtype::bf16 ? "bf16" : "f32";
}

StoredFloats::StoredFloats(Dtype dtype, size_t count) : dtype_(dtype) {
  require_float_dtype(dtype);
  bytes_.resize(count * dtype_bytes(dtype));
}

StoredFloats::StoredFloats(Dtype dtype, std::span<const float> values)
    : StoredFloats(dtype, values.size()) {
  for (size_t i = 0; i < values.size(); ++i) set(i, values[i]);
}

StoredFloats StoredFloats::from_bytes(Dtype dtype, std::span<const std::byte> bytes) {
  StoredFloats result(dtype, 0);
  require(bytes.size() % dtype_bytes(dtype) == 0, "{} bytes are not a whole number of {} elements",
          bytes.size(), dtype_name(dtype));
  result.bytes_.assign(bytes.begin(), bytes.end());
  return result;
}

float StoredFloats::operator[](size_t i) const {
  if (dtype_ == Dtype::f32) {
    float value;
    std::memcpy(&value, &bytes_[i * sizeof value], sizeof value);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, &bytes_[i * sizeof half], sizeof half);
  return dtype_ == Dtype::f16 ? f16_to_float(half) : bf16_to_float(half);
}

void StoredFloats::set(size_t i, float value) {
  if (dtype_ == Dtype::f32) {
    std::memcpy(&bytes_[i * sizeof value], &value, sizeof value);
    return;
  }
  const uint16_t half = dtype_ == Dtype::f16 ? float_to_f16(value) : float_to_bf16(value);
  std::memcpy(&bytes_[i * sizeof half], &half, sizeof half);
}

std::vector<float> StoredFloats::to_floats() const {
  std::vector<float> values(size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = (*this)[i];
  return values;
}

}  // namespace fewbit
