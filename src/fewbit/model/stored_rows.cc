#include "fewbit/model/stored_rows.h"

#include "fewbit/base/error.h"

namespace fewbit {

std::optional<StoredRows> stored_rows(const TensorSource& tensors, std::string_view name) {
  require(tensors.contains(name), "tensor {} is missing", name);
  const auto* source = dynamic_cast<const StoredRowsSource*>(&tensors);
  return source == nullptr ? std::nullopt : source->stored_rows(name);
}

}  // namespace fewbit
