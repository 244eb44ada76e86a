// What a PackedMatrix holds; for the kernels and their tests.
#pragma once

#include <string>
#include <variant>

#include "fewbit/kernels/float_rows.h"
#include "fewbit/kernels/packed_matrix.h"

namespace fewbit {

struct PackedMatrix::Contents {
  size_t rows = 0, cols = 0;
  std::string format;
  FloatRows data;
};

}  // namespace fewbit
