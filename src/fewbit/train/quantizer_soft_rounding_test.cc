#include "fewbit/train/quantizer_soft_rounding.h"

#include <gtest/gtest.h>

#include "fewbit/testing/fixture.h"
#include "fewbit/train/fake_quant_testing.h"

namespace fewbit {
namespace {

using testing::fixture_tensor;
using testing::metadata_integer;
using testing::metadata_number;
using testing::parameter;
using testing::relative_difference;

FEWBIT_FIXTURE_TEST(SoftRoundingFixture, "adaround", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  const at::Tensor weight = fixture_tensor(file, "W"), x = fixture_tensor(file, "X");
  SoftRounding quantizer({metadata_integer(file, "bits"),
                          ScaleGroups::per_row(weight.size(0), weight.size(1)), Dtype::f32},
                         weight, fixture_tensor(file, "scale"), fixture_tensor(file, "zero"));
  const at::Tensor rounding = parameter(quantizer, "rounding");
  EXPECT_LT(relative_difference(rounding, fixture_tensor(file, "V_init")), 1e-4);

  constexpr double kTolerance = 1e-4;
  testing::set_values(rounding, fixture_tensor(file, "V"));
  EXPECT_LT(relative_difference(rectified_sigmoid(rounding), fixture_tensor(file, "h")),
            kTolerance);
  const at::Tensor soft = quantizer.forward(weight);
  EXPECT_LT(relative_difference(soft, fixture_tensor(file, "W_soft")), kTolerance);
  const double samples = static_cast<double>(x.size(0));
  const at::Tensor error = at::matmul(x, (soft - weight).t()).square().sum() / samples;
  const at::Tensor regulariser = quantizer.regulariser(metadata_number(file, "beta"));
  EXPECT_NEAR(error.item<double>() / metadata_number(file, "rec_loss"), 1, kTolerance);
  EXPECT_NEAR(regulariser.item<double>() / metadata_number(file, "reg"), 1, kTolerance);
  (error + metadata_number(file, "lam") * regulariser).backward();
  EXPECT_LT(relative_difference(rounding.grad(), fixture_tensor(file, "grad_V")), kTolerance);

  quantizer.harden();
  EXPECT_LT(relative_difference(quantizer.forward(weight), fixture_tensor(file, "W_hard")),
            kTolerance);
}

TEST(SoftRoundingTest, StartsAtTheWeightsAndHardensToNeighbouringCodes) {
  at::manual_seed(3);
  const at::Tensor weight = at::randn({6, 32});
  const AffineQuantizer options{4, ScaleGroups::per_row(6, 32), Dtype::f16};
  const AffineStart start = min_max_start(weight, options.bits);
  SoftRounding quantizer(options, weight, start.scale * 1.1, start.zero);
  EXPECT_FALSE(quantizer.trains_weight());
  EXPECT_LT(relative_difference(quantizer.forward(weight), weight), 1e-5);

  const at::Tensor soft_codes = quantizer.codes(weight);
  quantizer.harden();
  const at::Tensor hard = quantizer.forward(weight);
  EXPECT_TRUE(testing::same_values(hard, testing::tensor_of(quantizer.bake(weight).dequantize())));
  EXPECT_TRUE(testing::same_values(soft_codes, quantizer.codes(weight)));
  EXPECT_LT(((hard - weight).abs() / quantizer.quantize(weight).scales).max().item<double>(), 1);
}

}  // namespace
}  // namespace fewbit
