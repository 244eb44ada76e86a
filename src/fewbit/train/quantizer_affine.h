// Fake quantizers with a zero point: codes of round(w / s) + z, clipped to b bits.
//
//   efficient_qat       s and z are parameters, trained with the weights; z is rounded
//   learnable_clipping  parameters pull in the ends of min-max:
//                         hi = sigmoid(u) max, lo = sigmoid(l) min,
//                         s = clip((hi - lo) / (2^b - 1), 1e-4, 1e4), z = round(-lo / s)
//   sign_rounding       parameters shift the rounding of every weight and pull in both ends:
//                         hi = c max(max, 0), lo = a min(min, 0), s as above, z = round(-lo / s),
//                         codes of round(w / s + v) + z, gradients through z's rounding too
//
// Sources: EfficientQAT (arXiv 2407.11062), OmniQuant (2308.13137) as ZeroQAT (2509.00031) uses it,
// AutoRound (2309.05516).
#pragma once

#include <memory>

#include "fewbit/train/fake_quant.h"
#include "fewbit/train/fake_quant_function.h"

namespace fewbit {

struct AffineQuantizer {
  int bits = 2;
  ScaleGroups groups = ScaleGroups::per_row(0, 0);
  Dtype scale_dtype = Dtype::f16;
};

// s = clip((max - min) / (2^bits - 1), 1e-4, 1e4), z = round(-min / s), of each group [G, L]. z is
// not bounded by the codes: groups without a sign change lie outside.
struct AffineStart {
  at::Tensor scale, zero;  // [G, 1]
};
AffineStart min_max_start(const at::Tensor& groups, int bits);

// parameters(): "scale", "zero_point".
std::unique_ptr<FakeQuant> make_efficient_qat(const AffineQuantizer& quantizer,
                                              const at::Tensor& weight);

// 0.953 of the range on both sides.
inline constexpr double kClippingLogit = 3;
// parameters(): "upper_logit", "lower_logit".
std::unique_ptr<FakeQuant> make_learnable_clipping(const AffineQuantizer& quantizer,
                                                   const at::Tensor& weight,
                                                   double start_logit = kClippingLogit);

// parameters(): "rounding" v [groups, L] = 0, "upper_factor" c and "lower_factor" a [groups, 1] =
// 1, both to be kept within [0, 1] by the caller. The start is round to nearest on min-max with
// zero.
std::unique_ptr<FakeQuant> make_sign_rounding(const AffineQuantizer& quantizer,
                                              const at::Tensor& weight);

}  // namespace fewbit
