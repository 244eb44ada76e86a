#include "fewbit/train/quantizer_affine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "fewbit/testing/fixture.h"
#include "fewbit/train/fake_quant_testing.h"

namespace fewbit {
namespace {

using testing::fixture_tensor;
using testing::largest_difference;
using testing::leaf;
using testing::metadata_integer;
using testing::metadata_number;
using testing::parameter;
using testing::relative_difference;
using testing::same_values;
using testing::set_values;

// Float32 scales, so that nothing is rounded that the reference does not round.
AffineQuantizer quantizer_of(const SafetensorsFile& file, const at::Tensor& weight) {
  const std::string& group = file.metadata("group_size");
  const int64_t rows = weight.size(0), cols = weight.size(1);
  return {metadata_integer(file, "bits"),
          group == "None" ? ScaleGroups::per_row(rows, cols)
                          : ScaleGroups::per_group(rows, cols, std::stol(group)),
          Dtype::f32};
}

bool is_trajectory(const SafetensorsFile& file) { return file.contains("losses"); }

FEWBIT_FIXTURE_TEST(EfficientQatFixture, "efficientqat", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (is_trajectory(file)) GTEST_SKIP() << "a trajectory";
  const at::Tensor weight = leaf(fixture_tensor(file, "W"));
  const auto quantizer = make_efficient_qat(quantizer_of(file, weight), weight);
  const at::Tensor scale = parameter(*quantizer, "scale");
  const at::Tensor zero = parameter(*quantizer, "zero_point");
  EXPECT_LT(largest_difference(scale, fixture_tensor(file, "scale_init")), 1e-6);
  EXPECT_TRUE(same_values(zero, fixture_tensor(file, "zero_init")));

  set_values(scale, fixture_tensor(file, "scale"));
  set_values(zero, fixture_tensor(file, "zero_point"));
  const at::Tensor out = quantizer->forward(weight);
  out.backward(fixture_tensor(file, "grad_out"));
  EXPECT_LT(largest_difference(out, fixture_tensor(file, "Wq")), 1e-6);
  EXPECT_LT(largest_difference(weight.grad(), fixture_tensor(file, "dW")), 2e-6);
  EXPECT_TRUE(same_values(quantizer->codes(weight), fixture_tensor(file, "codes")));
  const auto tolerance = [](const at::Tensor& expected) {
    return 2e-4 * (1 + expected.abs().max().item<double>());
  };
  const at::Tensor dscale = fixture_tensor(file, "dscale"), dzero = fixture_tensor(file, "dzero");
  EXPECT_LT(largest_difference(scale.grad(), dscale), tolerance(dscale));
  EXPECT_LT(largest_difference(zero.grad(), dzero), tolerance(dzero));
}

// One linear layer trained on its own output: everything, or the scales under frozen codes.
FEWBIT_FIXTURE_TEST(EfficientQatTrajectoryFixture, "efficientqat", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (!is_trajectory(file)) GTEST_SKIP() << "a single step";
  const at::Tensor start = fixture_tensor(file, "W"), weight = leaf(start);
  const at::Tensor input = fixture_tensor(file, "Xq");
  const at::Tensor target = at::matmul(fixture_tensor(file, "X"), start.t());
  const bool frozen = file.contains("codes");
  std::unique_ptr<FakeQuant> quantizer = make_efficient_qat(quantizer_of(file, start), start);
  if (frozen) quantizer = freeze_codes(*quantizer, start);

  testing::Training training(
      {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0, .clip_norm = 0});
  const double peak = metadata_number(file, "lr_quant");
  for (const auto& [name, tensor] : quantizer->parameters()) training.add(tensor, false);
  // Both rates fall by the same schedule, to the same fraction.
  if (!frozen) training.add(weight, false, metadata_number(file, "lr_weight") / peak);

  const at::Tensor losses = fixture_tensor(file, "losses");
  const int steps = metadata_integer(file, "steps");
  for (int step = 0; step <= steps; ++step) {
    const at::Tensor loss =
        (at::matmul(input, quantizer->forward(weight).t()) - target).square().mean();
    EXPECT_NEAR(loss.item<double>() / losses[step].item<double>(), 1, 1e-3) << "step " << step;
    if (step == steps) break;
    loss.backward();
    const double least = peak / metadata_number(file, "lr_min_factor");
    training.step(least + (peak - least) * (1 + std::cos(M_PI * step / steps)) / 2);
  }
  EXPECT_LT(losses[steps].item<double>(), losses[0].item<double>());
  const at::Tensor final_weight = frozen ? quantizer->forward(weight) : weight;
  EXPECT_LT(largest_difference(final_weight, fixture_tensor(file, "W_final")), 1e-4);
  EXPECT_LT(largest_difference(parameter(*quantizer, "scale"), fixture_tensor(file, "scale_final")),
            1e-4);
  if (frozen) {
    const QuantizedTensor now = quantizer->quantize(weight);
    EXPECT_TRUE(same_values(now.codes, fixture_tensor(file, "codes")));
    EXPECT_TRUE(same_values(now.zeros, fixture_tensor(file, "zero_final")));
  } else {
    EXPECT_LT(
        largest_difference(parameter(*quantizer, "zero_point"), fixture_tensor(file, "zero_final")),
        1e-4);
  }
}

FEWBIT_FIXTURE_TEST(ClippingFixture, "zeroqat", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (!file.contains("up")) GTEST_SKIP() << "not a case of the quantizer";
  const at::Tensor weight = fixture_tensor(file, "W");
  const auto quantizer = make_learnable_clipping(quantizer_of(file, weight), weight);
  set_values(parameter(*quantizer, "upper_logit"), fixture_tensor(file, "up"));
  set_values(parameter(*quantizer, "lower_logit"), fixture_tensor(file, "low"));
  const QuantizedTensor stored = quantizer->quantize(weight);
  EXPECT_LT(largest_difference(stored.scales, fixture_tensor(file, "scale")), 1e-6);
  EXPECT_TRUE(same_values(stored.zeros, fixture_tensor(file, "zero")));
  EXPECT_LT(largest_difference(quantizer->forward(weight), fixture_tensor(file, "Wq")), 1e-6);
}

// The quantizer inside two-point zeroth-order steps, with given directions.
FEWBIT_FIXTURE_TEST(ZerothOrderFixture, "zeroqat", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (!file.contains("Z")) GTEST_SKIP() << "not a case of steps";
  const auto wide = [&](const char* name) { return fixture_tensor(file, name).to(at::kDouble); };
  at::Tensor weight = wide("W0");
  const at::Tensor x = wide("X"), y = wide("Y"), z = wide("Z");
  const at::Tensor plus = wide("loss_plus"), minus = wide("loss_minus"), slope = wide("proj_grad");
  const auto quantizer = make_learnable_clipping(quantizer_of(file, weight), weight);
  const auto loss = [&](const at::Tensor& w) {
    return (at::matmul(x, quantizer->forward(w).t()) - y).square().mean().item<double>();
  };
  const double eps = metadata_number(file, "eps"), rate = metadata_number(file, "lr");
  const int64_t directions = z.size(1);
  for (int64_t step = 0; step < z.size(0); ++step) {
    at::Tensor estimate = at::zeros_like(weight);
    for (int64_t i = 0; i < directions; ++i) {
      const at::Tensor direction = z[step][i];
      const double above = loss(weight + eps * direction), below = loss(weight - eps * direction);
      const double p = (above - below) / (2 * eps);
      const int64_t index = step * directions + i;
      EXPECT_NEAR(above / plus[index].item<double>(), 1, 2e-7);
      EXPECT_NEAR(below / minus[index].item<double>(), 1, 2e-7);
      EXPECT_NEAR(p / slope[index].item<double>(), 1, 2e-7);
      estimate += p * direction / static_cast<double>(directions);
    }
    weight = weight - rate * estimate;
    EXPECT_LT(largest_difference(weight, wide("W_steps")[step]), 1e-7);
  }
}

class QuantizerAffineTest : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(5); }
  static AffineQuantizer grouped(int bits, int64_t rows, int64_t cols, int64_t size) {
    return {bits, ScaleGroups::per_group(rows, cols, size), Dtype::f32};
  }
};

