// Representation capacity of number formats (Panferov et al., arXiv 2506.01863).
//
//   L = A (N rho)^-alpha + B D^-beta + E,   rho = L tanh(F log_1/4 GMSE)^C
//
// GMSE is the mean squared error of a format on N(0,1) data at the best scale. rho is the share of
// the parameters that the format is worth: a cheap ranking of formats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "fewbit/base/statistics.h"

namespace fewbit {

struct CapacityConstants {
  double l = 1, f = 0.41, c = 1.39;  // Llama on C4; L is 1 for formats that saturate
};
// rho of a format with this error. 0 <= rho < L for 0 < gmse < 1.
double capacity(double gmse, const CapacityConstants& constants = {});

struct OptimalQuantizer {
  double step = 0;  // of a uniform grid; the scale s of the ternary grid
  double gmse = 0;
};
// Uniform grid of 2^bits levels without a zero level (mid-rise): closed-form error, best step.
// 1 <= bits <= 16.
OptimalQuantizer optimal_midrise(int bits);
// Integers -2^(bits-1) .. 2^(bits-1)-1 times the step.
OptimalQuantizer optimal_integer(int bits);
// {-s, 0, s}; values nearer to 0 than s/2 become 0.
OptimalQuantizer optimal_ternary();
// Rate-distortion limit 4^-bits.
double shannon_gmse(double bits);

// Mean squared error of any quantizer on `samples` standard normal numbers.
Estimate monte_carlo_gmse(const std::function<double(double)>& quantize, size_t samples,
                          uint64_t seed);

}  // namespace fewbit
