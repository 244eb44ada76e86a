#include "fewbit/methods/smoothquant.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/random.h"
#include "fewbit/calibrate/fold.h"
#include "fewbit/calibrate/quantize_model.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/methods/registry.h"
#include "fewbit/network/ops.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

at::Tensor tensor_of(const SafetensorsFile& file, const std::string& name) {
  const TensorView& view = file.tensor(name);
  const std::vector<float> values = to_floats(view);
  return at::tensor(at::ArrayRef<float>(values))
      .view(std::vector<int64_t>(view.shape.begin(), view.shape.end()));
}

std::vector<double> doubles_of(const at::Tensor& tensor) {
  const at::Tensor values = tensor.to(at::kDouble).contiguous();
  return {values.data_ptr<double>(), values.data_ptr<double>() + values.numel()};
}

void expect_close(const at::Tensor& have, const at::Tensor& want, const std::string& what) {
  const double worst = ((have - want).abs() / (want.abs() + 1e-12)).max().item<double>();
  EXPECT_LE(worst, 1e-5) << what;
}

FEWBIT_FIXTURE_TEST(SmoothQuantFixture, "smoothquant", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  ParameterMap parameters = {{"norm.weight", tensor_of(file, "ln_weight")},
                             {"norm.bias", tensor_of(file, "ln_bias")},
                             {"first.weight", tensor_of(file, "W1")},
                             {"second.weight", tensor_of(file, "W2")}};
  const ParameterMap before = parameters;
  const auto columns = static_cast<size_t>(parameters.at("norm.weight").numel());
  const double alpha = std::stod(file.metadata("alpha"));
  const double epsilon = std::stod(file.metadata("eps_layernorm"));
  const at::Tensor x = tensor_of(file, "X");

  const at::Tensor normed =
      ops::layer_norm(x, before.at("norm.weight"), before.at("norm.bias"), epsilon);
  LayerStats stats(columns, {.max_absolute = true});
  stats.add(normed, "input");
  const at::Tensor activation = tensor_of(file, "act_absmax");
  const std::vector<double> maxima = stats.max_absolute();
  for (size_t c = 0; c < columns; ++c) {
    EXPECT_NEAR(maxima[c], activation.data_ptr<float>()[c], 1e-5 * maxima[c]);
  }

  const at::Tensor weights =
      at::cat({before.at("first.weight"), before.at("second.weight")}).abs().amax(0);
  const std::vector<float> scale =
      smoothing_scale(doubles_of(activation), doubles_of(weights), alpha);
  Step step;
  step.site = "input";
  step.linears = step.readers = {"first", "second"};
  step.in_features = columns;
  step.fold = FoldKind::norm;
  step.partner = "norm";
  fold_scale(ModelSpec{}, fold_groups({&step, 1}).front(), scale, parameters);
  expect_close(parameters.at("norm.weight"), tensor_of(file, "ln_weight_out"), "norm weight");
  expect_close(parameters.at("norm.bias"), tensor_of(file, "ln_bias_out"), "norm bias");
  expect_close(parameters.at("first.weight"), tensor_of(file, "W1_out"), "first linear");
  expect_close(parameters.at("second.weight"), tensor_of(file, "W2_out"), "second linear");

  const at::Tensor smooth =
      ops::layer_norm(x, parameters.at("norm.weight"), parameters.at("norm.bias"), epsilon);
  for (const char* linear : {"first.weight", "second.weight"}) {
    const at::Tensor want = at::matmul(normed, before.at(linear).t());
    const at::Tensor have = at::matmul(smooth, parameters.at(linear).t());
    EXPECT_LE((have - want).abs().max().item<double>(), 1e-5 * want.abs().max().item<double>());
  }
}

TEST(SmoothQuantTest, AlphaOneFlattensActivationsAndAlphaZeroFlattensWeights) {
  const std::vector<double> activations = {0.5, 20, 3}, weights = {0.1, 0.02, 4};
  const std::vector<float> all = smoothing_scale(activations, weights, 1);
  const std::vector<float> none = smoothing_scale(activations, weights, 0);
  for (size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(activations[c] / all[c], 1, 1e-6);
    EXPECT_NEAR(weights[c] * none[c], 1, 1e-6);
  }
}

TEST(SmoothQuantTest, ASilentColumnIsLeftAlone) {
  const std::vector<double> activations = {0, 1}, weights = {2, 0};
  const std::vector<float> scale = smoothing_scale(activations, weights, 0.5);
  EXPECT_EQ(scale[0], 1);
  EXPECT_NEAR(scale[1], 1 / std::sqrt(1e-5), 1e-2);
}

FEWBIT_FIXTURE_TEST_FOLDERS(SmoothedModelsFixture, "models") {
  if (path().filename() == "bitnet") GTEST_SKIP() << "this model is refused";
  at::NoGradGuard no_grad;
  const Checkpoint checkpoint = open_checkpoint(path());
  const Decoder decoder(checkpoint.spec, checkpoint.tensors);
  RandomStream random(4, "tokens");
  std::vector<int64_t> ids(4 * 16);
  for (int64_t& id : ids) id = static_cast<int64_t>(random.below(checkpoint.spec.vocab_size));
  CalibrationSet calibration;
  calibration.tokens = at::tensor(ids, at::kLong).view({4, 16});
  const auto logits = [&](const ParameterMap& parameters) {
    return decoder.logits(decoder.hidden_states(calibration.tokens, parameters), parameters);
  };
  for (const char* recipe : {"smoothquant", "smoothquant:alpha=0.8,into=all"}) {
    const auto passes = build_passes(Recipe::parse(recipe), methods(), checkpoint.spec);
    const QuantizedModel model =
        quantize_model(checkpoint, passes, calibration, {.show_progress = false});
    EXPECT_FALSE(model.changed.empty());
    const at::Tensor want = logits(decoder.load_all_parameters());
    const at::Tensor have = logits(dequantized_parameters(decoder, model));
    EXPECT_LE(((have - want).abs() / (1 + want.abs())).max().item<double>(), 5e-5) << recipe;
  }
}

}  // namespace
}  // namespace fewbit