TEST_F(QuantizerAffineTest, WeightsOnTheGridGiveNoLossAndNoScaleGradient) {
  const at::Tensor codes = at::randint(0, 4, {6, 32}, at::kFloat);
  codes.select(1, 0).fill_(0);  // Both ends present, so that min-max finds the grid.
  codes.select(1, 1).fill_(3);
  const at::Tensor weight = leaf((codes - 1) * 0.25);
  const auto quantizer = make_efficient_qat({2, ScaleGroups::per_row(6, 32), Dtype::f32}, weight);
  const at::Tensor out = quantizer->forward(weight);
  EXPECT_TRUE(same_values(out, weight));
  const at::Tensor gradient = at::randn({6, 32});
  out.backward(gradient);
  EXPECT_TRUE(same_values(weight.grad(), gradient));
  EXPECT_EQ(parameter(*quantizer, "scale").grad().abs().max().item<double>(), 0);
  EXPECT_EQ(parameter(*quantizer, "zero_point").grad().abs().max().item<double>(), 0);
}

TEST_F(QuantizerAffineTest, ZeroPointHasNoGradientWhenNothingIsClipped) {
  const at::Tensor weight = leaf(at::randn({4, 64}));
  const auto quantizer = make_efficient_qat(grouped(4, 4, 64, 32), weight);
  const at::Tensor scale = parameter(*quantizer, "scale");
  set_values(scale, scale.detach() * 1.2);
  quantizer->forward(weight).backward(at::randn({4, 64}));
  EXPECT_EQ(parameter(*quantizer, "zero_point").grad().abs().max().item<double>(), 0);
  EXPECT_GT(scale.grad().abs().max().item<double>(), 0);
}

