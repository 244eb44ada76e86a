#include "fewbit/train/quantizer_partially_binarized.h"

#include <gtest/gtest.h>

#include "fewbit/base/error.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/train/fake_quant_testing.h"

namespace fewbit {
namespace {

using testing::fixture_tensor;
using testing::largest_difference;
using testing::leaf;
using testing::metadata_number;
using testing::same_values;

FEWBIT_FIXTURE_TEST(PbLlmQatFixture, "pbllm-qat", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  const at::Tensor start = fixture_tensor(file, "W");
  const double fraction = metadata_number(file, "outlier_fraction");
  EXPECT_TRUE(same_values(magnitude_tails(start, fraction), fixture_tensor(file, "mask")));
  // The fixture trains on from the weights after 8-bit rounding.
  const at::Tensor rounded = fixture_tensor(file, "W8");
  EXPECT_LT(largest_difference(eight_bit_rows(start, Dtype::f32), rounded), 1e-6);

  const auto quantizer = make_partially_binarized(fraction, Dtype::f32, start);
  const at::Tensor weight = leaf(rounded);
  const at::Tensor out = quantizer->forward(weight);
  out.backward(fixture_tensor(file, "grad_out"));
  EXPECT_LT(largest_difference(out, fixture_tensor(file, "w_sim")), 1e-6);
  EXPECT_LT(largest_difference(weight.grad(), fixture_tensor(file, "dW")), 1e-6);
}

class PartiallyBinarizedTest : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(9); }
  at::Tensor forward(double fraction, const at::Tensor& weight) {
    return make_partially_binarized(fraction, Dtype::f32, weight)->forward(weight);
  }
};

TEST_F(PartiallyBinarizedTest, FractionOneIsTheEightBitMatrix) {
  const at::Tensor weight = at::randn({5, 24});
  EXPECT_TRUE(same_values(forward(1, weight), eight_bit_rows(weight, Dtype::f32)));
}

TEST_F(PartiallyBinarizedTest, FractionZeroIsPlainBinary) {
  const at::Tensor weight = at::randn({5, 24});
  const at::Tensor expected = weight.sign() * weight.abs().mean(1, true);
  EXPECT_LT(largest_difference(forward(0, weight), expected), 1e-6);
}

TEST_F(PartiallyBinarizedTest, SalientWeightsDoNotMove) {
  const at::Tensor start = at::randn({6, 32});
  const auto quantizer = make_partially_binarized(0.2, Dtype::f16, start);
  const at::Tensor salient = magnitude_tails(start, 0.2);
  const at::Tensor before = quantizer->forward(start), after = quantizer->forward(start * -3);
  EXPECT_TRUE(same_values(before.masked_select(salient), after.masked_select(salient)));
  EXPECT_FALSE(same_values(before, after));
}

TEST_F(PartiallyBinarizedTest, ScaleIsTheLeastSquaresOptimum) {
  const at::Tensor weight = at::randn({1, 200});
  const auto error = [&](double factor) {
    const at::Tensor others = magnitude_tails(weight, 0.1).logical_not();
    const at::Tensor out = forward(0.1, weight);
    return (weight - factor * out).masked_select(others).square().sum().item<double>();
  };
  EXPECT_LT(error(1), error(1.01));
  EXPECT_LT(error(1), error(0.99));
}

TEST_F(PartiallyBinarizedTest, TwoTailsOfTheRightSize) {
  const at::Tensor weight = at::arange(-50, 50, at::kFloat).reshape({10, 10});
  const at::Tensor salient = magnitude_tails(weight, 0.1);
  // k - 1 low and N - k' high ones: N = 100, k = 5, k' = 95.
  EXPECT_EQ(salient.logical_and(weight < 0).sum().item<int64_t>(), 4);
  EXPECT_EQ(salient.logical_and(weight > 0).sum().item<int64_t>(), 5);
}

TEST_F(PartiallyBinarizedTest, RefusesToPackAndFractionsBeyondOne) {
  const at::Tensor weight = at::randn({4, 8});
  EXPECT_THROW(make_partially_binarized(0.1, Dtype::f16, weight)->bake(weight), Error);
  EXPECT_THROW(make_partially_binarized(1.5, Dtype::f16, weight), Error);
}

}  // namespace
}  // namespace fewbit
