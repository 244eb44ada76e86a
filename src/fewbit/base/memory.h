// The allocator's habits.
#pragma once

namespace fewbit {

// glibc maps and unmaps large blocks with every allocation, so that each activation of a network
// costs its page faults anew. From now on this process keeps what it frees, for itself. For loops
// that allocate the same sizes again and again. No effect with other C libraries.
void keep_freed_memory();

}  // namespace fewbit
