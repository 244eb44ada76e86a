// Codes while they are being chosen: one byte each, columns contiguous, rows padded to panels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "fewbit/formats/code_planes.h"
#include "fewbit/formats/grid.h"

namespace fewbit {

// Aligned for the widest vectors.
template <class T>
struct PanelAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{128};
  PanelAllocator() = default;
  template <class U>
  PanelAllocator(const PanelAllocator<U>&) {}
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), kAlignment));
  }
  void deallocate(T* pointer, size_t) { ::operator delete(pointer, kAlignment); }
  friend bool operator==(const PanelAllocator&, const PanelAllocator&) { return true; }
};
using AlignedFloats = std::vector<float, PanelAllocator<float>>;

class PanelCodes {
 public:
  PanelCodes(size_t rows, size_t cols);
  // Codes of all padded rows of a column.
  uint8_t* column(size_t c) { return codes_.data() + c * padded_rows_; }
  // Packs everything into a plane's code matrix of the same shape, rows in parallel.
  void pack_into(CodeMatrix& target) const;

 private:
  size_t rows_, cols_, padded_rows_;
  std::vector<uint8_t, PanelAllocator<uint8_t>> codes_;
};

}  // namespace fewbit
