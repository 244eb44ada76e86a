#include "fewbit/train/fake_quant_function.h"

#include <gtest/gtest.h>

#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/train/fake_quant_formula.h"
#include "fewbit/train/fake_quant_testing.h"
#include "fewbit/train/quantizer_rules.h"

namespace fewbit {
namespace {

using testing::largest_difference;
using testing::leaf;
using testing::relative_difference;
using testing::same_values;

// Every grid and every kind of gradient.
std::vector<LevelRule> specimen_rules() {
  std::vector<LevelRule> rules;
  constexpr int64_t kWeights = 1000;
  for (const bool compatible : {false, true}) {
    rules.push_back(elastic_rule(kWeights, {.compatible = compatible}));
    rules.push_back(stretched_rule(3, kWeights, {.compatible = compatible}));
  }
  for (const int levels : {4, 8, 16}) rules.push_back(stretched_rule(levels, kWeights));
  for (const int bits : {3, 4}) rules.push_back(paretoq_lsq_rule(bits, kWeights));
  rules.push_back(lsq_rule(signed_grid(2), kWeights));
  rules.push_back(lsq_rule(unsigned_grid(4), kWeights));
  LevelRule ternary;
  ternary.grid = ternary_grid();
  rules.push_back(ternary);
  LevelRule clipped = lsq_rule(unsigned_grid(4), kWeights);
  clipped.gradient.scale = GradientRule::Scale::none;
  rules.push_back(clipped);
  return rules;
}

class FakeQuantFunctionTest : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(11); }
  void TearDown() override { set_thread_count(2); }
};

// Also with ties and values on the boundaries: multiples of a quarter under a scale of a half.
at::Tensor specimen_groups(at::ScalarType type, int64_t groups, int64_t length) {
  const at::Tensor random = at::randn({groups, length}, type);
  const at::Tensor exact = at::randint(-24, 24, {groups, length}, type) / 4;
  return at::where(at::rand({groups, length}) < 0.5, random, exact);
}

TEST_F(FakeQuantFunctionTest, FusedPassEqualsTheFormula) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    for (const LevelRule& rule : specimen_rules()) {
      for (const bool centred : {false, true}) {
        SCOPED_TRACE(rule.grid.name);
        // A group longer than one piece, and short ones.
        for (const int64_t length : {10000, 24}) {
          const at::Tensor w = leaf(specimen_groups(type, 5, length));
          const at::Tensor scale = leaf(at::full({5, 1}, 0.5, type));
          const at::Tensor centre = centred ? at::randn({5, 1}, type) * 0.1 : at::Tensor();
          const at::Tensor gradient = at::randn({5, length}, type);
          const at::Tensor out = level_fake_quant(w, scale, centre, rule);
          out.backward(gradient);
          const at::Tensor x = w.detach(), a = scale.detach();
          const at::Tensor levels = formula::levels(x, a, centre, rule.grid);
          EXPECT_TRUE(same_values(out, levels * effective_scale(a, rule).stored));
          const auto expected =
              formula::level_backward(x, a, centre, gradient, rule.grid, rule.gradient);
          EXPECT_TRUE(same_values(w.grad(), expected.groups));
          EXPECT_LT(relative_difference(scale.grad(), expected.scale), 1e-4);
          if (rule.grid.zero_stays_zero) continue;
          const at::Tensor codes = level_codes(x, a, centre, rule).to(type);
          EXPECT_TRUE(same_values(codes * rule.grid.level_step + rule.grid.first_level, levels));
        }
      }
    }
  }
}

TEST_F(FakeQuantFunctionTest, FusedAffinePassEqualsTheFormula) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const AffineRule rule{3, Dtype::f32, true};
    const at::Tensor w = leaf(specimen_groups(type, 4, 9000));
    const at::Tensor scale = leaf(at::full({4, 1}, 0.5, type));
    const at::Tensor zero = leaf(at::tensor({0.0, 3.4, 5.0, 9.0}).to(type).reshape({4, 1}));
    const at::Tensor gradient = at::randn({4, 9000}, type);
    const at::Tensor out = affine_fake_quant(w, scale, zero, rule);
    out.backward(gradient);
    const EffectiveAffine now = effective_affine(scale, zero, rule);
    const at::Tensor codes = formula::affine_codes(w.detach(), now.scale, now.zero, 7);
    EXPECT_TRUE(same_values(out, now.scale * (codes - now.zero)));
    EXPECT_TRUE(same_values(affine_codes(w, scale, zero, rule), codes));
    const auto expected = formula::affine_backward(w.detach(), now.scale, now.zero, gradient, 7);
    EXPECT_TRUE(same_values(w.grad(), expected.groups));
    EXPECT_LT(relative_difference(scale.grad(), expected.scale), 1e-4);
    EXPECT_LT(relative_difference(zero.grad(), expected.zero), 1e-4);
  }
}

