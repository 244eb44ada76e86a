#include "fewbit/network/ops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/network/ops_generic.h"

namespace fewbit::ops {
namespace {

using Tensors = std::vector<at::Tensor>;
using Function = std::function<at::Tensor(const Tensors&)>;

at::Tensor random(at::IntArrayRef shape) { return at::randn(shape, at::kDouble); }

// Gradients of sum(f(inputs) * probe), where probe is a fixed random direction.
Tensors gradients(const Function& f, const Tensors& inputs, const at::Tensor& probe) {
  Tensors leaves;
  for (const at::Tensor& input : inputs) {
    leaves.push_back(input.detach().clone().set_requires_grad(true));
  }
  (f(leaves) * probe).sum().backward();
  Tensors out;
  for (const at::Tensor& leaf : leaves) {
    out.push_back(leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf));
  }
  return out;
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor a = actual.to(at::kDouble), e = expected.to(at::kDouble);
  return ((a - e).norm() / (e.norm() + 1e-12)).item<double>();
}

// The float32 operation and its gradients agree with the float64 formula.
void expect_agrees(const Function& fused, const Function& formula, const Tensors& inputs,
                   double tolerance = 2e-6) {
  Tensors floats;
  for (const at::Tensor& input : inputs) floats.push_back(input.to(at::kFloat));
  Tensors doubles;
  for (const at::Tensor& input : floats) doubles.push_back(input.to(at::kDouble));
  const at::Tensor expected = formula(doubles);
  const at::Tensor actual = fused(floats);
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_EQ(actual.scalar_type(), at::kFloat);
  EXPECT_LT(relative_error(actual, expected), tolerance);
  const at::Tensor probe = at::randn(expected.sizes(), at::kDouble);
  const Tensors expected_gradients = gradients(formula, doubles, probe);
  const Tensors actual_gradients = gradients(fused, floats, probe.to(at::kFloat));
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_LT(relative_error(actual_gradients[i], expected_gradients[i]), 2 * tolerance)
        << "gradient of input " << i;
  }
}

// The float64 formula's gradients agree with central differences.
void expect_numeric_gradients(const Function& formula, const Tensors& inputs) {
  constexpr double kStep = 1e-5;
  const at::Tensor probe = at::randn(formula(inputs).sizes(), at::kDouble);
  const Tensors analytic = gradients(formula, inputs, probe);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor direction = at::randn_like(inputs[i]);
    Tensors above = inputs, below = inputs;
    above[i] = inputs[i] + kStep * direction;
    below[i] = inputs[i] - kStep * direction;
    const double numeric =
        ((formula(above) - formula(below)) * probe).sum().item<double>() / (2 * kStep);
    const double expected = (analytic[i] * direction).sum().item<double>();
    EXPECT_NEAR(numeric, expected, 1e-6 * (1 + std::abs(expected))) << "input " << i;
  }
}

class OpsTest : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(7); }
  void TearDown() override { set_matmul_dtype(MatmulDtype::f32); }
};

TEST_F(OpsTest, LinearAgreesWithItsFormula) {
  const Function fused = [](const Tensors& t) { return ops::linear(t[0], t[1], t[2]); };
  const Function formula = [](const Tensors& t) { return at::matmul(t[0], t[1].t()) + t[2]; };
  expect_agrees(fused, formula, {random({2, 17, 33}), random({41, 33}), random({41})});
  const Function without_bias = [](const Tensors& t) { return ops::linear(t[0], t[1], {}); };
  expect_agrees(without_bias, [](const Tensors& t) { return at::matmul(t[0], t[1].t()); },
                {random({64, 96}), random({32, 96})});
}

TEST_F(OpsTest, LinearTakesWeightsThatAreFunctionsOfParameters) {
  const Function fused = [](const Tensors& t) { return ops::linear(t[0], t[1] * t[2].tanh(), {}); };
  const Function formula = [](const Tensors& t) {
    return at::matmul(t[0], (t[1] * t[2].tanh()).t());
  };
  expect_agrees(fused, formula, {random({5, 16}), random({24, 16}), random({24, 1})});
}

TEST_F(OpsTest, LinearsOfOneInputAgreeWithOneByOne) {
  const Function fused = [](const Tensors& t) {
    return at::cat(ops::linears(t[0], {t[1], t[2]}, {t[3], {}}), -1);
  };
  const Function formula = [](const Tensors& t) {
    return at::cat({at::matmul(t[0], t[1].t()) + t[3], at::matmul(t[0], t[2].t())}, -1);
  };
  expect_agrees(fused, formula,
                {random({700, 24}), random({40, 24}), random({16, 24}), random({40})});
  // An output that the loss does not use.
  const Function first = [](const Tensors& t) { return ops::linears(t[0], {t[1], t[2]})[0]; };
  const Function first_formula = [](const Tensors& t) { return at::matmul(t[0], t[1].t()); };
  expect_agrees(first, first_formula, {random({7, 24}), random({40, 24}), random({16, 24})});
}

