#include "fewbit/train/quantizer_layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr double kStretchedClip = 0.99;

at::ScalarType torch_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f16:
      return at::kHalf;
    case Dtype::bf16:
      return at::kBFloat16;
    case Dtype::f32:
      return at::kFloat;
    default:
      fail("scales cannot be stored as {}; allowed: F16, BF16 or F32", dtype_name(dtype));
  }
}

// Host copy of a tensor's elements.
template <class T>
std::vector<T> elements(const at::Tensor& tensor) {
  const at::Tensor host =
      tensor.detach().to(at::kCPU, c10::CppTypeToScalarType<T>::value).contiguous();
  const T* data = host.data_ptr<T>();
  return {data, data + host.numel()};
}

CodeMatrix code_matrix(const at::Tensor& codes, int bits) {
  const std::vector<uint8_t> values = elements<uint8_t>(codes);
  CodeMatrix matrix(static_cast<size_t>(codes.size(0)), static_cast<size_t>(codes.size(1)), bits);
  for (size_t r = 0; r < matrix.rows; ++r) {
    matrix.set_row(r, {values.data() + r * matrix.cols, matrix.cols});
  }
  return matrix;
}

}  // namespace

ScaleGroups ScaleGroups::per_matrix(int64_t rows, int64_t cols, int64_t shards) {
  require(shards >= 1 && (rows == 0 || rows % shards == 0),
          "{} shards do not divide the {} rows of the matrix", shards, rows);
  return {rows, cols, rows / shards * cols};
}

ScaleGroups ScaleGroups::per_row(int64_t rows, int64_t cols) { return {rows, cols, cols}; }

ScaleGroups ScaleGroups::per_group(int64_t rows, int64_t cols, int64_t group_size) {
  require(group_size >= 1 && cols % group_size == 0,
          "group_size {} does not divide the {} columns of the matrix", group_size, cols);
  return {rows, cols, group_size};
}

at::Tensor ScaleGroups::split(const at::Tensor& matrix) const {
  require(matrix.dim() == 2 && matrix.size(0) == rows_ && matrix.size(1) == cols_,
          "a quantizer made for a weight [{}, {}] was given one of another shape", rows_, cols_);
  return matrix.reshape({count(), length_});
}

at::Tensor ScaleGroups::join(const at::Tensor& groups) const {
  return groups.reshape({rows_, cols_});
}

std::string ScaleGroups::describe() const {
  if (length_ == cols_) return "row";
  if (length_ < cols_) return fmt::format("g{}", length_);
  return count() == 1 ? "matrix" : fmt::format("{} shards", count());
}

LevelGrid sign_grid() {
  LevelGrid grid;
  grid.name = "sign";
  grid.bits = 1;
  grid.levels = 2;
  grid.first_level = -1;
  grid.level_step = 2;
  grid.sign = true;
  return grid;
}

LevelGrid stretched_grid(int levels) {
  require(levels >= 3 && levels <= 256, "a stretched grid has 3 to 256 levels, not {}", levels);
  const bool odd = levels % 2 == 1;
  LevelGrid grid;
  grid.name = fmt::format("stretched {} levels", levels);
  grid.bits = static_cast<int>(std::ceil(std::log2(levels)));
  grid.levels = levels;
  // Odd counts have a level at 0 and whole levels; even ones stand half-way and get odd levels.
  grid.unit = (odd ? 2.0 : 1.0) / levels;
  grid.first_level = odd ? -(levels / 2) : 1 - levels;
  grid.level_step = odd ? 1 : 2;
  grid.first_step = -(levels / 2);
  grid.steps_per_unit = levels / 2.0;
  grid.shift = odd ? 0 : 0.5;
  grid.clip_low = -kStretchedClip;
  grid.clip_high = kStretchedClip;
  return grid;
}

namespace {

LevelGrid integer_grid(std::string name, int bits, int first, int last) {
  LevelGrid grid;
  grid.name = std::move(name);
  grid.bits = bits;
  grid.levels = last - first + 1;
  grid.first_level = first;
  grid.first_step = first;
  grid.clip_low = first;
  grid.clip_high = last;
  return grid;
}

void require_bits(int bits) {
  require(bits >= 2 && bits <= 8, "an integer grid has 2 to 8 bits, not {}", bits);
}

}  // namespace

