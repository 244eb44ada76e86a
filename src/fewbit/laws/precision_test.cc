// Kumar's law, the capacity of number formats and weight fluctuation.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/laws/capacity.h"
#include "fewbit/laws/kumar.h"
#include "fewbit/laws/weight_fluctuation.h"

namespace fewbit {
namespace {

TEST(KumarTest, EffectiveParametersApproachTheParameters) {
  const KumarConstants c;
  EXPECT_NEAR(effective_params(c, 1e8, 1000, 1000, 1000), 1e8, 1e-3);
  EXPECT_LT(effective_params(c, 1e8, 4, 6, 6), 1e8);
  EXPECT_THROW(precision_factor(c.activations, 3), Error);
}

TEST(KumarTest, NothingIsLostAtOrAboveTheTrainingPrecision) {
  const KumarConstants c;
  EXPECT_EQ(post_training_degradation(c, 1e8, 1e10, 8, 8, 1), 0);
  EXPECT_EQ(post_training_degradation(c, 1e8, 1e10, 9, 8, 1), 0);
  EXPECT_GT(post_training_degradation(c, 1e8, 1e10, 7, 8, 1), 0);
  EXPECT_NEAR(post_training_degradation(c, 1e8, 1e10, 4, 16, 1e3),
              post_training_degradation(c, 1e8, 1e10, 4), 1e-15);
}

TEST(KumarTest, OptimalPrecisionIsSevenToEightBits) {
  const KumarConstants c;
  EXPECT_NEAR(optimal_train_bits({c.weights, c.activations, c.cache}), 7.002, 1e-3);
  const PrecisionPart mean{(2.6745 + 2.2102 + 0.9578) / 3, (0.3037 + 1.4072 + 2.4185) / 3};
  EXPECT_NEAR(optimal_train_bits({mean, mean, mean}), 7.641, 1e-3);
}

TEST(KumarTest, LossIsStationaryAtTheCriticalTokens) {
  const KumarConstants c;
  for (const double bits : {3.0, 4.0, 6.0}) {
    const double critical = critical_tokens(c, 30e6, bits), step = 1e-4;
    const auto loss = [&](double ln_tokens) {
      return loss_after_quantization(c, 30e6, std::exp(ln_tokens), bits);
    };
    const double at = std::log(critical);
    // Richardson's difference: free of the step's second-order error.
    const auto slope = [&](double h) { return (loss(at + h) - loss(at - h)) / (2 * h); };
    EXPECT_NEAR((4 * slope(step) - slope(2 * step)) / 3, 0, 1e-8 * loss(at));
    EXPECT_GT(loss(at + 1), loss(at));
    EXPECT_GT(loss(at - 1), loss(at));
  }
  EXPECT_NEAR(critical_tokens(c, 30e6, 3) / 1.64e10, 1, 5e-3);
  EXPECT_NEAR(critical_tokens(c, 30e6, 4) / 8.86e10, 1, 5e-3);
}

TEST(CapacityTest, OptimalQuantizersHaveTheKnownErrors) {
  // Max (1960), and the closed form beyond his table.
  const double midrise[] = {0.36338,    0.118846,   0.0374397,  0.0115429,
                            0.00349521, 0.00104005, 3.04333e-4, 8.76862e-5};
  for (int bits = 1; bits <= 8; ++bits) {
    EXPECT_NEAR(optimal_midrise(bits).gmse / midrise[bits - 1], 1, 1e-5) << bits;
  }
  EXPECT_NEAR(optimal_integer(2).gmse, 0.149431, 1e-6);
  EXPECT_NEAR(optimal_integer(4).gmse, 0.0118640, 1e-7);
  EXPECT_NEAR(optimal_ternary().gmse, 0.190174, 1e-6);
  EXPECT_NEAR(optimal_ternary().step, 1.224006, 1e-5);
  EXPECT_THROW(optimal_midrise(0), Error);
}

TEST(CapacityTest, MonteCarloAgreesWithTheClosedForm) {
  const OptimalQuantizer ternary = optimal_ternary();
  const Estimate error = monte_carlo_gmse(
      [&](double x) {
        return std::abs(x) < ternary.step / 2 ? 0.0 : std::copysign(ternary.step, x);
      },
      200000, 5);
  EXPECT_NEAR(error.value, ternary.gmse, 3 * error.standard_error);
}

TEST(CapacityTest, GrowsWithBitsAndStaysBelowOne) {
  double last = 0;
  for (int bits = 1; bits <= 12; ++bits) {
    const double rho = capacity(optimal_midrise(bits).gmse);
    EXPECT_GT(rho, last);
    EXPECT_LT(rho, 1);
    last = rho;
  }
  EXPECT_NEAR(capacity(optimal_midrise(4).gmse), 0.820, 5e-4);
  EXPECT_NEAR(capacity(optimal_ternary().gmse), 0.335, 5e-4);
  EXPECT_EQ(capacity(1), 0);
  EXPECT_EQ(shannon_gmse(2), 1.0 / 16);
}

TEST(FluctuationTest, BoxOfKnownChanges) {
  // Changes 1..9 and one far out.
  std::vector<float> before(10, 1.0f), after(10);
  for (size_t i = 0; i < 9; ++i) after[i] = 1.0f + static_cast<float>(i + 1);
  after[9] = 1001;
  const FluctuationStatistics box = fluctuation(before, after);
  EXPECT_EQ(box.median, 5.5);
  EXPECT_EQ(box.q1, 3.25);
  EXPECT_EQ(box.q3, 7.75);
  EXPECT_EQ(box.lower_whisker, 1);
  EXPECT_EQ(box.upper_whisker, 9);
  EXPECT_NEAR(box.share_outside, 0.1, 1e-12);
  EXPECT_EQ(fluctuation(before, after, 0.5).median, 2.75);
  EXPECT_THROW(fluctuation(before, std::vector<float>(3)), Error);
}

TEST(FluctuationTest, RatioComparesErrorsWithUpdates) {
  const std::vector<float> before = {0, 0}, after = {3, 4}, quantized = {3, 3};
  EXPECT_NEAR(quantization_to_update_ratio(before, after, after, quantized), 1.0 / 5, 1e-12);
  EXPECT_TRUE(std::isinf(quantization_to_update_ratio(after, after, after, quantized)));
  EXPECT_NEAR(root_mean_square(after), std::sqrt(12.5), 1e-12);
}

}  // namespace
}  // namespace fewbit