TEST_F(FakeQuantFunctionTest, ResultsDoNotDependOnTheNumberOfThreads) {
  const at::Tensor w = at::randn({3, 50000}), gradient = at::randn({3, 50000});
  const LevelRule rule = stretched_rule(4, w.numel());
  const auto run = [&](size_t threads) {
    set_thread_count(threads);
    const at::Tensor x = leaf(w), a = leaf(at::full({3, 1}, 0.7));
    level_fake_quant(x, a, at::Tensor(), rule).backward(gradient);
    const ScaleStatistic mean{ScaleStatistic::Kind::mean_magnitude, 1, 0};
    return at::cat({a.grad(), scale_statistic(w, mean), group_means(w)});
  };
  const at::Tensor one = run(1);
  for (const size_t threads : {2, 3, 5}) EXPECT_TRUE(same_values(run(threads), one));
}

// With the residuals r = w^/a - u held, L(a) = sum G a (w/a + r) is differentiable; clipped values
// are a times a constant.
TEST_F(FakeQuantFunctionTest, ScaleGradientIsThatOfFixedResiduals) {
  const at::Tensor w = at::randn({4, 64}, at::kDouble), gradient = at::randn({4, 64}, at::kDouble);
  for (const LevelRule& rule : {stretched_rule(3, 1), stretched_rule(4, 1), paretoq_lsq_rule(3, 1),
                                paretoq_lsq_rule(4, 1)}) {
    SCOPED_TRACE(rule.grid.name);
    const at::Tensor scale = leaf(at::full({4, 1}, rule.grid.levels > 4 ? 0.3 : 1.2, at::kDouble));
    const at::Tensor out = level_fake_quant(w, scale, at::Tensor(), rule);
    out.backward(gradient);
    const at::Tensor start = scale.detach(), u = w / start;
    const at::Tensor inside =
        (u >= rule.gradient.scale_low).logical_and(u <= rule.gradient.scale_high);
    const at::Tensor level = out.detach() / start;
    const auto loss = [&](const at::Tensor& a) {
      return (gradient * at::where(inside, a * (w / a + (level - u)), a * level)).sum(1, true);
    };
    constexpr double kStep = 1e-5;
    const at::Tensor numeric = (loss(start + kStep) - loss(start - kStep)) / (2 * kStep);
    EXPECT_LT(largest_difference(scale.grad(), numeric * rule.gradient.factor), 1e-7);
  }
}

TEST_F(FakeQuantFunctionTest, StoredTypesRoundTheScaleBeforeCodesAreChosen) {
  LevelRule rule = stretched_rule(3, 64);
  rule.scale_dtype = Dtype::f16;
  const at::Tensor scale = at::full({1, 1}, 0.1234567);
  const EffectiveScale effective = effective_scale(scale, rule);
  EXPECT_TRUE(same_values(effective.stored, effective.stored.to(at::kHalf)));
  EXPECT_LT(relative_difference(effective.value * (2.0 / 3), effective.stored), 1e-6);
  EXPECT_FALSE(same_values(effective.value, scale));
}

TEST_F(FakeQuantFunctionTest, CollapsedAndNegativeScalesCountAsTheSmallestOne) {
  const LevelRule rule = elastic_rule(16);
  const at::Tensor w = at::randn({2, 8});
  const at::Tensor scale = leaf(at::tensor({-0.5f, 0.0f}).reshape({2, 1}));
  const at::Tensor out = level_fake_quant(w, scale, at::Tensor(), rule);
  EXPECT_TRUE(same_values(out.abs(), at::full({2, 8}, 1e-5f)));
  out.backward(out.detach());
  // The gradient is not cut off there, so that the scale can come back.
  EXPECT_GT(scale.grad().abs().max().item<double>(), 0);
}

TEST_F(FakeQuantFunctionTest, RefusesParametersOfTheWrongShapeOrType) {
  const at::Tensor w = at::randn({2, 8});
  const LevelRule rule = elastic_rule(16);
  EXPECT_THROW(level_fake_quant(w, at::ones({3, 1}), at::Tensor(), rule), Error);
  EXPECT_THROW(level_fake_quant(w, at::ones({2, 1}, at::kDouble), at::Tensor(), rule), Error);
  EXPECT_THROW(level_fake_quant(w.to(at::kHalf), at::ones({2, 1}, at::kHalf), at::Tensor(), rule),
               Error);
}

}  // namespace
}  // namespace fewbit
