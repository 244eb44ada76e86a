// Weight matrices in the layout that the product kernels read, and their products with activations.
//
//   matvec:  y = W x                 one token
//   matmul:  y[t] = W x[t]           a panel of tokens; row t equals matvec of that row bit for bit
//
// W is [rows, cols] = [out, in]. A PackedMatrix is made once, when a model is loaded, from the
// blocks of a GGUF file, from dense rows or from a QuantizedMatrix; it is immutable, and copies
// share their bytes. Layouts: docs/formats/packed-kernels.md.
//
// Results do not depend on the number of threads or on the instruction set's vector length: each
// output is summed by one thread, group after group of columns.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "fewbit/base/matrix.h"
#include "fewbit/formats/quantized_matrix.h"
#include "fewbit/io/ggml_types.h"
#include "fewbit/io/safetensors.h"

namespace fewbit {

// What the weights are multiplied with.
enum class Activations {
  // x rounded to int8, one scale for a block of 16 to 256 columns: integer dot products. An
  // output's error is at most the sum over blocks of scale / 2 * sum |w|: about 0.5 % for inputs
  // without outliers. Weights without a packed layout (dense rows, borrowed blocks, irregular
  // groups) are multiplied as in `f32`.
  int8,
  // x as it is; weights are decoded to floats. Slower, for checks and for the most exacting use.
  f32,
};

// Who owns the bytes that a PackedMatrix reads.
enum class Storage {
  // Copied into the layout of the fastest kernel; the source may go away.
  repacked,
  // The caller's bytes are read in place and must outlive the matrix and its copies (a mapped file
  // that several processes share).
  borrowed,
};

class PackedMatrix {
 public:
  // [0, 0].
  PackedMatrix();

  // Rows of whole blocks as a GGUF file stores them, `bytes` unaligned as they come. Any type that
  // dequantize_ggml decodes. Error if `cols` is no multiple of the block or `bytes` has another
  // size than rows * cols elements need.
  static PackedMatrix from_ggml(GgmlType type, size_t rows, size_t cols,
                                std::span<const std::byte> bytes,
                                Storage storage = Storage::repacked);
  // Row-major floats of type F32, F16 or BF16, little endian, unaligned as they come.
  static PackedMatrix from_dense(Dtype dtype, size_t rows, size_t cols,
                                 std::span<const std::byte> bytes,
                                 Storage storage = Storage::repacked);
  // A copy of float rows, rounded to `dtype`.
  static PackedMatrix from_floats(MatrixView<const float> rows, Dtype dtype = Dtype::f32);
  // A sum of code planes between transforms; always a copy.
  static PackedMatrix from_quantized(const QuantizedMatrix& matrix);

  size_t rows() const;
  size_t cols() const;
  // Bytes that a product reads: packed codes, scales, padding.
  size_t bytes() const;
  // "Q4_K", "f16", "uniform b4 g128 f16 integer zero points": what the weights were.
  const std::string& format() const;
  // "panels of 4-bit codes", "rows decoded to floats": how a product reads them.
  std::string layout() const;
  // Whether Activations::int8 runs on integers.
  bool has_integer_kernel() const;

  // Rows [first_row, first_row + out.rows()) as floats; `out` has cols() columns. An embedding's
  // lookup.
  void dequantize_rows(size_t first_row, MatrixView<float> out) const;

  // Internal: what the kernels see.
  struct Contents;
  const Contents& contents() const { return *contents_; }

 private:
  explicit PackedMatrix(std::shared_ptr<const Contents> contents);
  std::shared_ptr<const Contents> contents_;
};

// y = W x. Error unless x has cols() and y rows() elements.
void matvec(const PackedMatrix& weights, std::span<const float> x, std::span<float> y,
            Activations activations = Activations::int8);
// y = x W^t; x [tokens, cols], y [tokens, rows].
void matmul(const PackedMatrix& weights, MatrixView<const float> x, MatrixView<float> y,
            Activations activations = Activations::int8);

// Several products that share x (q, k and v; gate and up): x is quantised once and all outputs are
// computed in one parallel loop. Equal to matmul of each bit for bit.
struct Product {
  const PackedMatrix* weights;
  MatrixView<float> y;  // [tokens, weights->rows()]
};
void matmul_shared(std::span<const Product> products, MatrixView<const float> x,
                   Activations activations = Activations::int8);

}  // namespace fewbit
