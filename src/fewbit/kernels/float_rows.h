// Weight rows that are decoded to floats while they are used: dense rows, ggml blocks without a
// packed layout or read in place, and sums of planes that no panel holds. The reference of every
// integer kernel, and what Activations::f32 runs on.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <variant>

#include "fewbit/base/matrix.h"
#include "fewbit/formats/quantized_matrix.h"
#include "fewbit/io/ggml_types.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/kernels/packed_bytes.h"

namespace fewbit {

// Bytes that are borrowed, or owned together with all copies.
struct SharedBytes {
  std::shared_ptr<const PackedBytes> owner;  // null: borrowed
  std::span<const std::byte> bytes;

  static SharedBytes borrow(std::span<const std::byte> bytes) { return {nullptr, bytes}; }
  static SharedBytes copy(std::span<const std::byte> bytes);
};

struct DenseRows {
  Dtype dtype = Dtype::f32;  // F32, F16 or BF16
  SharedBytes data;
};

struct GgmlRows {
  GgmlType type = GgmlType::f32;
  SharedBytes data;
};

struct QuantizedRows {
  std::shared_ptr<const QuantizedMatrix> matrix;
};

struct FloatRows {
  size_t rows = 0, cols = 0;
  std::variant<DenseRows, GgmlRows, QuantizedRows> source;

  size_t bytes() const;
  // Rows [first_row, first_row + out.rows()), which must exist.
  void decode(size_t first_row, MatrixView<float> out) const;
};

// Decodes rows [first_row, first_row + out.rows()).
using DecodeRows = std::function<void(size_t first_row, MatrixView<float> out)>;

// y[t][r] for the rows [first_row, last_row), in the order of float_kernels.h.
void multiply_decoded_rows(const DecodeRows& decode, size_t first_row, size_t last_row,
                           MatrixView<const float> x, MatrixView<float> y);
// The same of `weights`; dense rows are read in place for one token.
void multiply_float_rows(const FloatRows& weights, size_t first_row, size_t last_row,
                         MatrixView<const float> x, MatrixView<float> y);

}  // namespace fewbit
