#include "fewbit/formats/code_planes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fewbit/base/error.h"
#include "fewbit/formats/codebooks.h"

namespace fewbit {
namespace {

constexpr int kMaxBits = 8;

size_t ceil_divide(size_t a, size_t b) { return (a + b - 1) / b; }

void require_bits(int bits) {
  require(bits >= 1 && bits <= kMaxBits, "{} bits are not allowed; allowed: 1 to {}", bits,
          kMaxBits);
}

void check_codes(const CodeMatrix& codes, size_t rows, size_t cols, const char* what) {
  require_bits(codes.bits);
  require(
      codes.rows == rows && codes.cols == cols && codes.bytes.size() == rows * codes.row_bytes(),
      "{} have shape [{}, {}] and {} bytes; expected shape [{}, {}]", what, codes.rows, codes.cols,
      codes.bytes.size(), rows, cols);
}

void check_size(size_t actual, size_t expected, const char* what) {
  require(actual == expected, "{}: {} values; expected {}", what, actual, expected);
}

std::vector<std::byte> copy_bytes(std::span<const uint8_t> bytes) {
  const auto view = std::as_bytes(bytes);
  return {view.begin(), view.end()};
}

NamedTensor codes_tensor(const CodeMatrix& codes, std::string name) {
  return {std::move(name), Dtype::u8, {codes.rows, codes.row_bytes()}, copy_bytes(codes.bytes)};
}

NamedTensor floats_tensor(const StoredFloats& values, std::string name, std::vector<size_t> shape) {
  return {std::move(name),
          values.dtype(),
          std::move(shape),
          {values.bytes().begin(), values.bytes().end()}};
}

std::vector<uint8_t> bytes_of(const TensorView& tensor) {
  const auto* data = reinterpret_cast<const uint8_t*>(tensor.bytes.data());
  return {data, data + tensor.bytes.size()};
}

CodeMatrix codes_from(const TensorFinder& find, const std::string& name, size_t rows, size_t cols,
                      int bits) {
  const TensorView& tensor = find_checked(find, name, Dtype::u8, {rows, packed_bytes(cols, bits)});
  CodeMatrix codes;
  codes.rows = rows;
  codes.cols = cols;
  codes.bits = bits;
  codes.bytes = bytes_of(tensor);
  return codes;
}

StoredFloats floats_from(const TensorFinder& find, const std::string& name, Dtype dtype,
                         const std::vector<size_t>& shape) {
  return StoredFloats::from_bytes(dtype, find_checked(find, name, dtype, shape).bytes);
}

int bits_from(const Json& description) {
  const int bits = static_cast<int>(json_get_size(description, "bits", kMaxBits));
  require_bits(bits);
  return bits;
}

// --- uniform -------------------------------------------------------------------------------------

const char* word_of(UniformPlane::ZeroPoint kind) {
  switch (kind) {
    case UniformPlane::ZeroPoint::symmetric:
      return "symmetric";
    case UniformPlane::ZeroPoint::integer:
      return "integer";
    case UniformPlane::ZeroPoint::real:
      return "real";
  }
  return "";
}

UniformPlane::ZeroPoint zero_point_from(const std::string& word) {
  using enum UniformPlane::ZeroPoint;
  for (const auto kind : {symmetric, integer, real}) {
    if (word == word_of(kind)) return kind;
  }
  fail("zero_point '{}' is not known; known: symmetric, integer or real", word);
}

void check(const UniformPlane& plane) {
  const size_t rows = plane.codes.rows, cols = plane.codes.cols;
  check_codes(plane.codes, rows, cols, "codes");
  require(plane.group_size >= 1 && plane.group_size <= std::max<size_t>(cols, 1),
          "group_size {} is not allowed; allowed: 1 to {}", plane.group_size, cols);
  const size_t groups = plane.groups();
  check_size(plane.scales.size(), rows * groups, "scales");
  const bool integer = plane.zero_point_kind == UniformPlane::ZeroPoint::integer;
  const bool real = plane.zero_point_kind == UniformPlane::ZeroPoint::real;
  if (integer) {
    check_codes(plane.zero_points, rows, groups, "zero points");
    require(plane.zero_points.bits == plane.bits(), "zero points have {} bits; expected {}",
            plane.zero_points.bits, plane.bits());
  }
  require(integer || plane.zero_points.bytes.empty(), "zero points are given but not declared");
  check_size(plane.real_zeros.size(), real ? rows * groups : 0, "real zero points");
  require(!real || plane.real_zeros.dtype() == plane.scales.dtype(),
          "real zero points must have the type of the scales");
}

void add_row(const UniformPlane& plane, size_t row, std::span<float> out) {
  std::vector<uint8_t> codes(plane.codes.cols);
  plane.codes.get_row(row, codes);
  const size_t groups = plane.groups();
  for (size_t group = 0; group < groups; ++group) {
    const float scale = plane.scale(row, group), zero = plane.zero_point(row, group);
    const size_t first = group * plane.group_size;
    const size_t last = std::min(first + plane.group_size, codes.size());
    for (size_t c = first; c < last; ++c) {
      out[c] += scale * (static_cast<float>(codes[c]) - zero);
    }
  }
}

std::string describe(const UniformPlane& plane) {
  return fmt::format("uniform b{} g{} {} scales, {} zero points", plane.bits(), plane.group_size,
                     word_of_float_dtype(plane.scales.dtype()), word_of(plane.zero_point_kind));
}

Json serialise(const UniformPlane& plane, const std::string& prefix,
               std::vector<NamedTensor>& tensors) {
  const std::vector<size_t> shape = {plane.codes.rows, plane.groups()};
  tensors.push_back(codes_tensor(plane.codes, prefix + ".codes"));
  tensors.push_back(floats_tensor(plane.scales, prefix + ".scales", shape));
  if (plane.zero_point_kind == UniformPlane::ZeroPoint::integer) {
    tensors.push_back(codes_tensor(plane.zero_points, prefix + ".zero_points"));
  } else if (plane.zero_point_kind == UniformPlane::ZeroPoint::real) {
    tensors.push_back(floats_tensor(plane.real_zeros, prefix + ".zero_points", shape));
  }
  return {{"kind", "uniform"},
          {"bits", plane.bits()},
          {"group_size", plane.group_size},
          {"scale_dtype", word_of_float_dtype(plane.scales.dtype())},
          {"zero_point", word_of(plane.zero_point_kind)}};
}

UniformPlane uniform_from(const Json& description, size_t rows, size_t cols,
                          const std::string& prefix, const TensorFinder& find) {
  UniformPlane plane;
  const int bits = bits_from(description);
  plane.codes = codes_from(find, prefix + ".codes", rows, cols, bits);
  plane.group_size = json_get_size(description, "group_size", cols);
  require(plane.group_size >= 1, "{}: group_size 0 is not allowed; allowed: 1 to {}", prefix, cols);
  const Dtype dtype = float_dtype_from_word(json_get<std::string>(description, "scale_dtype"));
  const std::vector<size_t> shape = {rows, plane.groups()};
  plane.scales = floats_from(find, prefix + ".scales", dtype, shape);
  plane.zero_point_kind = zero_point_from(json_get<std::string>(description, "zero_point"));
  if (plane.zero_point_kind == UniformPlane::ZeroPoint::integer) {
    plane.zero_points = codes_from(find, prefix + ".zero_points", rows, plane.groups(), bits);
  } else if (plane.zero_point_kind == UniformPlane::ZeroPoint::real) {
    plane.real_zeros = floats_from(find, prefix + ".zero_points", dtype, shape);
  }
  return plane;
}

// --- codebook ------------------------------------------------------------------------------------

std::vector<float> levels_of(const CodebookPlane& plane) {
  if (plane.codebook_name.empty()) return plane.levels.to_floats();
  const auto levels = named_codebook(plane.codebook_name);
  return {levels.begin(), levels.end()};
}

void check(const CodebookPlane& plane) {
  check_codes(plane.codes, plane.codes.rows, plane.codes.cols, "codes");
  const size_t levels = size_t{1} << plane.bits();
  if (plane.codebook_name.empty()) {
    check_size(plane.levels.size(), levels, "levels of the codebook");
  } else {
    check_size(named_codebook(plane.codebook_name).size(), levels, "levels of the codebook");
    check_size(plane.levels.size(), 0, "levels beside a named codebook");
  }
  require(plane.block_size >= 1, "block_size 0 is not allowed");
  const size_t blocks = plane.block_count();
  if (const auto* scales = std::get_if<StoredFloats>(&plane.absmax)) {
    check_size(scales->size(), blocks, "absmax");
  } else {
    const auto& twice = std::get<DoubleQuantizedScales>(plane.absmax);
    check_size(twice.codes.size(), blocks, "absmax codes");
    check_size(twice.absmax2.size(), ceil_divide(blocks, DoubleQuantizedScales::kBlock), "absmax2");
    check_size(twice.offset.size(), 1, "offset of absmax");
    require(twice.absmax2.dtype() == Dtype::f32 && twice.offset.dtype() == Dtype::f32,
            "absmax2 and its offset must be F32");
  }
}

void add_row(const CodebookPlane& plane, size_t row, std::span<float> out) {
  std::vector<uint8_t> codes(plane.codes.cols);
  plane.codes.get_row(row, codes);
  const std::vector<float> levels = levels_of(plane);
  for (size_t c = 0; c < codes.size();) {
    const size_t block = plane.block_of(row, c);
    const float absmax = plane.absmax_of(block);
    for (; c < codes.size() && plane.block_of(row, c) == block; ++c) {
      out[c] += levels[codes[c]] * absmax;
    }
  }
}

const char* word_of(CodebookPlane::Blocks blocks) {
  return blocks == CodebookPlane::Blocks::rows ? "rows" : "flattened";
}

std::string describe(const CodebookPlane& plane) {
  const bool twice = std::holds_alternative<DoubleQuantizedScales>(plane.absmax);
  return fmt::format("{} b{} block {} of {}, {} absmax",
                     plane.codebook_name.empty() ? "codebook" : plane.codebook_name, plane.bits(),
                     plane.block_size, word_of(plane.blocks),
                     twice ? "double quantised"
                           : word_of_float_dtype(std::get<StoredFloats>(plane.absmax).dtype()));
}

Json serialise(const CodebookPlane& plane, const std::string& prefix,
               std::vector<NamedTensor>& tensors) {
  Json description = {{"kind", "codebook"},
                      {"bits", plane.bits()},
                      {"blocks", word_of(plane.blocks)},
                      {"block_size", plane.block_size}};
  tensors.push_back(codes_tensor(plane.codes, prefix + ".codes"));
  if (plane.codebook_name.empty()) {
    description["level_dtype"] = word_of_float_dtype(plane.levels.dtype());
    tensors.push_back(floats_tensor(plane.levels, prefix + ".levels", {plane.levels.size()}));
  } else {
    description["codebook"] = plane.codebook_name;
  }
  if (const auto* scales = std::get_if<StoredFloats>(&plane.absmax)) {
    description["absmax_dtype"] = word_of_float_dtype(scales->dtype());
    tensors.push_back(floats_tensor(*scales, prefix + ".absmax", {scales->size()}));
  } else {
    const auto& twice = std::get<DoubleQuantizedScales>(plane.absmax);
    description["absmax_dtype"] = "double";
    tensors.push_back(
        {prefix + ".absmax", Dtype::u8, {twice.codes.size()}, copy_bytes(twice.codes)});
    tensors.push_back(floats_tensor(twice.absmax2, prefix + ".absmax2", {twice.absmax2.size()}));
    tensors.push_back(floats_tensor(twice.offset, prefix + ".absmax_offset", {1}));
  }
  return description;
}

CodebookPlane codebook_from(const Json& description, size_t rows, size_t cols,
                            const std::string& prefix, const TensorFinder& find) {
  CodebookPlane plane;
  const int bits = bits_from(description);
  plane.codes = codes_from(find, prefix + ".codes", rows, cols, bits);
  if (description.contains("codebook")) {
    plane.codebook_name = json_get<std::string>(description, "codebook");
    check_size(named_codebook(plane.codebook_name).size(), size_t{1} << bits,
               "levels of the codebook");
  } else {
    const Dtype dtype = float_dtype_from_word(json_get<std::string>(description, "level_dtype"));
    plane.levels = floats_from(find, prefix + ".levels", dtype, {size_t{1} << bits});
  }
  const auto blocks = json_get<std::string>(description, "blocks");
  require(blocks == "rows" || blocks == "flattened",
          "{}: blocks '{}' is not known; known: rows or flattened", prefix, blocks);
  plane.blocks = blocks == "rows" ? CodebookPlane::Blocks::rows : CodebookPlane::Blocks::flattened;
  plane.block_size = json_get_size(description, "block_size", std::max<size_t>(rows * cols, 1));
  require(plane.block_size >= 1, "{}: block_size 0 is not allowed", prefix);
  const size_t count = plane.block_count();
  const auto dtype = json_get<std::string>(description, "absmax_dtype");
  if (dtype == "double") {
    DoubleQuantizedScales twice;
    twice.codes = bytes_of(find_checked(find, prefix + ".absmax", Dtype::u8, {count}));
    twice.absmax2 = floats_from(find, prefix + ".absmax2", Dtype::f32,
                                {ceil_divide(count, DoubleQuantizedScales::kBlock)});
    twice.offset = floats_from(find, prefix + ".absmax_offset", Dtype::f32, {1});
    plane.absmax = std::move(twice);
  } else {
    plane.absmax = floats_from(find, prefix + ".absmax", float_dtype_from_word(dtype), {count});
  }
  return plane;
}

}  // namespace

const TensorView& find_checked(const TensorFinder& find, const std::string& name, Dtype dtype,
                               const std::vector<size_t>& shape) {
  const TensorView* tensor = find(name);
  require(tensor != nullptr, "tensor {} is missing", name);
  require(tensor->dtype == dtype, "tensor {} is {}; expected {}", name, dtype_name(tensor->dtype),
          dtype_name(dtype));
  require(tensor->shape == shape, "tensor {} has shape [{}]; expected [{}]", name,
          fmt::join(tensor->shape, ", "), fmt::join(shape, ", "));
  size_t bytes = dtype_bytes(dtype);
  for (const size_t extent : shape) {
    require(!__builtin_mul_overflow(bytes, extent, &bytes), "tensor {} is too large", name);
  }
  require(tensor->bytes.size() == bytes, "tensor {} has {} bytes; expected {}", name,
          tensor->bytes.size(), bytes);
  return *tensor;
}

CodeMatrix::CodeMatrix(size_t rows_in, size_t cols_in, int bits_in)
    : rows(rows_in), cols(cols_in), bits(bits_in) {
  require_bits(bits);
  bytes.resize(rows * row_bytes());
}

UniformPlane::UniformPlane(size_t rows, size_t cols, int bits_in, size_t group_size_in,
                           ZeroPoint kind, Dtype scale_dtype)
    : codes(rows, cols, bits_in),
      group_size(std::max<size_t>(group_size_in == 0 ? cols : std::min(group_size_in, cols), 1)),
      zero_point_kind(kind) {
  scales = StoredFloats(scale_dtype, rows * groups());
  if (kind == ZeroPoint::integer) zero_points = CodeMatrix(rows, groups(), bits_in);
  if (kind == ZeroPoint::real) real_zeros = StoredFloats(scale_dtype, rows * groups());
}

float UniformPlane::zero_point(size_t row, size_t group) const {
  switch (zero_point_kind) {
    case ZeroPoint::symmetric:
      return static_cast<float>(1 << (bits() - 1));
    case ZeroPoint::integer:
      return zero_points.at(row, group);
    case ZeroPoint::real:
      return real_zeros[row * groups() + group];
  }
  return 0;
}

float DoubleQuantizedScales::operator[](size_t i) const {
  return dynamic_map()[codes[i]] * absmax2[i / kBlock] + offset[0];
}

DoubleQuantizedScales double_quantize(std::span<const float> absmax) {
  static const CodebookSearch search(dynamic_map());
  DoubleQuantizedScales result;
  double total = 0;
  for (const float value : absmax) total += value;
  const float mean =
      absmax.empty() ? 0.0f : static_cast<float>(total / static_cast<double>(absmax.size()));
  result.offset = StoredFloats(Dtype::f32, std::span(&mean, 1));
  result.codes.resize(absmax.size());
  result.absmax2 =
      StoredFloats(Dtype::f32, ceil_divide(absmax.size(), DoubleQuantizedScales::kBlock));
  for (size_t block = 0; block < result.absmax2.size(); ++block) {
    const size_t first = block * DoubleQuantizedScales::kBlock;
    const size_t last = std::min(first + DoubleQuantizedScales::kBlock, absmax.size());
    float largest = 0;
    for (size_t i = first; i < last; ++i) largest = std::max(largest, std::fabs(absmax[i] - mean));
    result.absmax2.set(block, largest);
    const float inverse = 1.0f / std::max(largest, 1e-38f);
    for (size_t i = first; i < last; ++i) {
      result.codes[i] = search.nearest(std::clamp((absmax[i] - mean) * inverse, -1.0f, 1.0f));
    }
  }
  return result;
}

size_t CodebookPlane::block_count() const {
  return blocks == Blocks::rows ? codes.rows * ceil_divide(codes.cols, block_size)
                                : ceil_divide(codes.rows * codes.cols, block_size);
}

size_t CodebookPlane::block_of(size_t row, size_t col) const {
  return blocks == Blocks::rows ? row * ceil_divide(codes.cols, block_size) + col / block_size
                                : (row * codes.cols + col) / block_size;
}

float CodebookPlane::absmax_of(size_t block) const {
  return std::visit([&](const auto& values) { return values[block]; }, absmax);
}

size_t plane_rows(const CodePlane& plane) {
  return std::visit([](const auto& p) { return p.codes.rows; }, plane);
}

size_t plane_cols(const CodePlane& plane) {
  return std::visit([](const auto& p) { return p.codes.cols; }, plane);
}

void check_plane(const CodePlane& plane) {
  std::visit([](const auto& p) { check(p); }, plane);
}

void add_plane_row(const CodePlane& plane, size_t row, std::span<float> out) {
  std::visit([&](const auto& p) { add_row(p, row, out); }, plane);
}

std::string describe_plane(const CodePlane& plane) {
  return std::visit([](const auto& p) { return describe(p); }, plane);
}

Json plane_to_tensors(const CodePlane& plane, const std::string& prefix,
                      std::vector<NamedTensor>& tensors) {
  return std::visit([&](const auto& p) { return serialise(p, prefix, tensors); }, plane);
}

CodePlane plane_from_tensors(const Json& description, size_t rows, size_t cols,
                             const std::string& prefix, const TensorFinder& find) {
  const auto kind = json_get<std::string>(description, "kind");
  if (kind == "uniform") return uniform_from(description, rows, cols, prefix, find);
  require(kind == "codebook", "{}: plane kind '{}' is not known; known: uniform or codebook",
          prefix, kind);
  return codebook_from(description, rows, cols, prefix, find);
}

}  // namespace fewbit
