// A weight matrix W [out, in] in quantised form, as a value:
//
//   W = T_out (sum_k term_k) T_in
//
// Every term is a code plane (code_planes.h); T_in and T_out are sequences of transforms
// (transform.h), mostly empty. It tells its exact size, decodes to floats and serialises to named
// tensors plus a JSON description (docs/formats/quantized-matrix.md). Evaluation, kernels, files
// and export work on this type and never on a method's name.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/base/matrix.h"
#include "fewbit/formats/code_planes.h"
#include "fewbit/formats/transform.h"

namespace fewbit {

struct Term {
  CodePlane plane;
  friend bool operator==(const Term&, const Term&) = default;
};

class QuantizedMatrix {
 public:
  QuantizedMatrix() = default;
  // Error unless every part has the shape [rows, cols] and is consistent in itself.
  QuantizedMatrix(size_t rows, size_t cols, std::vector<Term> terms, Transform input = {},
                  Transform output = {});
  // One term and no transforms.
  explicit QuantizedMatrix(CodePlane plane);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t weights() const { return rows_ * cols_; }
  const std::vector<Term>& terms() const { return terms_; }
  const Transform& input() const { return input_; }
  const Transform& output() const { return output_; }

  // Rows run in parallel; the result does not depend on the number of threads.
  Matrix dequantize() const;
  // Rows [first_row, first_row + out.rows()) into `out`, which has cols() columns.
  void dequantize_rows(size_t first_row, MatrixView<float> out) const;

  // Bytes of the tensors that to_tensors() gives: codes, scales, zero points, codebooks,
  // transforms.
  size_t stored_bytes() const;
  // stored_bytes() * 8 / weights().
  double bits_per_weight() const;
  // "uniform b4 g128 f16 integer zero points, permuted input", for reports.
  std::string describe() const;

  struct Serialized {
    Json description;
    std::vector<NamedTensor> tensors;  // Named prefix + "." + part.
  };
  Serialized to_tensors(const std::string& prefix) const;
  // The inverse. Every shape, type and size is checked before anything is allocated; errors name
  // the tensor or the key of the description.
  static QuantizedMatrix from_tensors(const Json& description, const std::string& prefix,
                                      const TensorFinder& find);
  static QuantizedMatrix from_tensors(const Serialized& serialized, const std::string& prefix);

  friend bool operator==(const QuantizedMatrix&, const QuantizedMatrix&) = default;

 private:
  size_t rows_ = 0, cols_ = 0;
  std::vector<Term> terms_;
  Transform input_, output_;
};

}  // namespace fewbit
