// Code planes: what one term of a QuantizedMatrix stores, and how it decodes.
//
// A plane is a matrix [rows, cols] of codes with the parameters that turn them into floats. Codes
// of a row are one dense bit stream (bit_pack.h), each row starting on a byte boundary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/formats/bit_pack.h"
#include "fewbit/formats/stored_floats.h"
#include "fewbit/io/safetensors.h"

namespace fewbit {

// A tensor that owns its bytes, ready to be written.
struct NamedTensor {
  std::string name;
  Dtype dtype = Dtype::u8;
  std::vector<size_t> shape;
  std::vector<std::byte> bytes;

  TensorView view() const { return {name, dtype, shape, bytes}; }
  friend bool operator==(const NamedTensor&, const NamedTensor&) = default;
};

// The tensor of that name, or null.
using TensorFinder = std::function<const TensorView*(std::string_view name)>;
// Error unless the tensor is there with this type and shape and as many bytes as they need.
const TensorView& find_checked(const TensorFinder& find, const std::string& name, Dtype dtype,
                               const std::vector<size_t>& shape);

// [rows, cols] codes of `bits` bits.
struct CodeMatrix {
  size_t rows = 0, cols = 0;
  int bits = 0;
  std::vector<uint8_t> bytes;  // [rows, row_bytes()]

  CodeMatrix() = default;
  // All codes 0. Error unless bits is 1 to 8.
  CodeMatrix(size_t rows, size_t cols, int bits);
  size_t row_bytes() const { return packed_bytes(cols, bits); }
  std::span<const uint8_t> row(size_t r) const { return {&bytes[r * row_bytes()], row_bytes()}; }
  std::span<uint8_t> row(size_t r) { return {&bytes[r * row_bytes()], row_bytes()}; }
  // All codes of row r, one a byte; `codes` has `cols` elements.
  void get_row(size_t r, std::span<uint8_t> codes) const { unpack_codes(row(r), bits, codes); }
  void set_row(size_t r, std::span<const uint8_t> codes) { pack_codes(codes, bits, row(r)); }
  uint8_t at(size_t r, size_t c) const { return packed_code(row(r), bits, c); }
  friend bool operator==(const CodeMatrix&, const CodeMatrix&) = default;
};

// Affine: w = scale * (code - zero_point), one scale and one zero point for every row and group of
// `group_size` columns; the last group may be shorter.
struct UniformPlane {
  enum class ZeroPoint {
    symmetric,  // 2^(bits - 1) everywhere, not stored
    integer,    // a code of `bits` bits
    real        // a float of the scales' type (HQQ)
  };

  CodeMatrix codes;
  size_t group_size = 0;
  ZeroPoint zero_point_kind = ZeroPoint::symmetric;
  StoredFloats scales;      // [rows, groups()]
  CodeMatrix zero_points;   // [rows, groups()] if integer, otherwise empty
  StoredFloats real_zeros;  // [rows, groups()] if real, otherwise empty

  UniformPlane() = default;
  // All codes, scales and zero points 0. `group_size` 0 or above `cols`: one group per row.
  UniformPlane(size_t rows, size_t cols, int bits, size_t group_size, ZeroPoint kind,
               Dtype scale_dtype);
  int bits() const { return codes.bits; }
  size_t groups() const { return (codes.cols + group_size - 1) / group_size; }
  float scale(size_t row, size_t group) const { return scales[row * groups() + group]; }
  float zero_point(size_t row, size_t group) const;
  friend bool operator==(const UniformPlane&, const UniformPlane&) = default;
};

// Absolute maxima of blocks, themselves quantised: map[code] * absmax2[block / 256] + offset with
// the 8-bit dynamic map (QLoRA's double quantisation).
struct DoubleQuantizedScales {
  static constexpr size_t kBlock = 256;

  std::vector<uint8_t> codes;  // one per block of weights
  StoredFloats absmax2;        // F32, one per kBlock codes
  StoredFloats offset;         // F32, one

  size_t size() const { return codes.size(); }
  float operator[](size_t i) const;
  friend bool operator==(const DoubleQuantizedScales&, const DoubleQuantizedScales&) = default;
};
// offset = mean; the rest nearest in the dynamic map relative to its block's largest magnitude.
DoubleQuantizedScales double_quantize(std::span<const float> absmax);

// w = codebook[code] * absmax of its block.
struct CodebookPlane {
  enum class Blocks {
    flattened,  // block_size consecutive elements of the row-major matrix, across rows
                // (bitsandbytes)
    rows        // block_size columns of one row; the last block of a row may be shorter
  };

  CodeMatrix codes;
  std::string codebook_name;  // of named_codebook(), or empty: the levels are stored
  StoredFloats levels;        // 2^bits, in code order; stored only if there is no name
  Blocks blocks = Blocks::rows;
  size_t block_size = 0;
  std::variant<StoredFloats, DoubleQuantizedScales> absmax;  // [block_count()]

  int bits() const { return codes.bits; }
  size_t block_count() const;
  size_t block_of(size_t row, size_t col) const;
  float absmax_of(size_t block) const;
  friend bool operator==(const CodebookPlane&, const CodebookPlane&) = default;
};

using CodePlane = std::variant<UniformPlane, CodebookPlane>;

// Shape of a plane.
size_t plane_rows(const CodePlane& plane);
size_t plane_cols(const CodePlane& plane);
// Error that says which part of the plane does not fit the others.
void check_plane(const CodePlane& plane);
// Adds decoded row `row` to `out`, which has plane_cols() elements.
void add_plane_row(const CodePlane& plane, size_t row, std::span<float> out);
// "uniform b4 g128", for messages and reports.
std::string describe_plane(const CodePlane& plane);

// Serialisation (docs/formats/quantized-matrix.md): appends the tensors, named prefix + ".codes"
// and so on, and returns the description.
Json plane_to_tensors(const CodePlane& plane, const std::string& prefix,
                      std::vector<NamedTensor>& tensors);
CodePlane plane_from_tensors(const Json& description, size_t rows, size_t cols,
                             const std::string& prefix, const TensorFinder& find);

}  // namespace fewbit
