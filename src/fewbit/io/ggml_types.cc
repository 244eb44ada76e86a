#include "fewbit/io/ggml_types.h"

#include <algorithm>
#include <cctype>
#include <stdexcept>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr GgmlTypeInfo kTypes[] = {
    {GgmlType::f32, "F32", 1, 4},
    {GgmlType::f16, "F16", 1, 2},
    {GgmlType::q4_0, "Q4_0", 32, 18},
    {GgmlType::q4_1, "Q4_1", 32, 20},
    {GgmlType::q5_0, "Q5_0", 32, 22},
    {GgmlType::q5_1, "Q5_1", 32, 24},
    {GgmlType::q8_0, "Q8_0", 32, 34},
    {GgmlType::q8_1, "Q8_1", 32, 36},
    {GgmlType::q2_k, "Q2_K", 256, 84},
    {GgmlType::q3_k, "Q3_K", 256, 110},
    {GgmlType::q4_k, "Q4_K", 256, 144},
    {GgmlType::q5_k, "Q5_K", 256, 176},
    {GgmlType::q6_k, "Q6_K", 256, 210},
    {GgmlType::q8_k, "Q8_K", 256, 292},
    {GgmlType::iq2_xxs, "IQ2_XXS", 256, 66},
    {GgmlType::iq2_xs, "IQ2_XS", 256, 74},
    {GgmlType::iq3_xxs, "IQ3_XXS", 256, 98},
    {GgmlType::iq1_s, "IQ1_S", 256, 50},
    {GgmlType::iq4_nl, "IQ4_NL", 32, 18},
    {GgmlType::iq3_s, "IQ3_S", 256, 110},
    {GgmlType::iq2_s, "IQ2_S", 256, 82},
    {GgmlType::iq4_xs, "IQ4_XS", 256, 136},
    {GgmlType::i8, "I8", 1, 1},
    {GgmlType::i16, "I16", 1, 2},
    {GgmlType::i32, "I32", 1, 4},
    {GgmlType::i64, "I64", 1, 8},
    {GgmlType::f64, "F64", 1, 8},
    {GgmlType::iq1_m, "IQ1_M", 256, 56},
    {GgmlType::bf16, "BF16", 1, 2},
    {GgmlType::tq1_0, "TQ1_0", 256, 54},
    {GgmlType::tq2_0, "TQ2_0", 256, 66},
    {GgmlType::mxfp4, "MXFP4", 32, 17},
    {GgmlType::nvfp4, "NVFP4", 64, 36},
    {GgmlType::q1_0, "Q1_0", 128, 18},
    {GgmlType::q2_0, "Q2_0", 64, 18},
};

}  // namespace

std::span<const GgmlTypeInfo> ggml_types() { return kTypes; }

const GgmlTypeInfo* find_ggml_type(uint32_t id) {
  const auto* found = std::ranges::find(kTypes, id, &GgmlTypeInfo::id);
  return found == std::end(kTypes) ? nullptr : found;
}

const GgmlTypeInfo& ggml_type_info(GgmlType type) {
  const GgmlTypeInfo* found = find_ggml_type(static_cast<uint32_t>(type));
  if (found == nullptr) throw std::logic_error("ggml type without a table entry");
  return *found;
}

const GgmlTypeInfo& ggml_type_from_name(std::string_view name) {
  std::string upper(name);
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const auto* found = std::ranges::find(kTypes, upper, &GgmlTypeInfo::name);
  if (found != std::end(kTypes)) return *found;
  std::string known;
  for (const GgmlTypeInfo& info : kTypes) known += fmt::format(" {}", info.name);
  fail("'{}' is not a ggml type; known are{}", name, known);
}

std::string describe_unknown_ggml_type(uint32_t id) {
  // Numbers that old files or forks use.
  const auto meaning = [&]() -> std::string_view {
    switch (id) {
      case 4:
        return " (Q4_2, removed from ggml)";
      case 5:
        return " (Q4_3, removed from ggml)";
      case 31:
      case 32:
      case 33:
        return " (an interleaved Q4_0, removed from ggml: requantize the model as Q4_0)";
      case 36:
        return " (I2_S of a BitNet fork, or an interleaved IQ4_NL removed from ggml)";
      case 37:
      case 38:
        return " (an interleaved IQ4_NL removed from ggml, or a type of a fork)";
      default:
        return "";
    }
  };
  return fmt::format("type {} is not known{}", id, meaning());
}

size_t ggml_bytes(GgmlType type, size_t elements) {
  const GgmlTypeInfo& info = ggml_type_info(type);
  require(elements % info.block_elements == 0,
          "{} elements are no multiple of the {} of a {} block", elements, info.block_elements,
          info.name);
  size_t bytes = 0;
  require(!__builtin_mul_overflow(elements / info.block_elements, info.block_bytes, &bytes),
          "{} elements of {}: the size overflows", elements, info.name);
  return bytes;
}

}  // namespace fewbit
