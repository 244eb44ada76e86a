#include "fewbit/kernels/float_rows.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "fewbit/base/half.h"
#include "fewbit/formats/ggml_blocks.h"

namespace fewbit {
namespace {

// Rows that are decoded together: their floats and the tokens' share the second-level cache.
constexpr size_t kRowsPerTile = 8;

template <class Convert>
void convert_halves(const std::byte* bytes, std::span<float> out, Convert convert) {
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes + i * sizeof bits, sizeof bits);
    out[i] = convert(bits);
  }
}

void decode_dense(const DenseRows& source, size_t row, std::span<float> out) {
  const std::byte* bytes = source.data.bytes.data() + row * out.size() * dtype_bytes(source.dtype);
  switch (source.dtype) {
    case Dtype::f16:
      return convert_halves(bytes, out, f16_to_float);
    case Dtype::bf16:
      return convert_halves(bytes, out, bf16_to_float);
    default:
      std::memcpy(out.data(), bytes, out.size_bytes());
  }
}

}  // namespace

SharedBytes SharedBytes::copy(std::span<const std::byte> bytes) {
  auto owner = std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
  const std::span<const std::byte> view = *owner;
  return {std::move(owner), view};
}

size_t FloatRows::bytes() const {
  if (const auto* quantized = std::get_if<QuantizedRows>(&source)) {
    return quantized->matrix->stored_bytes();
  }
  if (const auto* blocks = std::get_if<GgmlRows>(&source)) return blocks->data.bytes.size();
  return std::get<DenseRows>(source).data.bytes.size();
}

void FloatRows::decode(size_t first_row, MatrixView<float> out) const {
  if (const auto* quantized = std::get_if<QuantizedRows>(&source)) {
    quantized->matrix->dequantize_rows(first_row, out);
    return;
  }
  for (size_t r = 0; r < out.rows(); ++r) {
    if (const auto* blocks = std::get_if<GgmlRows>(&source)) {
      const size_t row_bytes = ggml_bytes(blocks->type, cols);
      dequantize_ggml(blocks->type,
                      blocks->data.bytes.subspan((first_row + r) * row_bytes, row_bytes),
                      out.row(r));
    } else {
      decode_dense(std::get<DenseRows>(source), first_row + r, out.row(r));
    }
  }
}

float ordered_dot(std::span<const float> a, std::span<const float> b) {
  std::array<float, kSumLanes> sums{};
  size_t c = 0;
  for (; c + kSumLanes <= a.size(); c += kSumLanes) {
    for (size_t lane = 0; lane < kSumLanes; ++lane) sums[lane] += a[c + lane] * b[c + lane];
  }
  for (size_t lane = 0; c + lane < a.size(); ++lane) sums[lane] += a[c + lane] * b[c + lane];
  for (size_t half = kSumLanes / 2; half > 0; half /= 2) {
    for (size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

void multiply_decoded_rows(const DecodeRows& decode, size_t first_row, size_t last_row,
                           MatrixView<const float> x, MatrixView<float> y) {
  Matrix tile(std::min(kRowsPerTile, last_row - first_row), x.cols());
  for (size_t row = first_row; row < last_row; row += kRowsPerTile) {
    const size_t count = std::min(kRowsPerTile, last_row - row);
    decode(row, tile.view().rows_from(0, count));
    for (size_t t = 0; t < x.rows(); ++t) {
      for (size_t r = 0; r < count; ++r) y(t, row + r) = ordered_dot(tile.row(r), x.row(t));
    }
  }
}

}  // namespace fewbit
