#include "fewbit/train/fake_quant_activation.h"

#include <gtest/gtest.h>

#include "fewbit/base/error.h"
#include "fewbit/network/ops.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/train/fake_quant_testing.h"
#include "fewbit/train/quantizer_rules.h"

namespace fewbit {
namespace {

using testing::fixture_tensor;
using testing::largest_difference;
using testing::leaf;
using testing::metadata_integer;
using testing::metadata_number;
using testing::metadata_true;
using testing::parameter;
using testing::relative_difference;
using testing::same_values;

FEWBIT_FIXTURE_TEST(LlmQatActivationFixture, "llm-qat", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (!file.contains("xq")) GTEST_SKIP() << "not a case of activations";
  const bool symmetric = file.metadata("method") == "LLM-QAT sym";
  MinMaxActivation options{.bits = metadata_integer(file, "bits"),
                           .symmetric = symmetric,
                           .per_tensor = metadata_true(file, "layerwise"),
                           .compatible = true};
  const at::Tensor gradient = fixture_tensor(file, "grad_out");
  const at::Tensor x = leaf(fixture_tensor(file, "x"));
  const at::Tensor out = make_min_max_activation(options)->forward(x);
  out.backward(gradient);
  EXPECT_LT(largest_difference(out, fixture_tensor(file, "xq")), 1e-6);
  EXPECT_LT(largest_difference(x.grad(), fixture_tensor(file, "dx")), 1e-6);
  // The product's default: nothing is clipped, so every gradient passes.
  options.compatible = false;
  const at::Tensor y = leaf(x);
  make_min_max_activation(options)->forward(y).backward(gradient);
  EXPECT_TRUE(same_values(y.grad(), gradient));
}

constexpr double kNormEpsilon = 1e-5;

// Activations of 8 bits times quantized weights, after the norm where there is one.
at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, bool binary) {
  const ScaleGroups groups = ScaleGroups::per_matrix(weight.size(0), weight.size(1));
  const auto weights = make_level_fake_quant(
      binary ? bitnet_b1_quantizer(groups) : absmean_quantizer(groups), weight);
  return ops::linear(make_absmax_activation(8)->forward(x), weights->forward(weight), {});
}

void expect_gradient(const SafetensorsFile& file, const char* name, const at::Tensor& tensor) {
  EXPECT_LT(relative_difference(tensor.grad(), fixture_tensor(file, name)), 1e-5) << name;
}

void check_layer(const SafetensorsFile& file) {
  const bool binary = file.metadata("method") == "BitLinear b1";
  const at::Tensor x = leaf(fixture_tensor(file, "x")), w = leaf(fixture_tensor(file, "w"));
  at::Tensor norm, h = x;
  if (file.contains("norm_weight")) {
    norm = leaf(fixture_tensor(file, "norm_weight"));
    h = ops::rms_norm(x, norm, metadata_number(file, "eps"), false);
  } else if (metadata_true(file, "rmsnorm")) {
    h = x / (x.square().mean(-1, true) + metadata_number(file, "eps")).sqrt();
  }
  const at::Tensor y = bit_linear(h, w, binary);
  const at::Tensor expected = fixture_tensor(file, "y");
  EXPECT_LT(relative_difference(y, expected), 1e-5);
  y.backward(fixture_tensor(file, "grad_out"));
  expect_gradient(file, "dx", x);
  expect_gradient(file, "dw", w);
  if (norm.defined()) expect_gradient(file, "dnorm_weight", norm);

  const TokenCodes tokens = absmax_codes(h, metadata_integer(file, "act_bits"));
  EXPECT_TRUE(same_values(tokens.codes, fixture_tensor(file, "x_codes")));
  EXPECT_LT(relative_difference(tokens.scale, fixture_tensor(file, "x_scale")), 1e-5);
  const ScaleGroups groups = ScaleGroups::per_matrix(w.size(0), w.size(1));
  LevelQuantizer quantizer = binary ? bitnet_b1_quantizer(groups) : absmean_quantizer(groups);
  const QuantizedTensor stored = make_level_fake_quant(quantizer, w)->quantize(w);
  // Ternary codes are levels, binary ones count from 0.
  EXPECT_TRUE(same_values(binary ? stored.codes.to(at::kFloat) : stored.integers(),
                          fixture_tensor(file, "w_codes")));
  EXPECT_LT(relative_difference(stored.scales, fixture_tensor(file, "w_scale")), 1e-5);

  // What an integer kernel computes.
  const at::Tensor sums =
      at::matmul(tokens.codes.to(at::kLong), stored.integers().to(at::kLong).t());
  EXPECT_LT(relative_difference(sums * tokens.scale * stored.scales.item<float>(), expected), 1e-5);
}

// y = x + w2(RMS(relu(w1 h)^2 * (w3 h))), h = RMS(x): three scales although w1 and w3 share h.
void check_feed_forward(const SafetensorsFile& file) {
  const auto get = [&](const char* name) { return leaf(fixture_tensor(file, name)); };
  const at::Tensor x = get("x"), w1 = get("w1"), w2 = get("w2"), w3 = get("w3");
  const at::Tensor norm = get("ffn_norm"), sub_norm = get("ffn_sub_norm");
  const double epsilon = metadata_number(file, "eps");
  const at::Tensor h = ops::rms_norm(x, norm, epsilon, false);
  const at::Tensor inner = bit_linear(h, w1, false).relu().square() * bit_linear(h, w3, false);
  const at::Tensor y = x + bit_linear(ops::rms_norm(inner, sub_norm, epsilon, false), w2, false);
  EXPECT_LT(relative_difference(y, fixture_tensor(file, "y")), 1e-5);
  y.backward(fixture_tensor(file, "grad_out"));
  expect_gradient(file, "dx", x);
  expect_gradient(file, "dw1", w1);
  expect_gradient(file, "dw2", w2);
  expect_gradient(file, "dw3", w3);
  expect_gradient(file, "dffn_norm", norm);
  expect_gradient(file, "dffn_sub_norm", sub_norm);
}

FEWBIT_FIXTURE_TEST(BitNetFixture, "bitnet", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  file.contains("w") ? check_layer(file) : check_feed_forward(file);
}

class ActivationTest : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(2); }
};

