#include "fewbit/kernels/float_rows.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "fewbit/formats/ggml_blocks.h"
#include "fewbit/kernels/float_kernels.h"

namespace fewbit {
namespace {

// Rows that are decoded together: their floats and the tokens' share the second-level cache.
constexpr size_t kRowsPerTile = 8;

const std::byte* dense_row(const DenseRows& source, size_t row, size_t cols) {
  return source.data.bytes.data() + row * cols * dtype_bytes(source.dtype);
}

}  // namespace

SharedBytes SharedBytes::copy(std::span<const std::byte> bytes) {
  PackedBytes memory(bytes.size());
  if (!bytes.empty()) std::memcpy(memory.data(), bytes.data(), bytes.size());
  auto owner = std::make_shared<const PackedBytes>(std::move(memory));
  const auto view = std::as_bytes(std::span(owner->data(), owner->size()));
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
      const auto& dense = std::get<DenseRows>(source);
      decode_floats(dense.dtype, dense_row(dense, first_row + r, cols), out.row(r).data(), cols);
    }
  }
}

void multiply_decoded_rows(const DecodeRows& decode, size_t first_row, size_t last_row,
                           MatrixView<const float> x, MatrixView<float> y) {
  Matrix tile(std::min(kRowsPerTile, last_row - first_row), x.cols());
  for (size_t row = first_row; row < last_row; row += kRowsPerTile) {
    const size_t count = std::min(kRowsPerTile, last_row - row);
    decode(row, tile.view().rows_from(0, count));
    multiply_rows(std::as_const(tile).view().rows_from(0, count), x, y.cols_from(row, count));
  }
}

void multiply_float_rows(const FloatRows& weights, size_t first_row, size_t last_row,
                         MatrixView<const float> x, MatrixView<float> y) {
  const auto* dense = std::get_if<DenseRows>(&weights.source);
  if (!dense || x.rows() != 1) {
    multiply_decoded_rows([&](size_t row, MatrixView<float> out) { weights.decode(row, out); },
                          first_row, last_row, x, y);
    return;
  }
  for (size_t row = first_row; row < last_row; ++row) {
    y(0, row) = dot_stored(dense->dtype, dense_row(*dense, row, weights.cols), x.row(0).data(),
                           weights.cols);
  }
}

}  // namespace fewbit