TEST_F(OpsTest, EmbedSumsTheGradientsOfRepeatedTokens) {
  const at::Tensor tokens = at::tensor({3, 0, 3, 3, 1, 5}, at::kLong).view({2, 3});
  const Function fused = [&](const Tensors& t) { return ops::embed(t[0], tokens); };
  const Function formula = [&](const Tensors& t) { return at::embedding(t[0], tokens); };
  expect_agrees(fused, formula, {random({6, 19})});
}

// Everything that reads a leaf, so that one pass tells whether any gradient goes astray.
at::Tensor tiny_model(const Tensors& t, const at::Tensor& tokens) {
  at::Tensor x = ops::embed(t[0], tokens);
  x = ops::rms_norm(x, t[1], 1e-5, false);
  x = ops::layer_norm(x, t[2], t[3], 1e-5);
  const Tensors y = ops::linears(x, {t[4], t[5]}, {t[6], {}});
  x = ops::gated_activation(y[0], y[1], Activation::silu);
  x = ops::linear(x, t[7], {});
  return ops::cross_entropy_sum(x, t[0], tokens);
}

TEST_F(OpsTest, LeavesTakeTheirGradientsDirectly) {
  const at::Tensor tokens = at::randint(0, 11, {300}, at::kLong);
  Tensors leaves;
  for (const auto& shape :
       std::vector<std::vector<int64_t>>{{11, 8}, {8}, {8}, {8}, {12, 8}, {12, 8}, {12}, {8, 12}}) {
    leaves.push_back(at::randn(shape));
  }
  const Tensors expected =
      gradients([&](const Tensors& t) { return tiny_model(t, tokens); }, leaves, at::ones({}));
  Tensors direct;
  for (const at::Tensor& leaf : leaves) {
    direct.push_back(leaf.clone().set_requires_grad(true));
    direct.back().mutable_grad() = at::ones_like(leaf);
  }
  const AccumulateIntoLeaves scope;
  tiny_model(direct, tokens).backward();
  for (size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_LT(relative_error(direct[i].grad() - 1, expected[i]), 1e-5) << "leaf " << i;
  }
}

TEST_F(OpsTest, ResultsDoNotDependOnTheThreads) {
  const size_t before = thread_count();
  for (const MatmulDtype dtype : {MatmulDtype::f32, MatmulDtype::bf16}) {
    set_matmul_dtype(dtype);
    std::vector<Tensors> results;
    for (const size_t threads : {1, 3}) {
      set_thread_count(threads);
      at::manual_seed(3);
      const at::Tensor tokens = at::randint(0, 50, {1300}, at::kLong);
      Tensors leaves;
      for (const auto& shape : std::vector<std::vector<int64_t>>{
               {50, 64}, {64}, {64}, {64}, {600, 64}, {600, 64}, {600}, {64, 600}}) {
        leaves.push_back((at::randn(shape) * 0.2).set_requires_grad(true));
      }
      tiny_model(leaves, tokens).backward();
      at::Tensor q = at::randn({2, 100, 4, 16}).set_requires_grad(true);
      const at::Tensor k = at::randn({2, 100, 2, 16}).set_requires_grad(true);
      const at::Tensor y = ops::attend(q, k, k, {.scale = 0.25});
      (y * y).sum().backward();
      Tensors result{y.detach(), q.grad(), k.grad()};
      for (const at::Tensor& leaf : leaves) result.push_back(leaf.grad());
      results.push_back(result);
    }
    for (size_t i = 0; i < results[0].size(); ++i) {
      EXPECT_TRUE(at::equal(results[0][i], results[1][i])) << i;
    }
  }
  set_thread_count(before);
}

TEST_F(OpsTest, Bf16CopiesStandInForTheirWeights) {
  set_matmul_dtype(MatmulDtype::bf16);
  const at::Tensor x = at::randn({5, 32}), weight = at::randn({8, 32}), other = at::randn({8, 32});
  const at::Tensor copy = other.to(at::kBFloat16);
  Bf16Copies copies;
  copies.set(weight.data_ptr<float>(), reinterpret_cast<const uint16_t*>(copy.data_ptr()));
  const at::Tensor expected = ops::linear(x, other, {});
  const UseBf16Copies scope(copies);
  EXPECT_TRUE(at::equal(ops::linear(x, weight, {}), expected));
}

