// Fake quantization as autograd nodes: quantized values forward, a hand-written gradient back.
//
// Weights come as groups [G, L] that share one scale each (ScaleGroups::split), scales and zero
// points as [G, 1], in the precision of the weights (float32 or float64). On the CPU one fused
// pass per direction does the work, in parallel over fixed pieces, so that results do not depend on
// the number of threads; on other devices, and as the specification of the fused pass, formulas of
// ATen operations do (fake_quant_formula.h).
#pragma once

#include <ATen/ATen.h>

#include <limits>

#include "fewbit/train/quantizer_layout.h"

namespace fewbit {

// How gradients pass a level grid. With G = dL/dw^ and u = (w - centre) / a:
//
//   dL/dw = G where window_low <= u <= window_high, else 0
//   dL/da = factor * sum over the group of s G
//
// with s = clipped_low below scale_low, clipped_high above scale_high, and between them
//
//   level     w^/a      the gradient at fixed codes
//   residual  w^/a - u  the rounding is the identity (LSQ, ParetoQ)
//   none      0         only clipped values pull at the scale (PACT)
//
// The centre takes no gradient.
struct GradientRule {
  enum class Scale { level, residual, none };
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  double window_low = -kInfinity, window_high = kInfinity;
  Scale scale = Scale::level;
  double scale_low = -kInfinity, scale_high = kInfinity;
  double clipped_low = 0, clipped_high = 0;
  bool open = false;  // The bounds themselves count as outside.
  double factor = 1;
};
// Straight through: no window, and no gradient for a scale that is recomputed from the weights.
GradientRule identity_gradient();

struct LevelRule {
  LevelGrid grid;
  GradientRule gradient;
  Dtype scale_dtype = Dtype::f32;
};

// `value` forward; its gradient goes to `source`, of the same shape, unchanged.
at::Tensor straight_through(const at::Tensor& source, const at::Tensor& value);

// Scales below this are taken as this, whatever their sign.
inline constexpr double kSmallestScale = 1e-5;

// A scale as stored (times the grid's unit), and the value that stands for `a` after storing.
struct EffectiveScale {
  at::Tensor stored, value;
};
EffectiveScale effective_scale(const at::Tensor& scale, const LevelRule& rule);

// w^ of `groups` under `scale`, with gradients to both. `centre` [G, 1], subtracted from the
// weights before the code is chosen, or undefined.
at::Tensor level_fake_quant(const at::Tensor& groups, const at::Tensor& scale,
                            const at::Tensor& centre, const LevelRule& rule);
// Codes [G, L], uint8.
at::Tensor level_codes(const at::Tensor& groups, const at::Tensor& scale, const at::Tensor& centre,
                       const LevelRule& rule);

struct AffineRule {
  int bits = 0;
  Dtype scale_dtype = Dtype::f32;
  // Zero points are rounded and kept within the codes (EfficientQAT). Otherwise they are taken as
  // they are and get no gradient (learnable clipping).
  bool learned_zero = true;

  double largest_code() const { return (1 << bits) - 1; }
};

// Scales outside are taken as the nearer bound.
inline constexpr double kSmallestAffineScale = 1e-4, kLargestAffineScale = 1e4;

struct EffectiveAffine {
  at::Tensor scale, zero;
};
EffectiveAffine effective_affine(const at::Tensor& scale, const at::Tensor& zero,
                                 const AffineRule& rule);

// v = round(w / s) + z, code = clip(v, 0, 2^bits - 1), w^ = (code - z) s. With m = 1 where v is not
// clipped, else 0:
//
//   dL/dw = m G,  dL/ds = sum G ((code - z) - m w / s),  dL/dz = sum -G s (1 - m)
//
// The bounds on s and the rounding of z are straight through.
at::Tensor affine_fake_quant(const at::Tensor& groups, const at::Tensor& scale,
                             const at::Tensor& zero, const AffineRule& rule);
at::Tensor affine_codes(const at::Tensor& groups, const at::Tensor& scale, const at::Tensor& zero,
                        const AffineRule& rule);

}  // namespace fewbit
