#include "fewbit/train/quantizer_affine.h"

#include <torch/torch.h>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr double kLargestZero = 1e4;

class AffineFakeQuant : public FakeQuant {
 public:
  at::Tensor forward(const at::Tensor& weight) const override {
    const at::Tensor groups = quantizer_.groups.split(weight);
    const AffineStart now = parameters_of(groups);
    return quantizer_.groups.join(
        affine_fake_quant(rounded_weights(groups, now.scale), now.scale, now.zero, rule_));
  }

  QuantizedTensor quantize(const at::Tensor& weight) const override {
    const at::NoGradGuard no_gradient;
    const at::Tensor groups = quantizer_.groups.split(weight);
    const AffineStart now = parameters_of(groups);
    const EffectiveAffine stored = effective_affine(now.scale, now.zero, rule_);
    QuantizedTensor result;
    result.groups = quantizer_.groups;
    result.scale_dtype = quantizer_.scale_dtype;
    result.bits = quantizer_.bits;
    result.codes = quantizer_.groups.join(
        affine_codes(rounded_weights(groups, now.scale), now.scale, now.zero, rule_));
    result.scales = stored.scale.clone();
    result.zeros = stored.zero.clone();
    return result;
  }

 protected:
  AffineFakeQuant(const AffineQuantizer& quantizer, bool learned_zero) : quantizer_(quantizer) {
    require(quantizer.bits >= 1 && quantizer.bits <= 8,
            "bits={} is not allowed for an affine quantizer; allowed: 1 to 8", quantizer.bits);
    rule_ = {quantizer.bits, quantizer.scale_dtype, learned_zero};
  }
  // Scales and zero points for these groups, with their gradients.
  virtual AffineStart parameters_of(const at::Tensor& groups) const = 0;
  // What is rounded in the place of the groups' weights.
  virtual at::Tensor rounded_weights(const at::Tensor& groups, const at::Tensor&) const {
    return groups;
  }
  std::string describe_as(const char* name) const {
    return fmt::format("{}: affine b{}, {} scale and zero point per {}", name, quantizer_.bits,
                       word_of_float_dtype(quantizer_.scale_dtype), quantizer_.groups.describe());
  }

  AffineQuantizer quantizer_;
  AffineRule rule_;
};

class EfficientQat : public AffineFakeQuant {
 public:
  EfficientQat(const AffineQuantizer& quantizer, const at::Tensor& weight)
      : AffineFakeQuant(quantizer, true) {
    const AffineStart start =
        min_max_start(quantizer.groups.split(weight.detach()), quantizer.bits);
    scale_ = make_parameter(start.scale);
    zero_ = make_parameter(start.zero);
  }
  std::vector<QuantizerTensor> parameters() const override {
    return {{"scale", scale_}, {"zero_point", zero_}};
  }
  std::string describe() const override { return describe_as("efficientqat"); }

 private:
  AffineStart parameters_of(const at::Tensor&) const override { return {scale_, zero_}; }
  at::Tensor scale_, zero_;
};

class LearnableClipping : public AffineFakeQuant {
 public:
  LearnableClipping(const AffineQuantizer& quantizer, const at::Tensor& weight, double logit)
      : AffineFakeQuant(quantizer, false) {
    const at::Tensor start =
        at::full({quantizer.groups.count(), 1}, logit, weight.options().requires_grad(false));
    upper_ = make_parameter(start);
    lower_ = make_parameter(start);
  }
  std::vector<QuantizerTensor> parameters() const override {
    return {{"upper_logit", upper_}, {"lower_logit", lower_}};
  }
  std::string describe() const override { return describe_as("lwc"); }

 private:
  AffineStart parameters_of(const at::Tensor& groups) const override {
    const at::Tensor high = upper_.sigmoid() * groups.amax(1, true);
    const at::Tensor low = lower_.sigmoid() * groups.amin(1, true);
    const at::Tensor scale =
        ((high - low) / rule_.largest_code()).clamp(kSmallestAffineScale, kLargestAffineScale);
    // The zero point belongs to the scale as stored; its rounding lets no gradient pass.
    const at::Tensor stored = round_to_stored(scale.detach(), rule_.scale_dtype);
    return {scale, (-low.detach() / stored).clamp(-kLargestZero, kLargestZero).round()};
  }
  at::Tensor upper_, lower_;
};

class SignRounding : public AffineFakeQuant {
 public:
  SignRounding(const AffineQuantizer& quantizer, const at::Tensor& weight)
      : AffineFakeQuant(quantizer, true) {
    const auto options = weight.options().requires_grad(false);
    const int64_t groups = quantizer_.groups.count();
    rounding_ = make_parameter(at::zeros({groups, quantizer_.groups.length()}, options));
    upper_ = make_parameter(at::ones({groups, 1}, options));
    lower_ = make_parameter(at::ones({groups, 1}, options));
  }
  std::vector<QuantizerTensor> parameters() const override {
    return {{"rounding", rounding_}, {"upper_factor", upper_}, {"lower_factor", lower_}};
  }
  std::string describe() const override { return describe_as("sign rounding"); }

 private:
  AffineStart parameters_of(const at::Tensor& groups) const override {
    const at::Tensor high = upper_ * groups.amax(1, true).clamp_min(0);
    const at::Tensor low = lower_ * groups.amin(1, true).clamp_max(0);
    const at::Tensor ideal = (high - low) / rule_.largest_code();
    const at::Tensor bounded = ideal.detach().clamp(kSmallestAffineScale, kLargestAffineScale);
    const at::Tensor scale = straight_through(ideal, round_to_stored(bounded, rule_.scale_dtype));
    return {scale, -low / scale};
  }
  // w + s v rounds as w / s + v does, and its gradients for s and v are those of that.
  at::Tensor rounded_weights(const at::Tensor& groups, const at::Tensor& scale) const override {
    return groups + scale * rounding_;
  }
  at::Tensor rounding_, upper_, lower_;
};

}  // namespace

AffineStart min_max_start(const at::Tensor& groups, int bits) {
  const at::Tensor high = groups.amax(1, true), low = groups.amin(1, true);
  const double largest_code = (1 << bits) - 1;
  const at::Tensor scale =
      ((high - low) / largest_code).clamp(kSmallestAffineScale, kLargestAffineScale);
  return {scale, (-low / scale).clamp(-kLargestZero, kLargestZero).round()};
}

std::unique_ptr<FakeQuant> make_efficient_qat(const AffineQuantizer& quantizer,
                                              const at::Tensor& weight) {
  return std::make_unique<EfficientQat>(quantizer, weight);
}

std::unique_ptr<FakeQuant> make_learnable_clipping(const AffineQuantizer& quantizer,
                                                   const at::Tensor& weight, double start_logit) {
  return std::make_unique<LearnableClipping>(quantizer, weight, start_logit);
}

std::unique_ptr<FakeQuant> make_sign_rounding(const AffineQuantizer& quantizer,
                                              const at::Tensor& weight) {
  return std::make_unique<SignRounding>(quantizer, weight);
}

}  // namespace fewbit