TEST_F(OpsTest, SecondDerivativesAreRefused) {
  const at::Tensor x = at::randn({4, 8}).set_requires_grad(true);
  const at::Tensor y = ops::activate(x, Activation::silu).sum();
  EXPECT_THROW(torch::autograd::grad({y}, {x}, {}, true, /*create_graph=*/true), std::exception);
}

TEST_F(OpsTest, LinearRefusesAWeightOfAnotherWidth) {
  EXPECT_THROW(ops::linear(at::zeros({2, 3}), at::zeros({4, 5}), {}), Error);
}

TEST_F(OpsTest, Bf16LinearIsCloseToF32) {
  set_matmul_dtype(MatmulDtype::bf16);
  const Function fused = [](const Tensors& t) { return ops::linear(t[0], t[1], t[2]); };
  const Function formula = [](const Tensors& t) { return at::matmul(t[0], t[1].t()) + t[2]; };
  // Rounding of both factors to 8 bits of mantissa.
  expect_agrees(fused, formula, {random({3, 32, 64}), random({48, 64}), random({48})}, 8e-3);
}

TEST_F(OpsTest, RmsNormAgreesWithItsFormula) {
  for (const bool plus_one : {false, true}) {
    const Function fused = [&](const Tensors& t) {
      return ops::rms_norm(t[0], t[1], 1e-5, plus_one);
    };
    const Function formula = [&](const Tensors& t) {
      return t[0] / (t[0].square().mean(-1, true) + 1e-5).sqrt() * (t[1] + (plus_one ? 1 : 0));
    };
    for (const int64_t width : {8, 33, 128, 512}) {
      expect_agrees(fused, formula, {random({2, 9, width}), random({width})});
    }
    expect_numeric_gradients(formula, {random({3, 16}), random({16})});
  }
}

TEST_F(OpsTest, RmsNormTakesRowsOfHeads) {
  const Function fused = [](const Tensors& t) { return ops::rms_norm(t[0], t[1], 1e-6, false); };
  const Function formula = [](const Tensors& t) {
    return generic::rms_norm(t[0], t[1], 1e-6, false);
  };
  expect_agrees(fused, formula, {random({2, 3, 4, 16}), random({16})});
}

TEST_F(OpsTest, LayerNormAgreesWithItsFormula) {
  const Function formula = [](const Tensors& t) {
    const at::Tensor centred = t[0] - t[0].mean(-1, true);
    return centred / (centred.square().mean(-1, true) + 1e-5).sqrt() * t[1] + t[2];
  };
  const Function fused = [](const Tensors& t) { return ops::layer_norm(t[0], t[1], t[2], 1e-5); };
  for (const int64_t width : {8, 33, 128}) {
    expect_agrees(fused, formula, {random({2, 5, width}), random({width}), random({width})});
  }
  const Function without_bias = [](const Tensors& t) {
    return ops::layer_norm(t[0], t[1], {}, 1e-5);
  };
  const Function plain = [](const Tensors& t) {
    return generic::layer_norm(t[0], t[1], at::Tensor(), 1e-5);
  };
  expect_agrees(without_bias, plain, {random({7, 24}), random({24})});
}

RotaryTable random_table(int64_t length, int64_t half) {
  const at::Tensor angle = at::rand({length, half}) * 6;
  return {angle.cos(), angle.sin()};
}

TEST_F(OpsTest, RotateAgreesWithItsFormula) {
  for (const int64_t half : {8, 3}) {  // The second leaves part of the head as it is.
    const RotaryTable table = random_table(6, half);
    const Function fused = [&](const Tensors& t) { return ops::rotate(t[0], table); };
    const Function formula = [&](const Tensors& t) {
      at::Tensor out = t[0].clone();
      for (int64_t i = 0; i < half; ++i) {
        const at::Tensor c = table.cosine.select(1, i).to(at::kDouble).view({1, 6, 1});
        const at::Tensor s = table.sine.select(1, i).to(at::kDouble).view({1, 6, 1});
        const at::Tensor a = t[0].select(3, i), b = t[0].select(3, i + half);
        out.select(3, i).copy_(a * c - b * s);
        out.select(3, i + half).copy_(b * c + a * s);
      }
      return out;
    };
    expect_agrees(fused, formula, {random({2, 6, 3, 16})});
  }
}

