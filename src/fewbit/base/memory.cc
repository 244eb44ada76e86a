#include "fewbit/base/memory.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace fewbit {

void keep_freed_memory() {
#ifdef __GLIBC__
  static const bool done = [] {
    constexpr int kNever = 1 << 30;
    mallopt(M_MMAP_THRESHOLD, kNever);
    mallopt(M_TRIM_THRESHOLD, kNever);
    return true;
  }();
  (void)done;
#endif
}

}  // namespace fewbit
