#include "fewbit/train/fake_quant_kernels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "fewbit/base/threads.h"

namespace fewbit::kernels {
namespace {

// Long groups are cut into pieces of this many weights: the unit of parallel work and of partial
// sums, independent of the number of threads.
constexpr int64_t kPiece = 4096;
// Weights of one task; below it a thread costs more than it saves.
constexpr int64_t kTask = 32768;
// Products are summed a block at a time, from a buffer in the first-level cache.
constexpr int64_t kBlock = 512;

struct Piece {
  int64_t group = 0, first = 0, length = 0;
  size_t index = 0;
};

struct Pieces {
  explicit Pieces(GroupShape s)
      : shape(s), per_group(std::max<int64_t>(1, (s.length + kPiece - 1) / kPiece)) {}
  size_t count() const { return static_cast<size_t>(shape.groups * per_group); }

  template <class Body>
  void for_each(const Body& body) const {
    const int64_t typical = std::max<int64_t>(1, std::min(shape.length, kPiece));
    parallel_for_chunks(count(), static_cast<size_t>(std::max<int64_t>(1, kTask / typical)),
                        [&](size_t begin, size_t end) {
                          for (size_t i = begin; i < end; ++i) body(piece(i));
                        });
  }

  // One number per group from one per piece, added in order.
  template <class Combine>
  void gather(const std::vector<double>& partial, const Combine& combine) const {
    for (int64_t group = 0; group < shape.groups; ++group) {
      combine(group, std::span<const double>(partial).subspan(
                         static_cast<size_t>(group * per_group), static_cast<size_t>(per_group)));
    }
  }

  GroupShape shape;
  int64_t per_group;

 private:
  Piece piece(size_t index) const {
    const int64_t group = static_cast<int64_t>(index) / per_group;
    const int64_t within = (static_cast<int64_t>(index) % per_group) * kPiece;
    return {group, group * shape.length + within, std::min(kPiece, shape.length - within), index};
  }
};

double sum_of(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum;
}

// Half to even for |x| below 2^22 (float) or 2^51 (double): adding 1.5 * 2^23 leaves no bits for a
// fraction. Unlike nearbyint it needs no instruction beyond the baseline, so loops vectorise.
template <class T>
T round_half_even(T x) {
  constexpr T kShift = sizeof(T) == 4 ? T(12582912) : T(6755399441055744);
  return (x + kShift) - kShift;
}

template <class T>
T clip(T x, T low, T high) {
  const T above = x < low ? low : x;
  return above > high ? high : above;
}

// Eight interleaved sums, so that the additions do not wait for each other.
template <class T>
double sum_block(const T* values, int64_t count) {
  constexpr int64_t kLanes = 8;
  std::array<double, kLanes> lanes{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[static_cast<size_t>(lane)] += static_cast<double>(values[i + lane]);
    }
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) {
    lanes[static_cast<size_t>(lane)] += static_cast<double>(values[i]);
  }
  return sum_of(lanes);
}

// --- level grids ---------------------------------------------------------------------------------

template <class T>
struct SignLevels {
  bool zero_stays_zero;
  explicit SignLevels(const LevelGrid& grid) : zero_stays_zero(grid.zero_stays_zero) {}
  T operator()(T u) const {
    const T sign = u >= 0 ? T(1) : T(-1);
    return zero_stays_zero && u == 0 ? T(0) : sign;
  }
};

template <class T>
struct RoundedLevels {
  T low, high, steps_per_unit, shift, first_step, level_step, first_level;
  explicit RoundedLevels(const LevelGrid& grid)
      : low(static_cast<T>(grid.clip_low)),
        high(static_cast<T>(grid.clip_high)),
        steps_per_unit(static_cast<T>(grid.steps_per_unit)),
        shift(static_cast<T>(grid.shift)),
        first_step(static_cast<T>(grid.first_step)),
        level_step(static_cast<T>(grid.level_step)),
        first_level(static_cast<T>(grid.first_level)) {}
  T operator()(T u) const {
    const T step = round_half_even(clip(u, low, high) * steps_per_unit - shift);
    return (step - first_step) * level_step + first_level;
  }
};

// Calls body with the functor u -> level of this grid.
template <class T, class Body>
void with_levels(const LevelGrid& grid, const Body& body) {
  if (grid.sign) {
    body(SignLevels<T>(grid));
  } else {
    body(RoundedLevels<T>(grid));
  }
}

// Bounds as closed ones: the open interval (low, high) is the closed one between the neighbours.
template <class T>
struct Bounds {
  T low, high;
  Bounds(double l, double h, bool open) : low(static_cast<T>(l)), high(static_cast<T>(h)) {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    if (open) {
      low = std::nextafter(low, kInfinity);
      high = std::nextafter(high, -kInfinity);
    }
  }
};

template <class T>
T centre_of(const LevelScales<T>& scales, int64_t group) {
  return scales.centres != nullptr ? scales.centres[group] : T(0);
}

}  // namespace