TEST_F(OpsTest, RotaryTableFollowsTheScaling) {
  BlockSpec block{.rope_base = 100};
  const RotaryTable plain = rotary_table(block, 4, 3, 2);
  EXPECT_EQ(plain.cosine.sizes(), at::IntArrayRef({2, 2}));
  EXPECT_FLOAT_EQ(plain.sine[0][0].item<float>(), std::sin(3.0f));
  EXPECT_FLOAT_EQ(plain.sine[1][1].item<float>(), std::sin(0.4f));
  block.rope_scaling = {.kind = RopeScaling::Kind::linear, .factor = 4};
  EXPECT_FLOAT_EQ(rotary_table(block, 4, 8, 1).sine[0][0].item<float>(), std::sin(2.0f));
  // Frequencies 1 and 0.1 turn 15.9 and 1.59 times in 100 positions: kept and blended.
  block.rope_scaling = {.kind = RopeScaling::Kind::llama3,
                        .factor = 8,
                        .low_frequency_factor = 1,
                        .high_frequency_factor = 4,
                        .original_context = 100};
  const RotaryTable llama3 = rotary_table(block, 4, 1, 1);
  EXPECT_FLOAT_EQ(llama3.sine[0][0].item<float>(), std::sin(1.0f));
  const double kept = (100 * 0.1 / (2 * M_PI) - 1) / 3;
  EXPECT_FLOAT_EQ(llama3.sine[0][1].item<float>(),
                  static_cast<float>(std::sin((1 - kept) * 0.1 / 8 + kept * 0.1)));
}

// Row by row, key by key: nothing shared with the implementations.
at::Tensor naive_attention(const Tensors& t, const AttentionOptions& options) {
  const at::Tensor &q = t[0], &k = t[1], &v = t[2];
  const int64_t length = q.size(1), keys = k.size(1), group = q.size(2) / k.size(2);
  Tensors rows;
  for (int64_t b = 0; b < q.size(0); ++b) {
    for (int64_t i = 0; i < length; ++i) {
      const int64_t position = keys - length + i;
      int64_t first = 0;
      if (options.window > 0) {
        first = std::max<int64_t>(0, position + 1 - static_cast<int64_t>(options.window));
      }
      for (int64_t h = 0; h < q.size(2); ++h) {
        const at::Tensor keys_seen = k[b].select(1, h / group).slice(0, first, position + 1);
        const at::Tensor values_seen = v[b].select(1, h / group).slice(0, first, position + 1);
        at::Tensor scores = at::matmul(keys_seen, q[b][i][h]) * options.scale;
        if (options.softcap) scores = *options.softcap * at::tanh(scores / *options.softcap);
        const at::Tensor weights = at::exp(scores) / at::exp(scores).sum();
        rows.push_back(at::matmul(weights, values_seen));
      }
    }
  }
  return at::stack(rows).view({q.size(0), length, q.size(2), v.size(3)});
}

struct AttentionCase {
  int64_t batch, length, keys, heads, kv_heads, head_size;
  AttentionOptions options;
};

class AttendTest : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(AttendTest, AgreesWithTheSumOverKeys) {
  at::manual_seed(11);
  const AttentionCase& c = GetParam();
  const Function fused = [&](const Tensors& t) { return ops::attend(t[0], t[1], t[2], c.options); };
  const Function formula = [&](const Tensors& t) { return naive_attention(t, c.options); };
  expect_agrees(fused, formula,
                {random({c.batch, c.length, c.heads, c.head_size}),
                 random({c.batch, c.keys, c.kv_heads, c.head_size}),
                 random({c.batch, c.keys, c.kv_heads, c.head_size})});
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttendTest,
    ::testing::Values(AttentionCase{2, 9, 9, 2, 2, 8, {.scale = 0.35}},
                      AttentionCase{1, 40, 40, 4, 2, 16, {.scale = 0.25}},
                      AttentionCase{1, 33, 33, 3, 1, 5, {.scale = 0.4, .softcap = 2.0}},
                      AttentionCase{2, 70, 70, 2, 2, 32, {.scale = 0.2, .window = 13}},
                      AttentionCase{1, 3, 21, 2, 1, 8, {.scale = 0.3, .window = 6}},
                      AttentionCase{1, 130, 130, 1, 1, 64, {.scale = 0.125}}));