TEST_F(ActivationTest, PowersOfTwoScaleTokensAndKeepTheirCodes) {
  const at::Tensor x = at::randn({5, 32});
  const TokenCodes once = absmax_codes(x, 8), scaled = absmax_codes(x * 8, 8);
  EXPECT_TRUE(same_values(once.codes, scaled.codes));
  EXPECT_TRUE(same_values(once.scale * 8, scaled.scale));
}

TEST_F(ActivationTest, ZeroTokensStayZero) {
  const at::Tensor x = at::zeros({2, 16});
  for (const bool symmetric : {true, false}) {
    const at::Tensor out = make_min_max_activation({.symmetric = symmetric})->forward(x);
    EXPECT_TRUE(same_values(out, x)) << out;
  }
  EXPECT_TRUE(same_values(make_absmax_activation(8)->forward(x), x));
}

TEST_F(ActivationTest, PactPassesGradientsInsideAndClippedOnesToTheClip) {
  constexpr double kClip = 1.5;
  const auto pact = make_pact_activation(4, kClip);
  const at::Tensor clip = parameter(*pact, "clip");
  const at::Tensor x = leaf(at::randn({8, 32}) * 2), gradient = at::randn({8, 32});
  const at::Tensor out = pact->forward(x);
  out.backward(gradient);
  const at::Tensor expected = (x.detach().clamp(0, kClip) * 15 / kClip).round() * kClip / 15;
  EXPECT_LT(largest_difference(out, expected), 1e-6);
  const at::Tensor inside = (x > 0).logical_and(x < kClip);
  EXPECT_TRUE(same_values(x.grad(), gradient * inside));
  // The derivative of sum(G clip(x, 0, a)), which is differentiable in a.
  const auto loss = [&](double a) {
    return (x.detach().to(at::kDouble).clamp(0, a) * gradient).sum().item<double>();
  };
  EXPECT_NEAR(clip.grad().item<double>(), (loss(kClip + 1e-6) - loss(kClip - 1e-6)) / 2e-6, 1e-4);
}

TEST_F(ActivationTest, PactSurvivesANegativeClip) {
  const auto pact = make_pact_activation(4, 1);
  testing::set_values(parameter(*pact, "clip"), at::full({1}, -1.0));
  const at::Tensor out = pact->forward(at::randn({4, 4}));
  EXPECT_TRUE(out.isfinite().all().item<bool>());
  EXPECT_GE(out.min().item<double>(), 0);
}

TEST_F(ActivationTest, LsqStartsFromItsFirstBatch) {
  const auto lsq = make_lsq_activation(4, false);
  const at::Tensor x = at::rand({6, 16});
  EXPECT_THROW(lsq->forward(x), Error);
  lsq->start_from(x);
  EXPECT_NEAR(parameter(*lsq, "step").item<double>(), 2 * x.mean().item<double>() / std::sqrt(15.0),
              1e-6);
  const at::Tensor out = lsq->forward(x);
  EXPECT_LT(largest_difference(out, x), 0.2);
  out.sum().backward();
  EXPECT_TRUE(parameter(*lsq, "step").grad().isfinite().all().item<bool>());
}

}  // namespace
}  // namespace fewbit
