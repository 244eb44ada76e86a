#include "fewbit/formats/dense_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/formats/dense_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// A strip of C is kRows x kVectors vectors: enough independent chains to hide the latency of a
// multiply-add, with registers left for the operands. Two vectors wide, a strip of B of the depths
// used here stays in the first-level cache while all rows of A pass by.
constexpr size_t kVectors = 2;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_NEON
constexpr size_t kRows = 8;  // of 32 registers
#else
constexpr size_t kRows = 4;  // of 16 registers
#endif

struct Subtract {
  template <class D, class V>
  static HWY_INLINE void Store(D d, V sum, hn::TFromD<D>* c) {
    hn::Store(hn::Sub(hn::Load(d, c), sum), d, c);
  }
};

struct AddInDouble {
  template <class D, class V>
  static HWY_INLINE void Store(D d, V sum, double* c) {
    // Through memory, since the halves of a vector have other names on every target.
    const hn::CappedTag<double, hn::MaxLanes(D())> dd;
    const hn::Rebind<float, decltype(dd)> part;
    HWY_ALIGN float sums[hn::MaxLanes(D())];
    hn::Store(sum, d, sums);
    for (size_t i = 0; i < hn::Lanes(d); i += hn::Lanes(dd)) {
      const auto wide = hn::PromoteTo(dd, hn::Load(part, sums + i));
      hn::StoreU(hn::Add(hn::LoadU(dd, c + i), wide), dd, c + i);
    }
  }
};

template <class Update, size_t kCount, class T, class TC>
HWY_INLINE void Strip(const T* HWY_RESTRICT a, size_t lda, const T* HWY_RESTRICT b, size_t ldb,
                      size_t depth, TC* HWY_RESTRICT c, size_t ldc) {
  const hn::CappedTag<T, kProductColumns / kVectors> d;
  const size_t lanes = hn::Lanes(d);
  hn::Vec<decltype(d)> sums[kCount][kVectors];
  for (size_t r = 0; r < kCount; ++r) {
    for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
  }
  for (size_t k = 0; k < depth; ++k, b += ldb) {
    hn::Vec<decltype(d)> row[kVectors];
    for (size_t v = 0; v < kVectors; ++v) row[v] = hn::Load(d, b + v * lanes);
    for (size_t r = 0; r < kCount; ++r) {
      const auto factor = hn::Set(d, a[r * lda + k]);
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(factor, row[v], sums[r][v]);
    }
  }
  for (size_t r = 0; r < kCount; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      Update::Store(d, sums[r][v], c + r * ldc + v * lanes);
    }
  }
}

template <class Update, class T, class TC>
void Product(const T* a, size_t lda, const T* b, size_t ldb, size_t depth, TC* c, size_t ldc,
             size_t rows, size_t cols) {
  const hn::CappedTag<T, kProductColumns / kVectors> d;
  const size_t width = kVectors * hn::Lanes(d);
  for (size_t col = 0; col < cols; col += width) {
    size_t row = 0;
    for (; row + kRows <= rows; row += kRows) {
      Strip<Update, kRows>(a + row * lda, lda, b + col, ldb, depth, c + row * ldc + col, ldc);
    }
    for (; row + kRows / 2 <= rows; row += kRows / 2) {
      Strip<Update, kRows / 2>(a + row * lda, lda, b + col, ldb, depth, c + row * ldc + col, ldc);
    }
    for (; row < rows; ++row) {
      Strip<Update, 1>(a + row * lda, lda, b + col, ldb, depth, c + row * ldc + col, ldc);
    }
  }
}

void SubtractFloat(const float* a, size_t lda, const float* b, size_t ldb, size_t depth, float* c,
                   size_t ldc, size_t rows, size_t cols) {
  Product<Subtract>(a, lda, b, ldb, depth, c, ldc, rows, cols);
}

void SubtractDouble(const double* a, size_t lda, const double* b, size_t ldb, size_t depth,
                    double* c, size_t ldc, size_t rows, size_t cols) {
  Product<Subtract>(a, lda, b, ldb, depth, c, ldc, rows, cols);
}

void AddFloatInDouble(const float* a, size_t lda, const float* b, size_t ldb, size_t depth,
                      double* c, size_t ldc, size_t rows, size_t cols) {
  Product<AddInDouble>(a, lda, b, ldb, depth, c, ldc, rows, cols);
}

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {
HWY_EXPORT(SubtractFloat);
HWY_EXPORT(SubtractDouble);
HWY_EXPORT(AddFloatInDouble);

void subtract_product(const float* a, size_t lda, const float* b, size_t ldb, size_t depth,
                      float* c, size_t ldc, size_t rows, size_t cols) {
  HWY_DYNAMIC_DISPATCH(SubtractFloat)(a, lda, b, ldb, depth, c, ldc, rows, cols);
}

void subtract_product(const double* a, size_t lda, const double* b, size_t ldb, size_t depth,
                      double* c, size_t ldc, size_t rows, size_t cols) {
  HWY_DYNAMIC_DISPATCH(SubtractDouble)(a, lda, b, ldb, depth, c, ldc, rows, cols);
}

void add_product(const float* a, size_t lda, const float* b, size_t ldb, size_t depth, double* c,
                 size_t ldc, size_t rows, size_t cols) {
  HWY_DYNAMIC_DISPATCH(AddFloatInDouble)(a, lda, b, ldb, depth, c, ldc, rows, cols);
}

}  // namespace fewbit
#endif  // HWY_ONCE
