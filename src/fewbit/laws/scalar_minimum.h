// Minimum of a function of one variable by golden-section search.
#pragma once

#include <cmath>

namespace fewbit {

struct ScalarMinimum {
  double at = 0, value = 0;
};

// `f` unimodal on [low, high]. The place is good to about the square root of machine precision
// relative to the scale on which f varies, which is all that values of f can tell.
template <class Function>
ScalarMinimum golden_minimum(Function&& f, double low, double high, double tolerance = 1e-10) {
  constexpr double kShare = 0.6180339887498949;  // 1 / golden ratio
  double a = high - kShare * (high - low), b = low + kShare * (high - low);
  double value_a = f(a), value_b = f(b);
  while (high - low > tolerance * (1 + std::abs(low) + std::abs(high))) {
    if (value_a <= value_b) {
      high = b;
      b = a;
      value_b = value_a;
      a = high - kShare * (high - low);
      value_a = f(a);
    } else {
      low = a;
      a = b;
      value_a = value_b;
      b = low + kShare * (high - low);
      value_b = f(b);
    }
  }
  return value_a <= value_b ? ScalarMinimum{a, value_a} : ScalarMinimum{b, value_b};
}

}  // namespace fewbit
