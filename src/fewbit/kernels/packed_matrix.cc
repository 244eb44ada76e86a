#include "fewbit/kernels/packed_matrix.h"

#include <algorithm>
#include <cctype>
#include <limits>

#include "fewbit/base/error.h"
#include "fewbit/base/half.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/ggml_blocks.h"
#include "fewbit/kernels/packed_contents.h"

namespace fewbit {
namespace {

// No weight matrix comes near this extent; products of two sizes cannot overflow.
constexpr size_t kMaxExtent = size_t{1} << 30;
// Rows of one task: enough work to outweigh the hand-over between threads.
constexpr size_t kRowsPerTask = 16;

void check_shape(size_t rows, size_t cols) {
  require(rows <= kMaxExtent && cols <= kMaxExtent,
          "a matrix of shape [{}, {}]; at most {} rows and columns", rows, cols, kMaxExtent);
}

SharedBytes take(std::span<const std::byte> bytes, Storage storage) {
  return storage == Storage::borrowed ? SharedBytes::borrow(bytes) : SharedBytes::copy(bytes);
}

}  // namespace

PackedMatrix::PackedMatrix() : PackedMatrix(std::make_shared<const Contents>()) {}
PackedMatrix::PackedMatrix(std::shared_ptr<const Contents> contents)
    : contents_(std::move(contents)) {}

PackedMatrix PackedMatrix::from_ggml(GgmlType type, size_t rows, size_t cols,
                                     std::span<const std::byte> bytes, Storage storage) {
  check_shape(rows, cols);
  const GgmlTypeInfo& info = ggml_type_info(type);
  require(ggml_decodable(type), "type {} holds no weights that can be multiplied", info.name);
  const size_t expected = rows * ggml_bytes(type, cols);
  require(bytes.size() == expected, "{} bytes for [{}, {}] weights of type {}; expected {}",
          bytes.size(), rows, cols, info.name, expected);
  auto contents = std::make_shared<Contents>();
  contents->rows = rows;
  contents->cols = cols;
  contents->format = info.name;
  contents->data = {rows, cols, GgmlRows{type, take(bytes, storage)}};
  return PackedMatrix(std::move(contents));
}

PackedMatrix PackedMatrix::from_dense(Dtype dtype, size_t rows, size_t cols,
                                      std::span<const std::byte> bytes, Storage storage) {
  check_shape(rows, cols);
  require(dtype == Dtype::f32 || dtype == Dtype::f16 || dtype == Dtype::bf16,
          "dense weights of type {}; allowed: F32, F16, BF16", dtype_name(dtype));
  const size_t expected = rows * cols * dtype_bytes(dtype);
  require(bytes.size() == expected, "{} bytes for [{}, {}] weights of type {}; expected {}",
          bytes.size(), rows, cols, dtype_name(dtype), expected);
  auto contents = std::make_shared<Contents>();
  contents->rows = rows;
  contents->cols = cols;
  contents->format = word_of_float_dtype(dtype);
  contents->data = {rows, cols, DenseRows{dtype, take(bytes, storage)}};
  return PackedMatrix(std::move(contents));
}

PackedMatrix PackedMatrix::from_floats(MatrixView<const float> rows, Dtype dtype) {
  check_shape(rows.rows(), rows.cols());
  StoredFloats values(dtype, rows.size());
  for (size_t r = 0; r < rows.rows(); ++r) {
    for (size_t c = 0; c < rows.cols(); ++c) values.set(r * rows.cols() + c, rows(r, c));
  }
  return from_dense(dtype, rows.rows(), rows.cols(), values.bytes());
}

PackedMatrix PackedMatrix::from_quantized(const QuantizedMatrix& matrix) {
  check_shape(matrix.rows(), matrix.cols());
  auto contents = std::make_shared<Contents>();
  contents->rows = matrix.rows();
  contents->cols = matrix.cols();
  contents->format = matrix.describe();
  contents->data = {matrix.rows(), matrix.cols(),
                    QuantizedRows{std::make_shared<const QuantizedMatrix>(matrix)}};
  return PackedMatrix(std::move(contents));
}

size_t PackedMatrix::rows() const { return contents_->rows; }
size_t PackedMatrix::cols() const { return contents_->cols; }
size_t PackedMatrix::bytes() const { return contents_->data.bytes(); }
const std::string& PackedMatrix::format() const { return contents_->format; }
std::string PackedMatrix::layout() const { return "rows decoded to floats"; }
bool PackedMatrix::has_integer_kernel() const { return false; }

void PackedMatrix::dequantize_rows(size_t first_row, MatrixView<float> out) const {
  require(out.cols() == cols() && first_row <= rows() && out.rows() <= rows() - first_row,
          "rows {} to {} of {} columns asked of a matrix [{}, {}]", first_row,
          first_row + out.rows(), out.cols(), rows(), cols());
  contents_->data.decode(first_row, out);
}

void matmul_shared(std::span<const Product> products, MatrixView<const float> x, Activations) {
  struct Task {
    const Product* product;
    size_t first, last;
  };
  std::vector<Task> tasks;
  for (const Product& product : products) {
    const PackedMatrix& weights = *product.weights;
    require(x.cols() == weights.cols() && product.y.rows() == x.rows() &&
                product.y.cols() == weights.rows(),
            "a product of [{}, {}] weights with [{}, {}] inputs into [{}, {}] outputs",
            weights.rows(), weights.cols(), x.rows(), x.cols(), product.y.rows(), product.y.cols());
    for (size_t first = 0; first < weights.rows(); first += kRowsPerTask) {
      tasks.push_back({&product, first, std::min(first + kRowsPerTask, weights.rows())});
    }
  }
  parallel_for(tasks.size(), [&](size_t i) {
    const Task& task = tasks[i];
    multiply_float_rows(task.product->weights->contents().data, task.first, task.last, x,
                        task.product->y);
  });
}

void matmul(const PackedMatrix& weights, MatrixView<const float> x, MatrixView<float> y,
            Activations activations) {
  const Product product{&weights, y};
  matmul_shared({&product, 1}, x, activations);
}

void matvec(const PackedMatrix& weights, std::span<const float> x, std::span<float> y,
            Activations activations) {
  matmul(weights, {x.data(), 1, x.size()}, {y.data(), 1, y.size()}, activations);
}

}  // namespace fewbit
