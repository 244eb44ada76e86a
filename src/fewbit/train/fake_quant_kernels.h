// Fused passes over groups of weights on the CPU: the span form of fake_quant_formula.h, for float
// and double. Arrays are [groups, length] and one scale, zero point or centre per group.
#pragma once

#include <cstdint>

#include "fewbit/train/fake_quant_function.h"

namespace fewbit::kernels {

struct GroupShape {
  int64_t groups = 0, length = 0;
};

// `scales`: effective ones; `stored` = what is stored for them; `centres` may be null.
template <class T>
struct LevelScales {
  const T* values = nullptr;
  const T* stored = nullptr;
  const T* centres = nullptr;
};

template <class T>
void level_forward(GroupShape shape, const T* weights, LevelScales<T> scales, const LevelGrid& grid,
                   T* out);
template <class T>
void level_codes(GroupShape shape, const T* weights, LevelScales<T> scales, const LevelGrid& grid,
                 uint8_t* codes);
// `weight_gradient` and `scale_gradient` may be null.
template <class T>
void level_backward(GroupShape shape, const T* weights, LevelScales<T> scales,
                    const LevelGrid& grid, const GradientRule& rule, const T* gradient,
                    T* weight_gradient, T* scale_gradient);

template <class T>
void affine_forward(GroupShape shape, const T* weights, const T* scales, const T* zeros,
                    T largest_code, T* out);
template <class T>
void affine_codes(GroupShape shape, const T* weights, const T* scales, const T* zeros,
                  T largest_code, uint8_t* codes);
template <class T>
void affine_backward(GroupShape shape, const T* weights, const T* scales, const T* zeros,
                     T largest_code, const T* gradient, T* weight_gradient, T* scale_gradient,
                     T* zero_gradient);

// Sums and maxima per group, accumulated in float64 in a fixed order.
enum class GroupStatistic { sum, sum_of_magnitudes, largest_magnitude };
template <class T>
void group_statistic(GroupShape shape, const T* weights, GroupStatistic statistic, double* out);

}  // namespace fewbit::kernels