template <class T>
void level_forward(GroupShape shape, const T* weights, LevelScales<T> scales, const LevelGrid& grid,
                   T* out) {
  with_levels<T>(grid, [&](const auto level) {
    Pieces(shape).for_each([&](const Piece& piece) {
      const T scale = scales.values[piece.group], stored = scales.stored[piece.group];
      const T centre = centre_of(scales, piece.group);
      const T* w = weights + piece.first;
      T* o = out + piece.first;
      for (int64_t i = 0; i < piece.length; ++i) o[i] = stored * level((w[i] - centre) / scale);
    });
  });
}

template <class T>
void level_codes(GroupShape shape, const T* weights, LevelScales<T> scales, const LevelGrid& grid,
                 uint8_t* codes) {
  with_levels<T>(grid, [&](const auto level) {
    Pieces(shape).for_each([&](const Piece& piece) {
      const T scale = scales.values[piece.group], centre = centre_of(scales, piece.group);
      const T* w = weights + piece.first;
      uint8_t* c = codes + piece.first;
      const T first = static_cast<T>(grid.first_level), step = static_cast<T>(grid.level_step);
      for (int64_t i = 0; i < piece.length; ++i) {
        c[i] = static_cast<uint8_t>((level((w[i] - centre) / scale) - first) / step);
      }
    });
  });
}

template <class T>
void level_backward(GroupShape shape, const T* weights, LevelScales<T> scales,
                    const LevelGrid& grid, const GradientRule& rule, const T* gradient,
                    T* weight_gradient, T* scale_gradient) {
  const Pieces pieces(shape);
  const Bounds<T> window(rule.window_low, rule.window_high, rule.open);
  const Bounds<T> bounds(rule.scale_low, rule.scale_high, rule.open);
  const T clipped_low = static_cast<T>(rule.clipped_low);
  const T clipped_high = static_cast<T>(rule.clipped_high);
  const T unit = static_cast<T>(grid.unit);
  // The term between the bounds is level_part * level + quotient_part * u.
  const T level_part = rule.scale == GradientRule::Scale::none ? T(0) : unit;
  const T quotient_part = rule.scale == GradientRule::Scale::residual ? T(-1) : T(0);
  std::vector<double> partial(scale_gradient != nullptr ? pieces.count() : 0);
  with_levels<T>(grid, [&](const auto level) {
    pieces.for_each([&](const Piece& piece) {
      const T scale = scales.values[piece.group], centre = centre_of(scales, piece.group);
      const T* w = weights + piece.first;
      const T* g = gradient + piece.first;
      if (weight_gradient != nullptr) {
        T* dw = weight_gradient + piece.first;
        for (int64_t i = 0; i < piece.length; ++i) {
          const T u = (w[i] - centre) / scale;
          dw[i] = u < window.low || u > window.high ? T(0) : g[i];
        }
      }
      if (scale_gradient == nullptr) return;
      std::array<T, kBlock> products;
      double sum = 0;
      for (int64_t first = 0; first < piece.length; first += kBlock) {
        const int64_t count = std::min(kBlock, piece.length - first);
        for (int64_t i = 0; i < count; ++i) {
          const T u = (w[first + i] - centre) / scale;
          const T between = level(u) * level_part + u * quotient_part;
          const T capped = u > bounds.high ? clipped_high : between;
          const T term = u < bounds.low ? clipped_low : capped;
          products[static_cast<size_t>(i)] = term * g[first + i];
        }
        sum += sum_block(products.data(), count);
      }
      partial[piece.index] = sum;
    });
  });
  if (scale_gradient == nullptr) return;
  pieces.gather(partial, [&](int64_t group, std::span<const double> sums) {
    scale_gradient[group] = static_cast<T>(sum_of(sums) * rule.factor);
  });
}

// --- affine grids --------------------------------------------------------------------------------

namespace {

// Quotients beyond this are clipped by any range of codes and zero points, and it keeps
// round_half_even() exact.
template <class T>
constexpr T kLargestQuotient = T(1 << 21);

template <class T>
T rounded_quotient(T w, T scale) {
  return round_half_even(clip(w / scale, -kLargestQuotient<T>, kLargestQuotient<T>));
}

}  // namespace

template <class T>
void affine_forward(GroupShape shape, const T* weights, const T* scales, const T* zeros,
                    T largest_code, T* out) {
  Pieces(shape).for_each([&](const Piece& piece) {
    const T scale = scales[piece.group], zero = zeros[piece.group];
    const T* w = weights + piece.first;
    T* o = out + piece.first;
    for (int64_t i = 0; i < piece.length; ++i) {
      const T code = clip(rounded_quotient(w[i], scale) + zero, T(0), largest_code);
      o[i] = scale * (code - zero);
    }
  });
}

