#include "fewbit/train/fake_quant_activation.h"

#include <torch/torch.h>

#include "fewbit/base/error.h"
#include "fewbit/train/fake_quant_function.h"
#include "fewbit/train/quantizer_rules.h"

namespace fewbit {
namespace {

constexpr double kSmallestRange = 1e-5;

double largest_signed(int bits) { return (1 << (bits - 1)) - 1; }
double largest_unsigned(int bits) { return (1 << bits) - 1; }

void require_bits(int bits) {
  require(bits >= 2 && bits <= 8, "activations take 2 to 8 bits, not {}", bits);
}

class AbsmaxActivation : public ActivationFakeQuant {
 public:
  explicit AbsmaxActivation(int bits) : bits_(bits) { require_bits(bits); }
  at::Tensor forward(const at::Tensor& x) const override {
    const TokenCodes quantized = absmax_codes(x, bits_);
    return straight_through(x, quantized.codes * quantized.scale);
  }
  std::string describe() const override { return fmt::format("absmax b{} per token", bits_); }

 private:
  int bits_;
};

class MinMax : public ActivationFakeQuant {
 public:
  explicit MinMax(const MinMaxActivation& options) : options_(options) {
    require_bits(options.bits);
  }
  at::Tensor forward(const at::Tensor& x) const override {
    const at::Tensor value = options_.symmetric ? symmetric(x.detach()) : asymmetric(x.detach());
    const at::Tensor out = straight_through(x, value);
    if (!options_.compatible) return out;
    return at::where(x.detach().abs() < kWindow, out, value);
  }
  std::string describe() const override {
    return fmt::format("{} min-max b{} per {}", options_.symmetric ? "symmetric" : "asymmetric",
                       options_.bits, options_.per_tensor ? "tensor" : "token");
  }

 private:
  static constexpr double kWindow = 2, kSymmetricEpsilon = 1e-6, kAsymmetricEpsilon = 1e-8;

  // What shares one range: a token, the last two dimensions of [batch, heads, ..], or everything.
  std::vector<int64_t> ranged(const at::Tensor& x) const {
    std::vector<int64_t> dimensions;
    const int64_t first = options_.per_tensor ? 0 : x.dim() - (x.dim() == 4 ? 2 : 1);
    for (int64_t d = first; d < x.dim(); ++d) dimensions.push_back(d);
    return dimensions;
  }
  at::Tensor symmetric(const at::Tensor& x) const {
    const at::Tensor range = x.abs().amax(ranged(x), true) + kSymmetricEpsilon;
    const at::Tensor steps = largest_signed(options_.bits) / range;
    return (x * steps).round() / (steps + kSymmetricEpsilon);
  }
  at::Tensor asymmetric(const at::Tensor& x) const {
    const at::Tensor low = x.amin(ranged(x), true);
    const at::Tensor range = x.amax(ranged(x), true) - low + kAsymmetricEpsilon;
    const double largest = largest_unsigned(options_.bits);
    return ((x - low) / range * largest).round() / largest * range + low;
  }

  MinMaxActivation options_;
};

// One learned scale for the whole tensor.
class LearnedActivation : public ActivationFakeQuant {
 public:
  std::vector<QuantizerTensor> parameters() const override { return {{name_, parameter_}}; }

 protected:
  LearnedActivation(std::string name, LevelGrid grid, double start)
      : name_(std::move(name)), parameter_(make_parameter(at::full({1, 1}, start))) {
    rule_.grid = std::move(grid);
  }
  at::Tensor quantize(const at::Tensor& x, const at::Tensor& scale, const LevelRule& rule) const {
    const at::Tensor flat = x.reshape({1, -1});
    return level_fake_quant(flat, scale.to(x.scalar_type()), at::Tensor(), rule).reshape(x.sizes());
  }

  std::string name_;
  at::Tensor parameter_;
  LevelRule rule_;
};

class Pact : public LearnedActivation {
 public:
  Pact(int bits, double clip) : LearnedActivation("clip", unsigned_grid(bits), clip) {
    require(clip > 0, "clip={} is not allowed; it must be positive", clip);
    const double largest = rule_.grid.high();
    rule_.gradient.window_low = rule_.gradient.scale_low = 0;
    rule_.gradient.window_high = rule_.gradient.scale_high = largest;
    rule_.gradient.open = true;
    rule_.gradient.scale = GradientRule::Scale::none;
    rule_.gradient.clipped_high = largest;
  }
  at::Tensor forward(const at::Tensor& x) const override {
    return quantize(x, parameter_ / rule_.grid.high(), rule_);
  }
  std::string describe() const override {
    return fmt::format("pact b{}, learned clip", rule_.grid.bits);
  }
};

class LsqActivation : public LearnedActivation {
 public:
  LsqActivation(int bits, bool is_signed)
      : LearnedActivation("step", is_signed ? signed_grid(bits) : unsigned_grid(bits), 0) {}
  void start_from(const at::Tensor& x) override {
    const at::NoGradGuard no_gradient;
    parameter_.copy_(
        scale_statistic(x.reshape({1, -1}), lsq_start(rule_.grid)).clamp_min(kSmallestScale));
  }
  at::Tensor forward(const at::Tensor& x) const override {
    require(parameter_.item<double>() != 0,
            "an LSQ activation quantizer has no step before its first batch");
    return quantize(x, parameter_, lsq_rule(rule_.grid, x.size(-1)));
  }
  std::string describe() const override {
    return fmt::format("lsq {}, learned step", rule_.grid.name);
  }
};

}  // namespace

TokenCodes absmax_codes(const at::Tensor& x, int bits) {
  const double largest = largest_signed(bits);
  const at::Tensor values = x.detach();
  const at::Tensor range = values.abs().amax(-1, true).clamp_min(kSmallestRange);
  const at::Tensor codes = (values * (largest / range)).round_().clamp_(-largest - 1, largest);
  return {codes, range / largest};
}

std::unique_ptr<ActivationFakeQuant> make_absmax_activation(int bits) {
  return std::make_unique<AbsmaxActivation>(bits);
}

std::unique_ptr<ActivationFakeQuant> make_min_max_activation(const MinMaxActivation& options) {
  return std::make_unique<MinMax>(options);
}

std::unique_ptr<ActivationFakeQuant> make_pact_activation(int bits, double clip) {
  return std::make_unique<Pact>(bits, clip);
}

std::unique_ptr<ActivationFakeQuant> make_lsq_activation(int bits, bool is_signed) {
  return std::make_unique<LsqActivation>(bits, is_signed);
}

}  // namespace fewbit
