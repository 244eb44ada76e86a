#include "fewbit/train/quantizer_soft_rounding.h"

#include <torch/torch.h>

namespace fewbit {
namespace {

// A sigmoid stretched beyond [0, 1] reaches both ends at finite V.
constexpr double kHigh = 1.1, kLow = -0.1;

}  // namespace

at::Tensor rectified_sigmoid(const at::Tensor& v) {
  return (v.sigmoid() * (kHigh - kLow) + kLow).clamp(0, 1);
}

SoftRounding::SoftRounding(const AffineQuantizer& quantizer, const at::Tensor& weight,
                           const at::Tensor& scale, const at::Tensor& zero)
    : quantizer_(quantizer) {
  const AffineRule rule{quantizer.bits, quantizer.scale_dtype, false};
  const EffectiveAffine effective = effective_affine(scale, zero, rule);
  scale_ = effective.scale;
  zero_ = effective.zero;
  const at::Tensor quotient = quantizer_.groups.split(weight.detach()) / scale_;
  floor_ = quotient.floor();
  const at::Tensor v = -((kHigh - kLow) / ((quotient - floor_) - kLow) - 1).log();
  rounding_ = make_parameter(quantizer_.groups.join(v));
}

at::Tensor SoftRounding::codes_with(const at::Tensor& up) const {
  return (floor_ + quantizer_.groups.split(up) + zero_).clamp(0, (1 << quantizer_.bits) - 1);
}

at::Tensor SoftRounding::forward(const at::Tensor& weight) const {
  quantizer_.groups.split(weight);  // The shape must fit all the same.
  const at::Tensor soft = rectified_sigmoid(rounding_);
  const at::Tensor up = hard_ ? (soft.detach() >= 0.5).to(soft.scalar_type()) : soft;
  return quantizer_.groups.join(scale_ * (codes_with(up) - zero_));
}

at::Tensor SoftRounding::regulariser(double beta) const {
  return (1 - (rectified_sigmoid(rounding_) * 2 - 1).abs().pow(beta)).sum();
}

std::vector<QuantizerTensor> SoftRounding::buffers() const {
  return {{"scale", scale_}, {"zero_point", zero_}, {"floor", floor_}};
}

QuantizedTensor SoftRounding::quantize(const at::Tensor&) const {
  const at::NoGradGuard no_gradient;
  const at::Tensor up = (rectified_sigmoid(rounding_) >= 0.5).to(rounding_.scalar_type());
  QuantizedTensor result;
  result.groups = quantizer_.groups;
  result.scale_dtype = quantizer_.scale_dtype;
  result.bits = quantizer_.bits;
  result.codes = quantizer_.groups.join(codes_with(up)).to(at::kByte);
  result.scales = scale_;
  result.zeros = zero_;
  return result;
}

std::string SoftRounding::describe() const {
  return fmt::format("soft rounding: affine b{}, {} scale and zero point per {}", quantizer_.bits,
                     word_of_float_dtype(quantizer_.scale_dtype), quantizer_.groups.describe());
}

}  // namespace fewbit
