// The rows of a stored matrix as bytes, in the block type of their file: what kernels that read
// such blocks need in place of floats.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "fewbit/io/ggml_types.h"
#include "fewbit/model/tensor_names.h"
#include "fewbit/model/tensor_source.h"

namespace fewbit {

struct StoredRows {
  GgmlType type = GgmlType::f32;
  size_t rows = 0, cols = 0;
  size_t row_bytes = 0;
  std::span<const std::byte> stored;  // The rows of the whole stored tensor, mapped.
  RowMap order;                       // Which of them are these.

  std::span<const std::byte> row(size_t r) const {
    return stored.subspan(order.stored_row(r) * row_bytes, row_bytes);
  }
  // All rows in order, one behind the other; empty where the file has another order.
  std::span<const std::byte> contiguous() const {
    if (order.kind != RowMap::Kind::contiguous) return {};
    return stored.subspan(order.first * row_bytes, rows * row_bytes);
  }
};

// Of a matrix whose rows lie in the file as they are; empty if the file holds it in another form (a
// transpose, codes, a type that ggml does not have). The bytes live as long as `tensors`. Error if
// there is no such tensor.
std::optional<StoredRows> stored_rows(const TensorSource& tensors, std::string_view name);

// A TensorSource that can tell; stored_rows() asks it.
class StoredRowsSource {
 public:
  virtual ~StoredRowsSource() = default;
  virtual std::optional<StoredRows> stored_rows(std::string_view name) const = 0;
};

}  // namespace fewbit
