#include "fewbit/kernels/packed_bytes.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace fewbit {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlignment = 128;

size_t round_up(size_t size, size_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

}  // namespace

void PackedBytes::Free::operator()(uint8_t* bytes) const { std::free(bytes); }

PackedBytes::PackedBytes(size_t size) : size_(size) {
  if (size == 0) return;
  const bool huge = size >= 2 * kHugePage;
  const size_t alignment = huge ? kHugePage : kAlignment;
  // Whole pages: the last one is then huge, too.
  const size_t bytes = round_up(size, alignment);
  bytes_.reset(static_cast<uint8_t*>(std::aligned_alloc(alignment, bytes)));
  if (!bytes_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // Only a wish: without it everything works, slower.
  if (huge) (void)madvise(bytes_.get(), bytes, MADV_HUGEPAGE);
#endif
  std::memset(bytes_.get(), 0, size);
}

PackedBytes::PackedBytes(const PackedBytes& other) : PackedBytes(other.size_) {
  if (size_ > 0) std::memcpy(bytes_.get(), other.bytes_.get(), size_);
}

}  // namespace fewbit
