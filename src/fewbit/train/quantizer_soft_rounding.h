// Soft rounding (AdaRound, arXiv 2004.10568): every weight learns whether it rounds up or down.
//
//   w^ = s (clip(floor(w / s) + h(V) + z, 0, 2^b - 1) - z)
//   h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)
//
// with fixed s, z and w, and V [out, in] trained. V starts where w^ = w (unless clipped). The
// regulariser sum(1 - |2h - 1|^beta) drives h to 0 or 1 as beta falls; harden() takes the nearer.
#pragma once

#include "fewbit/train/quantizer_affine.h"

namespace fewbit {

class SoftRounding : public FakeQuant {
 public:
  // `scale`, `zero` [groups, 1].
  SoftRounding(const AffineQuantizer& quantizer, const at::Tensor& weight, const at::Tensor& scale,
               const at::Tensor& zero);

  // Soft values, or hard ones after harden(); the argument's values are not looked at.
  at::Tensor forward(const at::Tensor& weight) const override;
  at::Tensor regulariser(double beta) const;
  // From now on h is 0 or 1, and forward() gives what bake() stores.
  void harden() { hard_ = true; }

  // parameters(): "rounding".
  std::vector<QuantizerTensor> parameters() const override { return {{"rounding", rounding_}}; }
  std::vector<QuantizerTensor> buffers() const override;
  bool trains_weight() const override { return false; }
  // Codes after hardening.
  QuantizedTensor quantize(const at::Tensor& weight) const override;
  std::string describe() const override;

 private:
  at::Tensor codes_with(const at::Tensor& up) const;

  AffineQuantizer quantizer_;
  at::Tensor scale_, zero_, floor_;  // floor_ [groups, L]
  at::Tensor rounding_;              // V
  bool hard_ = false;
};

// h(V).
at::Tensor rectified_sigmoid(const at::Tensor& v);

}  // namespace fewbit