// The same formula in operations that autograd knows, roundings straight through.
TEST_F(QuantizerAffineTest, SignRoundingHasTheGradientOfItsFormula) {
  for (const int bits : {2, 3, 4}) {
    const at::Tensor weight = at::randn({5, 48}, at::kDouble);
    const auto quantizer = make_sign_rounding(grouped(bits, 5, 48, 16), weight);
    const at::Tensor v = parameter(*quantizer, "rounding");
    const at::Tensor upper = parameter(*quantizer, "upper_factor");
    const at::Tensor lower = parameter(*quantizer, "lower_factor");
    set_values(v, at::rand_like(v.detach()) - 0.5);
    set_values(upper, 0.5 + 0.5 * at::rand_like(upper.detach()));
    set_values(lower, 0.5 + 0.5 * at::rand_like(lower.detach()));
    const at::Tensor gradient = at::randn({5, 48}, at::kDouble);
    const at::Tensor out = quantizer->forward(weight);
    out.backward(gradient);

    const auto round_through = [](const at::Tensor& x) { return x + (x.round() - x).detach(); };
    const at::Tensor v2 = leaf(v), upper2 = leaf(upper), lower2 = leaf(lower);
    const ScaleGroups groups = ScaleGroups::per_group(5, 48, 16);
    const at::Tensor w = groups.split(weight);
    const double largest_code = (1 << bits) - 1;
    const at::Tensor high = upper2 * w.amax(1, true).clamp_min(0);
    const at::Tensor low = lower2 * w.amin(1, true).clamp_max(0);
    const at::Tensor s = (high - low) / largest_code;
    const at::Tensor z = round_through(-low / s);
    const at::Tensor expected =
        groups.join(s * ((round_through(w / s + v2) + z).clamp(0, largest_code) - z));
    expected.backward(gradient);
    EXPECT_LT(largest_difference(out, expected), 1e-12);
    EXPECT_LT(largest_difference(v.grad(), v2.grad()), 1e-12);
    EXPECT_LT(relative_difference(upper.grad(), upper2.grad()), 1e-12);
    EXPECT_LT(relative_difference(lower.grad(), lower2.grad()), 1e-12);
  }
}

TEST_F(QuantizerAffineTest, SignRoundingStartsAsRoundToNearest) {
  const at::Tensor weight = at::randn({7, 64});
  const auto quantizer = make_sign_rounding(grouped(3, 7, 64, 32), weight);
  const ScaleGroups groups = ScaleGroups::per_group(7, 64, 32);
  const at::Tensor w = groups.split(weight);
  const at::Tensor s = (w.amax(1, true).clamp_min(0) - w.amin(1, true).clamp_max(0)) / 7;
  const at::Tensor z = (-w.amin(1, true).clamp_max(0) / s).round();
  const at::Tensor expected = groups.join(s * (((w / s).round() + z).clamp(0, 7) - z));
  EXPECT_LT(largest_difference(quantizer->forward(weight), expected), 1e-6);
  EXPECT_TRUE(same_values(quantizer->forward(weight), quantizer->quantize(weight).dequantize()));
}

