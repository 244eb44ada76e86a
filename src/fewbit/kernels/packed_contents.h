// What a PackedMatrix holds; for the kernels and their tests.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "fewbit/formats/transform.h"
#include "fewbit/kernels/float_rows.h"
#include "fewbit/kernels/packed_matrix.h"
#include "fewbit/kernels/panel_matrix.h"

namespace fewbit {

// T_out (sum of panels) T_in.
struct PanelSum {
  std::vector<PanelMatrix> terms;
  Transform input, output;
  // Only where `output` mixes rows: what single rows are decoded from.
  std::shared_ptr<const QuantizedMatrix> source;

  size_t bytes() const;
  // Rows of the sum alone, without the transforms.
  void decode_terms(size_t first_row, MatrixView<float> out) const;
};

struct PackedMatrix::Contents {
  size_t rows = 0, cols = 0;
  std::string format;
  std::variant<FloatRows, PanelSum> data;
};

}  // namespace fewbit
