#include "fewbit/kernels/float_kernels.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "fewbit/base/half.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/kernels/float_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {
#if HWY_TARGET != HWY_SCALAR && !HWY_HAVE_SCALABLE

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr size_t kLanes = HWY_MAX_BYTES / sizeof(float);
constexpr size_t kVectors = kSumLanes / kLanes;
// Rows and tokens whose sums fill the registers.
constexpr size_t kRows = kVectors == 2 ? 4 : 1;
constexpr size_t kTokens = kVectors == 2 ? 3 : kVectors == 4 ? 2 : 1;

struct LoadF32 {
  static constexpr size_t kBytes = 4;
  static HWY_INLINE V Load(const std::byte* stored) {
    return hn::LoadU(D(), reinterpret_cast<const float*>(stored));
  }
};
template <class Half>
struct LoadHalf {
  static constexpr size_t kBytes = 2;
  static HWY_INLINE V Load(const std::byte* stored) {
    const hn::Rebind<uint16_t, D> d16;
    const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(stored));
    return hn::PromoteTo(D(), hn::BitCast(hn::Rebind<Half, D>(), bits));
  }
};
using LoadF16 = LoadHalf<hwy::float16_t>;
using LoadBf16 = LoadHalf<hwy::bfloat16_t>;

// Lanes i and i + half are added until one is left.
HWY_INLINE float SumByHalves(const V* sums) {
  V total[kVectors];
  std::copy_n(sums, kVectors, total);
  for (size_t half = kVectors / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) total[i] = hn::Add(total[i], total[i + half]);
  }
  return hn::GetLane(hn::SumOfLanes(D(), total[0]));
}

// Products of kR rows with kT tokens; `stored(r)` and `x(t)` begin them.
template <class Loader, size_t kR, size_t kT, class Stored, class Tokens, class Store>
HWY_INLINE void MultiplyTile(const Stored& stored, const Tokens& x, size_t count,
                             const Store& store) {
  const D d;
  V sums[kR][kT][kVectors];
  for (size_t r = 0; r < kR; ++r) {
    for (size_t t = 0; t < kT; ++t) {
      for (size_t v = 0; v < kVectors; ++v) sums[r][t][v] = hn::Zero(d);
    }
  }
  const auto add = [&](const auto& rows, const auto& tokens) HWY_ATTR {
    for (size_t v = 0; v < kVectors; ++v) {
      V values[kT];
      for (size_t t = 0; t < kT; ++t) values[t] = hn::LoadU(d, tokens(t) + v * kLanes);
      for (size_t r = 0; r < kR; ++r) {
        const V weight = Loader::Load(rows(r) + v * kLanes * Loader::kBytes);
        for (size_t t = 0; t < kT; ++t) {
          sums[r][t][v] = hn::MulAdd(weight, values[t], sums[r][t][v]);
        }
      }
    }
  };
  size_t c = 0;
  for (; c + kSumLanes <= count; c += kSumLanes) {
    add([&](size_t r) HWY_ATTR { return stored(r) + c * Loader::kBytes; },
        [&](size_t t) HWY_ATTR { return x(t) + c; });
  }
  if (c < count) {
    // Copies padded with zeros: nothing is read beyond a row.
    std::byte rows[kR][kSumLanes * sizeof(float)] = {};
    float tokens[kT][kSumLanes] = {};
    for (size_t r = 0; r < kR; ++r) {
      std::memcpy(rows[r], stored(r) + c * Loader::kBytes, (count - c) * Loader::kBytes);
    }
    for (size_t t = 0; t < kT; ++t) std::copy(x(t) + c, x(t) + count, tokens[t]);
    add([&](size_t r) HWY_ATTR { return rows[r]; }, [&](size_t t) HWY_ATTR { return tokens[t]; });
  }
  for (size_t r = 0; r < kR; ++r) {
    for (size_t t = 0; t < kT; ++t) store(r, t, SumByHalves(sums[r][t]));
  }
}

template <class Loader>
float DotWith(const std::byte* stored, const float* x, size_t count) {
  float result = 0;
  MultiplyTile<Loader, 1, 1>([&](size_t) HWY_ATTR { return stored; },
                             [&](size_t) HWY_ATTR { return x; }, count,
                             [&](size_t, size_t, float sum) HWY_ATTR { result = sum; });
  return result;
}

float DotStored(Dtype dtype, const std::byte* stored, const float* x, size_t count) {
  if (dtype == Dtype::f16) return DotWith<LoadF16>(stored, x, count);
  if (dtype == Dtype::bf16) return DotWith<LoadBf16>(stored, x, count);
  return DotWith<LoadF32>(stored, x, count);
}

