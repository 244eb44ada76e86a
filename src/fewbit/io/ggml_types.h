// The tensor types of ggml: what a GGUF file stores, as block geometry (docs/formats/gguf.md).
//
// Decoding is formats/ggml_blocks.h. Source: the public enumeration `ggml_type` of ggml 0.25.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace fewbit {

enum class GgmlType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q8_1 = 9,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,
  q2_0 = 42,
};

struct GgmlTypeInfo {
  GgmlType type;
  std::string_view name;  // "Q4_K"
  size_t block_elements;
  size_t block_bytes;

  uint32_t id() const { return static_cast<uint32_t>(type); }
  double bits_per_weight() const {
    return 8.0 * static_cast<double>(block_bytes) / static_cast<double>(block_elements);
  }
};

// Every known type, by id.
std::span<const GgmlTypeInfo> ggml_types();

// The entry of a type; the first form: nullptr if the id is not known.
const GgmlTypeInfo* find_ggml_type(uint32_t id);
const GgmlTypeInfo& ggml_type_info(GgmlType type);
// By name, upper or lower case; Error that lists the known names.
const GgmlTypeInfo& ggml_type_from_name(std::string_view name);

// "type 36 is not known (...)": for errors about a type without an entry.
std::string describe_unknown_ggml_type(uint32_t id);

// Bytes of `elements` elements in whole blocks; Error if they are no whole number of blocks.
size_t ggml_bytes(GgmlType type, size_t elements);

}  // namespace fewbit