TEST_F(OpsTest, Bf16AttentionAndLossAreCloseToF32) {
  set_matmul_dtype(MatmulDtype::bf16);
  const AttentionOptions options{.scale = 0.25, .softcap = {}, .window = 0};
  expect_agrees([&](const Tensors& t) { return ops::attend(t[0], t[1], t[2], options); },
                [&](const Tensors& t) { return naive_attention(t, options); },
                {random({1, 90, 4, 16}), random({1, 90, 2, 16}), random({1, 90, 2, 16})}, 1.2e-2);
  const at::Tensor targets = at::randint(0, 70, {260}, at::kLong);
  expect_agrees([&](const Tensors& t) { return ops::cross_entropy_sum(t[0], t[1], targets); },
                [&](const Tensors& t) {
                  return -at::log_softmax(at::matmul(t[0], t[1].t()), -1)
                              .gather(-1, targets.unsqueeze(-1))
                              .sum();
                },
                {random({260, 32}) * 0.3, random({70, 32})}, 8e-3);
}

TEST_F(OpsTest, ActivationsAgreeWithTheirFormulas) {
  const std::vector<std::pair<Activation, std::function<at::Tensor(at::Tensor)>>> formulas = {
      {Activation::silu, [](at::Tensor x) { return x / (1 + at::exp(-x)); }},
      {Activation::gelu, [](at::Tensor x) { return x * 0.5 * (1 + at::erf(x / std::sqrt(2.0))); }},
      {Activation::gelu_tanh,
       [](at::Tensor x) {
         return 0.5 * x * (1 + at::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
       }},
      {Activation::relu, [](at::Tensor x) { return x * (x > 0); }},
      {Activation::relu_squared, [](at::Tensor x) { return x * x * (x > 0); }}};
  for (const auto& [activation, formula] : formulas) {
    expect_agrees([&, a = activation](const Tensors& t) { return ops::activate(t[0], a); },
                  [&, f = formula](const Tensors& t) { return f(t[0]); }, {random({3, 5, 37})});
    expect_agrees(
        [&, a = activation](const Tensors& t) { return ops::gated_activation(t[0], t[1], a); },
        [&, f = formula](const Tensors& t) { return f(t[0]) * t[1]; },
        {random({3, 5, 37}), random({3, 5, 37})});
  }
}

TEST_F(OpsTest, GatedActivationStaysFiniteFarFromZero) {
  const at::Tensor gate =
      at::tensor({-200.0f, -80.0f, 80.0f, 200.0f}).view({1, 4}).set_requires_grad(true);
  const at::Tensor up = at::ones({1, 4});
  const at::Tensor y = gated_activation(gate, up, Activation::silu);
  y.sum().backward();
  EXPECT_TRUE(at::isfinite(y).all().item<bool>());
  EXPECT_TRUE(at::isfinite(gate.grad()).all().item<bool>());
  EXPECT_FLOAT_EQ(y[0][3].item<float>(), 200.0f);
}

TEST_F(OpsTest, CrossEntropySumAgreesWithLogSoftmax) {
  at::Tensor targets = at::randint(0, 50, {21}, at::kLong);
  const Function fused = [&](const Tensors& t) {
    return ops::cross_entropy_sum(t[0], t[1], targets);
  };
  const Function formula = [&](const Tensors& t) {
    return -at::log_softmax(at::matmul(t[0], t[1].t()), -1).gather(-1, targets.unsqueeze(-1)).sum();
  };
  expect_agrees(fused, formula, {random({21, 16}), random({50, 16})});
}

TEST_F(OpsTest, CrossEntropySumLeavesOutNegativeTargets) {
  const at::Tensor hidden = at::randn({4, 8}), weight = at::randn({10, 8});
  const at::Tensor all = at::tensor({1, 2, 3, 4}, at::kLong);
  const at::Tensor some = at::tensor({1, -1, 3, -100}, at::kLong);
  const at::Tensor rows = at::tensor({0, 2}, at::kLong);
  EXPECT_NEAR(cross_entropy_sum(hidden, weight, some).item<double>(),
              cross_entropy_sum(hidden.index_select(0, rows), weight, all.index_select(0, rows))
                  .item<double>(),
              1e-5);
}

TEST_F(OpsTest, CrossEntropySumTakesBiasAndSoftcap) {
  const at::Tensor targets = at::randint(0, 30, {2000}, at::kLong);
  const Function fused = [&](const Tensors& t) {
    return ops::cross_entropy_sum(t[0], t[1], targets, {.bias = t[2], .softcap = 3.0});
  };
  const Function formula = [&](const Tensors& t) {
    const at::Tensor logits = 3 * at::tanh((at::matmul(t[0], t[1].t()) + t[2]) / 3);
    return -at::log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).sum();
  };
  expect_agrees(fused, formula, {random({2000, 8}), random({30, 8}), random({30})});
}

}  // namespace
}  // namespace fewbit::ops
