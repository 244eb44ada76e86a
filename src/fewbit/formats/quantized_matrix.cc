#include "fewbit/formats/quantized_matrix.h"

#include <algorithm>
#include <map>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"

namespace fewbit {
namespace {

// Version of the layout that to_tensors() writes; from_tensors() reads all up to it.
constexpr size_t kVersion = 1;
// No weight matrix comes near these; they keep every product of sizes far from overflow.
constexpr size_t kMaxExtent = size_t{1} << 30;
constexpr size_t kMaxTerms = 64;
// Rows that one thread decodes at a time.
constexpr size_t kRowsPerTask = 16;

std::string term_prefix(const std::string& prefix, size_t term) {
  return fmt::format("{}.terms.{}", prefix, term);
}

}  // namespace

QuantizedMatrix::QuantizedMatrix(size_t rows, size_t cols, std::vector<Term> terms, Transform input,
                                 Transform output)
    : rows_(rows),
      cols_(cols),
      terms_(std::move(terms)),
      input_(std::move(input)),
      output_(std::move(output)) {
  for (size_t k = 0; k < terms_.size(); ++k) {
    const CodePlane& plane = terms_[k].plane;
    with_context(fmt::format("term {}", k), [&] {
      check_plane(plane);
      require(plane_rows(plane) == rows && plane_cols(plane) == cols,
              "shape [{}, {}]; expected [{}, {}]", plane_rows(plane), plane_cols(plane), rows,
              cols);
    });
  }
  check_transform(input_, cols);
  check_transform(output_, rows);
}

QuantizedMatrix::QuantizedMatrix(CodePlane plane)
    : QuantizedMatrix(plane_rows(plane), plane_cols(plane), {Term{plane}}) {}

Matrix QuantizedMatrix::dequantize() const {
  Matrix out(rows_, cols_);
  dequantize_rows(0, out.view());
  return out;
}

void QuantizedMatrix::dequantize_rows(size_t first_row, MatrixView<float> out) const {
  require(out.cols() == cols_ && first_row <= rows_ && out.rows() <= rows_ - first_row,
          "rows {} to {} of {} columns asked of a matrix [{}, {}]", first_row,
          first_row + out.rows(), out.cols(), rows_, cols_);
  // Where each row of W stands in the planes: T_out only permutes rows.
  std::vector<uint32_t> plane_row(output_.is_identity() ? 0 : rows_);
  for (size_t r = 0; r < plane_row.size(); ++r) {
    size_t source = r;
    for (size_t i = output_.steps.size(); i-- > 0;) {
      source = std::get<Permutation>(output_.steps[i]).order[source];
    }
    plane_row[r] = static_cast<uint32_t>(source);
  }
  parallel_for_chunks(out.rows(), kRowsPerTask, [&](size_t first, size_t last) {
    for (size_t r = first; r < last; ++r) {
      const std::span<float> row = out.row(r);
      const size_t source = plane_row.empty() ? first_row + r : plane_row[first_row + r];
      std::fill(row.begin(), row.end(), 0.0f);
      for (const Term& term : terms_) add_plane_row(term.plane, source, row);
      apply_transposed(input_, row);
    }
  });
}

size_t QuantizedMatrix::stored_bytes() const {
  size_t bytes = 0;
  for (const NamedTensor& tensor : to_tensors("").tensors) bytes += tensor.bytes.size();
  return bytes;
}

double QuantizedMatrix::bits_per_weight() const {
  return weights() == 0
             ? 0.0
             : 8.0 * static_cast<double>(stored_bytes()) / static_cast<double>(weights());
}

std::string QuantizedMatrix::describe() const {
  std::string text;
  for (const Term& term : terms_) {
    if (!text.empty()) text += " + ";
    text += describe_plane(term.plane);
  }
  if (!input_.is_identity()) text += ", permuted input";
  if (!output_.is_identity()) text += ", permuted output";
  return text;
}

QuantizedMatrix::Serialized QuantizedMatrix::to_tensors(const std::string& prefix) const {
  Serialized result;
  result.description = {
      {"version", kVersion}, {"rows", rows_}, {"cols", cols_}, {"terms", Json::array()}};
  for (size_t k = 0; k < terms_.size(); ++k) {
    result.description["terms"].push_back(
        plane_to_tensors(terms_[k].plane, term_prefix(prefix, k), result.tensors));
  }
  if (!input_.is_identity()) {
    result.description["input"] = transform_to_tensors(input_, prefix + ".input", result.tensors);
  }
  if (!output_.is_identity()) {
    result.description["output"] =
        transform_to_tensors(output_, prefix + ".output", result.tensors);
  }
  return result;
}

QuantizedMatrix QuantizedMatrix::from_tensors(const Json& description, const std::string& prefix,
                                              const TensorFinder& find) {
  return with_context(prefix, [&] {
    const size_t version = json_get_size(description, "version", SIZE_MAX);
    require(version >= 1 && version <= kVersion, "version {} is not known; known: 1 to {}", version,
            kVersion);
    const size_t rows = json_get_size(description, "rows", kMaxExtent);
    const size_t cols = json_get_size(description, "cols", kMaxExtent);
    require(rows > 0 && cols > 0, "a matrix [{}, {}] has no weights", rows, cols);
    const auto terms = json_get<Json>(description, "terms");
    require(terms.is_array() && !terms.empty() && terms.size() <= kMaxTerms,
            "'terms' must be a list of 1 to {} terms", kMaxTerms);
    std::vector<Term> planes;
    for (size_t k = 0; k < terms.size(); ++k) {
      planes.push_back({plane_from_tensors(terms[k], rows, cols, term_prefix(prefix, k), find)});
    }
    const auto transform = [&](const char* key, size_t size) {
      if (!description.contains(key)) return Transform{};
      return transform_from_tensors(description[key], size, prefix + "." + key, find);
    };
    return QuantizedMatrix(rows, cols, std::move(planes), transform("input", cols),
                           transform("output", rows));
  });
}

QuantizedMatrix QuantizedMatrix::from_tensors(const Serialized& serialized,
                                              const std::string& prefix) {
  std::map<std::string, TensorView, std::less<>> views;
  for (const NamedTensor& tensor : serialized.tensors) views[tensor.name] = tensor.view();
  return from_tensors(serialized.description, prefix, [&](std::string_view name) {
    const auto found = views.find(name);
    return found == views.end() ? nullptr : &found->second;
  });
}

}  // namespace fewbit
