// Matrix products on the calling thread, by oneDNN: what every product of training goes through.
//
// Work is split over threads by the callers, in pieces whose sizes depend on the problem only, so
// that results are bit-identical for any number of threads. oneDNN's kernels are generated at run
// time for the processor at hand; one kernel per shape is made and kept per thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fewbit {

// C [m, n] = A [m, k] B [k, n], row-major with the given strides between stored rows; a transposed
// factor is stored as its transpose, so a weight [out, in] is B of y = x W^T with transpose_b.
struct GemmShape {
  size_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  size_t stride_a = 0, stride_b = 0, stride_c = 0;
  bool accumulate = false;  // C += A B.
  friend bool operator==(const GemmShape&, const GemmShape&) = default;
};

// A bfloat16 value's bits; half.h converts.
using Bf16 = uint16_t;

// Float32 factors.
void gemm(const GemmShape& shape, const float* a, const float* b, float* c);
// bfloat16 factors, accumulated in float32; stored in float32, or rounded to bfloat16.
void gemm(const GemmShape& shape, const Bf16* a, const Bf16* b, float* c);
void gemm(const GemmShape& shape, const Bf16* a, const Bf16* b, Bf16* c);

// While it lives, OpenMP regions of the calling thread (oneDNN's, OpenBLAS's and ATen's) have one
// thread: for bodies of parallel_for that call into those libraries.
class SerialLibraries {
 public:
  SerialLibraries();
  ~SerialLibraries();
  SerialLibraries(const SerialLibraries&) = delete;
  SerialLibraries& operator=(const SerialLibraries&) = delete;

 private:
  int threads_;
};

}  // namespace fewbit