// Where nothing is clipped and codes stay, w^ = s (w / s + r) with fixed residuals r.
TEST_F(QuantizerAffineTest, ScaleGradientIsThatOfFixedResiduals) {
  const at::Tensor weight = at::randn({3, 48}, at::kDouble);
  const auto quantizer = make_efficient_qat(grouped(3, 3, 48, 16), weight);
  const at::Tensor scale = parameter(*quantizer, "scale"), start = scale.detach().clone();
  const at::Tensor zero = parameter(*quantizer, "zero_point").detach();
  const at::Tensor gradient = at::randn({3, 48}, at::kDouble);
  quantizer->forward(weight).backward(gradient);
  const ScaleGroups groups = ScaleGroups::per_group(3, 48, 16);
  const at::Tensor w = groups.split(weight), g = groups.split(gradient);
  const at::Tensor v = (w / start).round() + zero;
  const at::Tensor inside = (v >= 0).logical_and(v <= 7);
  const at::Tensor residual = (w / start).round() - w / start;
  const auto surrogate = [&](const at::Tensor& s) {
    const at::Tensor out = at::where(inside, s * (w / s + residual), s * (v.clamp(0, 7) - zero));
    return (out * g).sum(1, true);
  };
  constexpr double kStep = 1e-5;
  const at::Tensor numeric = (surrogate(start + kStep) - surrogate(start - kStep)) / (2 * kStep);
  EXPECT_LT(largest_difference(scale.grad(), numeric), 1e-7);
}

TEST_F(QuantizerAffineTest, ClippingLogitsFollowTheChainRuleThroughTheScale) {
  const at::Tensor weight = at::randn({5, 40}, at::kDouble);
  const AffineQuantizer options{3, ScaleGroups::per_row(5, 40), Dtype::f32};
  const auto quantizer = make_learnable_clipping(options, weight);
  const at::Tensor upper = parameter(*quantizer, "upper_logit");
  const at::Tensor lower = parameter(*quantizer, "lower_logit");
  const at::Tensor gradient = at::randn({5, 40}, at::kDouble);
  quantizer->forward(weight).backward(gradient);

  const QuantizedTensor stored = quantizer->quantize(weight);
  const at::Tensor u = weight / stored.scales, v = u.round() + stored.zeros;
  const at::Tensor inside = (v >= 0).logical_and(v <= 7);
  const at::Tensor dscale = (gradient * ((v.clamp(0, 7) - stored.zeros) - u * inside)).sum(1, true);
  const auto slope = [](const at::Tensor& logit) {
    return logit.sigmoid() * (1 - logit.sigmoid());
  };
  EXPECT_LT(
      largest_difference(upper.grad(), dscale / 7 * weight.amax(1, true) * slope(upper.detach())),
      1e-12);
  EXPECT_LT(
      largest_difference(lower.grad(), -dscale / 7 * weight.amin(1, true) * slope(lower.detach())),
      1e-12);
}

TEST_F(QuantizerAffineTest, FrozenCodesKeepCodesAndLowerTheLoss) {
  const at::Tensor weight = at::randn({8, 32}), x = at::randn({64, 32});
  const auto trained = make_efficient_qat(grouped(2, 8, 32, 16), weight);
  const auto frozen = freeze_codes(*trained, weight);
  EXPECT_FALSE(frozen->trains_weight());
  EXPECT_TRUE(same_values(frozen->forward(weight), trained->forward(weight)));
  const at::Tensor scale = parameter(*frozen, "scale");
  double previous = std::numeric_limits<double>::infinity();
  for (int step = 0; step < 20; ++step) {
    const at::Tensor loss = at::matmul(x, (frozen->forward(weight) - weight).t()).square().mean();
    EXPECT_LT(loss.item<double>(), previous);
    previous = loss.item<double>();
    loss.backward();
    set_values(scale, scale.detach() - 0.02 * scale.grad());
    scale.grad().zero_();
  }
  EXPECT_TRUE(same_values(frozen->codes(weight), trained->codes(weight)));
}

TEST_F(QuantizerAffineTest, BakedWeightsQuantizeToTheSameCodes) {
  const at::Tensor weight = at::randn({4, 64});
  const auto quantizer = make_efficient_qat(grouped(3, 4, 64, 32), weight);
  const at::Tensor baked = testing::tensor_of(quantizer->bake(weight).dequantize());
  EXPECT_TRUE(same_values(quantizer->forward(weight), baked));
  EXPECT_TRUE(same_values(quantizer->codes(baked), quantizer->codes(weight)));
}

}  // namespace
}  // namespace fewbit
