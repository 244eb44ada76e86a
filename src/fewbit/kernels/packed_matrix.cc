#include "fewbit/kernels/packed_matrix.h"

#include <algorithm>
#include <optional>

#include "fewbit/base/error.h"
#include "fewbit/formats/ggml_blocks.h"
#include "fewbit/kernels/packed_contents.h"
#include "fewbit/kernels/panel_pack.h"

namespace fewbit {
namespace {

// No weight matrix comes near this extent; products of two sizes cannot overflow.
constexpr size_t kMaxExtent = size_t{1} << 30;
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
  if (storage == Storage::repacked && has_panels(type)) {
    PanelSum panels;
    panels.terms.push_back(pack_ggml(type, rows, cols, bytes));
    contents->data = std::move(panels);
  } else {
    contents->data = FloatRows{rows, cols, GgmlRows{type, take(bytes, storage)}};
  }
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
  contents->data = FloatRows{rows, cols, DenseRows{dtype, take(bytes, storage)}};
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
  auto shared = std::make_shared<const QuantizedMatrix>(matrix);
  PanelSum panels{{}, matrix.input(), matrix.output(), {}};
  for (const Term& term : matrix.terms()) {
    std::optional<PanelMatrix> packed = pack_plane(term.plane);
    if (!packed) break;
    panels.terms.push_back(std::move(*packed));
  }
  if (!panels.terms.empty() && panels.terms.size() == matrix.terms().size()) {
    if (!panels.output.is_identity()) panels.source = std::move(shared);
    contents->data = std::move(panels);
  } else {
    contents->data = FloatRows{matrix.rows(), matrix.cols(), QuantizedRows{std::move(shared)}};
  }
  return PackedMatrix(std::move(contents));
}

size_t PanelSum::bytes() const {
  size_t sum = 0;
  for (const PanelMatrix& term : terms) sum += term.bytes();
  return sum;
}

void PanelSum::decode_terms(size_t first_row, MatrixView<float> out) const {
  terms.front().decode(first_row, out);
  if (terms.size() == 1) return;
  Matrix term(out.rows(), out.cols());
  for (size_t k = 1; k < terms.size(); ++k) {
    terms[k].decode(first_row, term.view());
    for (size_t r = 0; r < out.rows(); ++r) {
      for (size_t c = 0; c < out.cols(); ++c) out(r, c) += term(r, c);
    }
  }
}

size_t PackedMatrix::rows() const { return contents_->rows; }
size_t PackedMatrix::cols() const { return contents_->cols; }
const std::string& PackedMatrix::format() const { return contents_->format; }
bool PackedMatrix::has_integer_kernel() const {
  return std::holds_alternative<PanelSum>(contents_->data);
}

size_t PackedMatrix::bytes() const {
  return std::visit([](const auto& data) { return data.bytes(); }, contents_->data);
}

std::string PackedMatrix::layout() const {
  const auto* panels = std::get_if<PanelSum>(&contents_->data);
  if (!panels) return "rows decoded to floats";
  std::string text = "panels of ";
  for (const PanelMatrix& term : panels->terms) {
    if (&term != panels->terms.data()) text += " + ";
    text += describe_codes(term.format().codes);
  }
  return text;
}

void PackedMatrix::dequantize_rows(size_t first_row, MatrixView<float> out) const {
  require(out.cols() == cols() && first_row <= rows() && out.rows() <= rows() - first_row,
          "rows {} to {} of {} columns asked of a matrix [{}, {}]", first_row,
          first_row + out.rows(), out.cols(), rows(), cols());
  const auto* panels = std::get_if<PanelSum>(&contents_->data);
  if (!panels) {
    std::get<FloatRows>(contents_->data).decode(first_row, out);
  } else if (panels->source) {
    panels->source->dequantize_rows(first_row, out);
  } else {
    panels->decode_terms(first_row, out);
    for (size_t r = 0; r < out.rows(); ++r) apply_transposed(panels->input, out.row(r));
  }
}

}  // namespace fewbit