LevelGrid signed_grid(int bits) {
  require_bits(bits);
  const int half = 1 << (bits - 1);
  return integer_grid(fmt::format("signed {} bits", bits), bits, -half, half - 1);
}

LevelGrid unsigned_grid(int bits) {
  require_bits(bits);
  return integer_grid(fmt::format("unsigned {} bits", bits), bits, 0, (1 << bits) - 1);
}

LevelGrid ternary_grid() { return integer_grid("ternary", 2, -1, 1); }

at::Tensor round_to_stored(const at::Tensor& scale, Dtype dtype) {
  if (dtype == Dtype::f32) return scale;
  return scale.to(torch_type(dtype)).to(scale.scalar_type());
}

at::Tensor QuantizedTensor::integers() const {
  const at::Tensor values = groups.split(codes).to(scales.scalar_type());
  return groups.join(zeros.defined() ? values - zeros : values * level_step + first_level);
}

at::Tensor QuantizedTensor::dequantize() const {
  return groups.join(groups.split(integers()) * scales);
}

namespace {

using ZeroPoint = UniformPlane::ZeroPoint;

UniformPlane uniform_plane(const QuantizedTensor& tensor, int code_offset) {
  UniformPlane plane;
  plane.codes = code_matrix(tensor.codes + code_offset, tensor.bits);
  plane.group_size = static_cast<size_t>(tensor.groups.length());
  plane.scales = StoredFloats(tensor.scale_dtype, elements<float>(tensor.scales));
  plane.zero_point_kind = ZeroPoint::symmetric;
  return plane;
}

void store_zero_points(const QuantizedTensor& tensor, UniformPlane& plane) {
  const std::vector<float> zeros = elements<float>(tensor.zeros);
  const float largest = static_cast<float>((1 << tensor.bits) - 1);
  const bool fits =
      std::all_of(zeros.begin(), zeros.end(), [&](float z) { return z >= 0 && z <= largest; });
  plane.zero_point_kind = fits ? ZeroPoint::integer : ZeroPoint::real;
  if (fits) {
    const int64_t rows = tensor.groups.rows();
    plane.zero_points = code_matrix(tensor.zeros.to(at::kByte).reshape({rows, -1}), tensor.bits);
  } else {
    plane.real_zeros = StoredFloats(tensor.scale_dtype, zeros);
  }
}

CodebookPlane codebook_plane(const QuantizedTensor& tensor) {
  CodebookPlane plane;
  plane.codes = code_matrix(tensor.codes, tensor.bits);
  std::vector<float> levels(size_t{1} << tensor.bits);
  for (size_t code = 0; code < levels.size(); ++code) {
    levels[code] =
        static_cast<float>(tensor.first_level + tensor.level_step * static_cast<int>(code));
  }
  plane.levels = StoredFloats(Dtype::f16, levels);
  plane.blocks =
      tensor.groups.within_rows() ? CodebookPlane::Blocks::rows : CodebookPlane::Blocks::flattened;
  plane.block_size = static_cast<size_t>(tensor.groups.length());
  plane.absmax = StoredFloats(tensor.scale_dtype, elements<float>(tensor.scales));
  return plane;
}

}  // namespace

QuantizedMatrix QuantizedTensor::pack() const {
  require(codes.numel() > 0, "an empty matrix cannot be packed");
  if (zeros.defined()) {
    require(groups.within_rows(), "zero points are stored per row or group, not per matrix");
    UniformPlane plane = uniform_plane(*this, 0);
    store_zero_points(*this, plane);
    return QuantizedMatrix(plane);
  }
  // A symmetric uniform plane decodes code c to c - 2^(bits - 1).
  const int offset = first_level + (1 << (bits - 1));
  if (level_step == 1 && offset >= 0 && groups.within_rows()) {
    return QuantizedMatrix(uniform_plane(*this, offset));
  }
  return QuantizedMatrix(codebook_plane(*this));
}

}  // namespace fewbit