template <size_t kR, size_t kT>
HWY_NOINLINE void MultiplyTileAt(MatrixView<const float> rows, MatrixView<const float> x,
                                 MatrixView<float> y, size_t row, size_t token) {
  MultiplyTile<LoadF32, kR, kT>(
      [&](size_t r) HWY_ATTR {
        return reinterpret_cast<const std::byte*>(rows.data() + (row + r) * rows.stride());
      },
      [&](size_t t) HWY_ATTR { return x.data() + (token + t) * x.stride(); }, rows.cols(),
      [&](size_t r, size_t t, float sum) HWY_ATTR { y(token + t, row + r) = sum; });
}

void MultiplyRows(MatrixView<const float> rows, MatrixView<const float> x, MatrixView<float> y) {
  size_t row = 0;
  for (; row + kRows <= rows.rows(); row += kRows) {
    size_t token = 0;
    for (; token + kTokens <= x.rows(); token += kTokens) {
      MultiplyTileAt<kRows, kTokens>(rows, x, y, row, token);
    }
    for (; token < x.rows(); ++token) MultiplyTileAt<kRows, 1>(rows, x, y, row, token);
  }
  for (; row < rows.rows(); ++row) {
    for (size_t token = 0; token < x.rows(); ++token) {
      MultiplyTileAt<1, 1>(rows, x, y, row, token);
    }
  }
}

template <class Loader>
void DecodeWith(const std::byte* stored, float* out, size_t count) {
  size_t c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    hn::StoreU(Loader::Load(stored + c * Loader::kBytes), D(), out + c);
  }
  if (c == count) return;
  std::byte rest[kLanes * sizeof(float)] = {};
  float values[kLanes];
  std::memcpy(rest, stored + c * Loader::kBytes, (count - c) * Loader::kBytes);
  hn::StoreU(Loader::Load(rest), D(), values);
  std::copy_n(values, count - c, out + c);
}

void DecodeFloats(Dtype dtype, const std::byte* stored, float* out, size_t count) {
  if (dtype == Dtype::f16) return DecodeWith<LoadF16>(stored, out, count);
  if (dtype == Dtype::bf16) return DecodeWith<LoadBf16>(stored, out, count);
  std::memcpy(out, stored, count * sizeof(float));
}

#else

void DecodeFloats(Dtype dtype, const std::byte* stored, float* out, size_t count) {
  if (dtype == Dtype::f32) {
    std::memcpy(out, stored, count * sizeof(float));
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, stored + i * sizeof bits, sizeof bits);
    out[i] = dtype == Dtype::f16 ? f16_to_float(bits) : bf16_to_float(bits);
  }
}

float DotStored(Dtype dtype, const std::byte* stored, const float* x, size_t count) {
  std::vector<float> row(count);
  DecodeFloats(dtype, stored, row.data(), count);
  return dot_reference(row.data(), x, count);
}

void MultiplyRows(MatrixView<const float> rows, MatrixView<const float> x, MatrixView<float> y) {
  for (size_t t = 0; t < x.rows(); ++t) {
    for (size_t r = 0; r < rows.rows(); ++r) {
      y(t, r) = dot_reference(rows.row(r).data(), x.row(t).data(), rows.cols());
    }
  }
}

#endif
}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {
HWY_EXPORT(DecodeFloats);
HWY_EXPORT(DotStored);
HWY_EXPORT(MultiplyRows);

void decode_floats(Dtype dtype, const std::byte* stored, float* out, size_t count) {
  HWY_DYNAMIC_DISPATCH(DecodeFloats)(dtype, stored, out, count);
}

float dot_stored(Dtype dtype, const std::byte* stored, const float* x, size_t count) {
  return HWY_DYNAMIC_DISPATCH(DotStored)(dtype, stored, x, count);
}

void multiply_rows(MatrixView<const float> rows, MatrixView<const float> x, MatrixView<float> y) {
  HWY_DYNAMIC_DISPATCH(MultiplyRows)(rows, x, y);
}

float dot_reference(const float* a, const float* b, size_t count) {
  std::array<float, kSumLanes> sums{};
  for (size_t c = 0; c < count; ++c) sums[c % kSumLanes] += a[c] * b[c];
  for (size_t half = kSumLanes / 2; half > 0; half /= 2) {
    for (size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

}  // namespace fewbit
#endif  // HWY_ONCE
