// Parallel loops over a process-wide pool.
//
// Results must not depend on the number of threads: a loop body writes only to its own outputs, and
// a reduction adds per-chunk results in chunk order, with chunk sizes fixed by the problem.
#pragma once

#include <cstddef>
#include <functional>

namespace fewbit {

// Threads that parallel_for uses, at least 1. At the start FEWBIT_THREADS if set, else the
// processors this process may run on.
size_t thread_count();
// Takes effect at the next parallel_for. Not to be called from inside one.
void set_thread_count(size_t count);

// Calls body(i) for every i in [0, count), each once, in any order and on any thread; the caller's
// thread takes part. The first exception is rethrown here after all running bodies have ended.
// A call from inside a body runs serially. Several threads may be in calls at a time: together they
// use about thread_count() threads, and what one leaves free the others take.
void parallel_for(size_t count, const std::function<void(size_t)>& body);

// The same over ranges [first, last) of at most `chunk` items: for cheap bodies.
void parallel_for_chunks(size_t count, size_t chunk,
                         const std::function<void(size_t first, size_t last)>& body);

}  // namespace fewbit