template <class T>
void affine_codes(GroupShape shape, const T* weights, const T* scales, const T* zeros,
                  T largest_code, uint8_t* codes) {
  Pieces(shape).for_each([&](const Piece& piece) {
    const T scale = scales[piece.group], zero = zeros[piece.group];
    const T* w = weights + piece.first;
    uint8_t* c = codes + piece.first;
    for (int64_t i = 0; i < piece.length; ++i) {
      c[i] = static_cast<uint8_t>(clip(rounded_quotient(w[i], scale) + zero, T(0), largest_code));
    }
  });
}

template <class T>
void affine_backward(GroupShape shape, const T* weights, const T* scales, const T* zeros,
                     T largest_code, const T* gradient, T* weight_gradient, T* scale_gradient,
                     T* zero_gradient) {
  const Pieces pieces(shape);
  std::vector<double> scale_sums(pieces.count()), zero_sums(pieces.count());
  pieces.for_each([&](const Piece& piece) {
    const T scale = scales[piece.group], zero = zeros[piece.group];
    std::array<T, kBlock> scale_products, zero_products;
    double scale_sum = 0, zero_sum = 0;
    for (int64_t first = 0; first < piece.length; first += kBlock) {
      const int64_t count = std::min(kBlock, piece.length - first);
      const T* w = weights + piece.first + first;
      const T* g = gradient + piece.first + first;
      for (int64_t i = 0; i < count; ++i) {
        const T v = rounded_quotient(w[i], scale) + zero;
        const bool clipped = v < 0 || v > largest_code;
        const T steps = clip(v, T(0), largest_code) - zero;
        scale_products[static_cast<size_t>(i)] = g[i] * (clipped ? steps : steps - w[i] / scale);
        zero_products[static_cast<size_t>(i)] = clipped ? g[i] : T(0);
      }
      if (weight_gradient != nullptr) {
        T* dw = weight_gradient + piece.first + first;
        for (int64_t i = 0; i < count; ++i) {
          const T v = rounded_quotient(w[i], scale) + zero;
          dw[i] = v < 0 || v > largest_code ? T(0) : g[i];
        }
      }
      scale_sum += sum_block(scale_products.data(), count);
      zero_sum += sum_block(zero_products.data(), count);
    }
    scale_sums[piece.index] = scale_sum;
    zero_sums[piece.index] = zero_sum;
  });
  pieces.gather(scale_sums, [&](int64_t group, std::span<const double> sums) {
    scale_gradient[group] = static_cast<T>(sum_of(sums));
  });
  pieces.gather(zero_sums, [&](int64_t group, std::span<const double> sums) {
    zero_gradient[group] = static_cast<T>(-sum_of(sums) * static_cast<double>(scales[group]));
  });
}

// --- statistics ----------------------------------------------------------------------------------

template <class T>
void group_statistic(GroupShape shape, const T* weights, GroupStatistic statistic, double* out) {
  const Pieces pieces(shape);
  std::vector<double> partial(pieces.count());
  pieces.for_each([&](const Piece& piece) {
    const T* w = weights + piece.first;
    double result = 0;
    if (statistic == GroupStatistic::largest_magnitude) {
      T largest = 0;
      for (int64_t i = 0; i < piece.length; ++i) largest = std::max(largest, std::abs(w[i]));
      result = static_cast<double>(largest);
    } else if (statistic == GroupStatistic::sum) {
      result = sum_block(w, piece.length);
    } else {
      std::array<T, kBlock> magnitudes;
      for (int64_t first = 0; first < piece.length; first += kBlock) {
        const int64_t count = std::min(kBlock, piece.length - first);
        for (int64_t i = 0; i < count; ++i) {
          magnitudes[static_cast<size_t>(i)] = std::abs(w[first + i]);
        }
        result += sum_block(magnitudes.data(), count);
      }
    }
    partial[piece.index] = result;
  });
  pieces.gather(partial, [&](int64_t group, std::span<const double> values) {
    out[group] = statistic == GroupStatistic::largest_magnitude
                     ? *std::max_element(values.begin(), values.end())
                     : sum_of(values);
  });
}

#define FEWBIT_INSTANTIATE(T)                                                                     \
  template void level_forward<T>(GroupShape, const T*, LevelScales<T>, const LevelGrid&, T*);     \
  template void level_codes<T>(GroupShape, const T*, LevelScales<T>, const LevelGrid&, uint8_t*); \
  template void level_backward<T>(GroupShape, const T*, LevelScales<T>, const LevelGrid&,         \
                                  const GradientRule&, const T*, T*, T*);                         \
  template void affine_forward<T>(GroupShape, const T*, const T*, const T*, T, T*);               \
  template void affine_codes<T>(GroupShape, const T*, const T*, const T*, T, uint8_t*);           \
  template void affine_backward<T>(GroupShape, const T*, const T*, const T*, T, const T*, T*, T*, \
                                   T*);                                                           \
  template void group_statistic<T>(GroupShape, const T*, GroupStatistic, double*);
FEWBIT_INSTANTIATE(float)
FEWBIT_INSTANTIATE(double)
#undef FEWBIT_INSTANTIATE

}  // namespace fewbit::kernels
