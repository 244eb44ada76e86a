#include "fewbit/methods/omniquant.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "fewbit/methods/affine_layers.h"
#include "fewbit/methods/model_testing.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/train/fake_quant_testing.h"
#include "fewbit/train/quantizer_affine.h"

namespace fewbit {
namespace {

using testing::fixture_tensor;
using ::testing::HasSubstr;
using testing::leaf;
using testing::metadata_integer;
using testing::metadata_number;
using testing::parameter;
using testing::relative_difference;
using testing::set_values;

// The fixtures were computed in double.
at::Tensor tensor_of(const SafetensorsFile& file, std::string_view name) {
  return fixture_tensor(file, name).to(at::kDouble);
}

torch::optim::AdamWOptions adamw(double rate) {
  return torch::optim::AdamWOptions(rate).weight_decay(0);
}

// --- clipping ------------------------------------------------------------------------------------

FEWBIT_FIXTURE_TEST(OmniQuantClippingFixture, "omniquant", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (file.metadata("kind") != "lwc") GTEST_SKIP() << "another part of OmniQuant";
  ASSERT_EQ(file.metadata("symmetric"), "False");
  const at::Tensor weight = tensor_of(file, "W"), x = tensor_of(file, "X");
  const std::string& group = file.metadata("group_size");
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const AffineQuantizer quantizer{metadata_integer(file, "bits"),
                                  group == "None"
                                      ? ScaleGroups::per_row(rows, columns)
                                      : ScaleGroups::per_group(rows, columns, std::stol(group)),
                                  Dtype::f32};
  const auto clipping = make_learnable_clipping(quantizer, weight, 4);
  const at::Tensor upper = parameter(*clipping, "upper_logit");
  const at::Tensor lower = parameter(*clipping, "lower_logit");
  const auto loss_now = [&] {
    return (at::matmul(x, clipping->forward(weight).t()) - at::matmul(x, weight.t()))
        .square()
        .mean();
  };

  // Values and gradients at the given logits.
  set_values(upper, tensor_of(file, "up_logit"));
  set_values(lower, tensor_of(file, "low_logit"));
  EXPECT_LT(relative_difference(clipping->forward(weight), tensor_of(file, "W_q")), 1e-6);
  const QuantizedTensor stored = clipping->quantize(weight);
  EXPECT_LT(relative_difference(stored.scales, tensor_of(file, "scale")), 1e-6);
  EXPECT_TRUE(testing::same_values(stored.zeros, tensor_of(file, "zero")));
  const at::Tensor loss = loss_now();
  const double golden = metadata_number(file, "loss_at_given_logits");
  EXPECT_NEAR(loss.item<double>(), golden, 1e-6 * golden);
  loss.backward();
  EXPECT_LT(relative_difference(upper.grad(), tensor_of(file, "grad_up")), 1e-6);
  EXPECT_LT(relative_difference(lower.grad(), tensor_of(file, "grad_low")), 1e-6);

  // Plain min-max at the far end of the logits.
  set_values(upper, at::full_like(upper.detach(), 60));
  set_values(lower, at::full_like(lower.detach(), 60));
  EXPECT_LT(relative_difference(clipping->forward(weight), tensor_of(file, "W_minmax")), 1e-6);

  // Training from the start.
  set_values(upper, at::full_like(upper.detach(), 4));
  set_values(lower, at::full_like(lower.detach(), 4));
  torch::optim::AdamW optimizer({upper, lower}, adamw(metadata_number(file, "lr")));
  const at::Tensor losses = tensor_of(file, "train_losses");
  for (int64_t step = 0; step < losses.numel(); ++step) {
    optimizer.zero_grad();
    const at::Tensor now = loss_now();
    const double expected = losses[step].item<double>();
    EXPECT_NEAR(now.item<double>(), expected, 1e-4 * expected) << "step " << step;
    if (step + 1 == losses.numel()) break;
    now.backward();
    optimizer.step();
  }
  EXPECT_LT(relative_difference(upper, tensor_of(file, "up_logit_trained")), 1e-4);
  EXPECT_LT(relative_difference(lower, tensor_of(file, "low_logit_trained")), 1e-4);
}

// --- equivalent transforms -----------------------------------------------------------------------

// Rounding whose gradient is the identity.
at::Tensor round_through(const at::Tensor& x) { return x + (x.round() - x).detach(); }

// Dynamic quantization of each token over its whole range, gradients through both ends.
at::Tensor quantized_tokens(const at::Tensor& x, int bits) {
  const double largest_code = (1 << bits) - 1;
  const at::Tensor low = x.amin(-1, true), high = x.amax(-1, true);
  const at::Tensor scale = ((high - low) / largest_code).clamp(1e-5, 1e4);
  const at::Tensor zero = (-low / scale).clamp(-1e4, 1e4).round().detach();
  return ((round_through(x / scale) + zero).clamp(0, largest_code) - zero) * scale;
}

// LayerNorm -> a and v, v -> o; the outputs of a and o side by side.
class ToyBlock {
 public:
  explicit ToyBlock(const SafetensorsFile& file)
      : file_(file), epsilon_(metadata_number(file, "layernorm_eps")) {
    x_ = tensor_of(file, "X");
    for (const char* name : {"a", "v", "o"}) {
      for (const char* part : {".weight", ".bias"}) {
        parameters[std::string(name) + part] = tensor_of(file, std::string(name) + part);
      }
    }
    parameters["ln.weight"] = tensor_of(file, "ln_weight");
    parameters["ln.bias"] = tensor_of(file, "ln_bias");
    // One head, so that row r of v is column r of o.
    const auto width = static_cast<size_t>(parameters.at("v.weight").size(0));
    spec.heads = spec.kv_heads = 1;
    spec.head_size = width;
    const auto inputs = static_cast<size_t>(x_.size(1));
    transforms = {make("ln", FoldKind::norm, {"a", "v"}, inputs, "1"),
                  make("v", FoldKind::rows, {"o"}, width, "2")};
    // What takes_shift() asks for is the name of a value projection.
    rename();
  }

  at::Tensor output(const ParameterMap& with, int activation_bits) const {
    const auto linear = [&](const std::string& name, const at::Tensor& input) {
      const at::Tensor seen =
          activation_bits == 0 ? input : quantized_tokens(input, activation_bits);
      return at::linear(seen, with.at(name + ".weight"), with.at(name + ".bias"));
    };
    const at::Tensor h =
        at::layer_norm(x_, {x_.size(1)}, with.at("ln.weight"), with.at("ln.bias"), epsilon_);
    return at::cat({linear("a", h), linear("o", linear("toy.attn.v", h))}, 1);
  }

  ModelSpec spec;
  ParameterMap parameters;
  std::vector<EquivalentTransform> transforms;

 private:
  EquivalentTransform make(std::string partner, FoldKind kind, std::vector<std::string> readers,
                           size_t inputs, const std::string& number) {
    Step step;
    step.site = partner + ".output";
    step.linears = step.readers = readers;
    step.in_features = inputs;
    step.fold = kind;
    step.partner = partner;
    return {{{step}, kind, std::move(partner), std::move(readers), inputs},
            leaf(tensor_of(file_, "s" + number)),
            leaf(tensor_of(file_, "shift" + number))};
  }

  void rename() {
    const auto new_name = [](std::string& name) {
      if (name == "v") name = "toy.attn.v";
    };
    for (EquivalentTransform& transform : transforms) {
      new_name(transform.group.partner);
      for (std::string& reader : transform.group.readers) new_name(reader);
      transform.group.steps.front().readers = transform.group.readers;
    }
    for (const char* part : {".weight", ".bias"}) {
      auto node = parameters.extract(std::string("v") + part);
      node.key() = std::string("toy.attn.v") + part;
      parameters.insert(std::move(node));
    }
  }

  const SafetensorsFile& file_;
  double epsilon_;
  at::Tensor x_;
};

FEWBIT_FIXTURE_TEST(OmniQuantTransformFixture, "omniquant", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (file.metadata("kind") != "let") GTEST_SKIP() << "another part of OmniQuant";
  ToyBlock block(file);
  const int bits = metadata_integer(file, "wbits"),
            activation_bits = metadata_integer(file, "abits");
  const std::pair<std::string, std::string> layers[] = {
      {"a", "a"}, {"toy.attn.v", "v"}, {"o", "o"}};  // name here, name in the file

  // The transform alone.
  const ParameterMap let = transformed(block.spec, block.transforms, block.parameters);
  for (const auto& [name, stored] : layers) {
    for (const char* part : {".weight", ".bias"}) {
      EXPECT_LT(relative_difference(let.at(name + part), tensor_of(file, stored + part + "_let")),
                1e-6)
          << name << part;
    }
  }
  EXPECT_LT(relative_difference(let.at("ln.weight"), tensor_of(file, "ln_weight_let")), 1e-6);
  EXPECT_LT(relative_difference(let.at("ln.bias"), tensor_of(file, "ln_bias_let")), 1e-6);
  const at::Tensor exact = block.output(block.parameters, 0);
  EXPECT_LT(relative_difference(block.output(let, 0), exact), 1e-9);
  EXPECT_LT(relative_difference(exact, tensor_of(file, "Y_fp")), 1e-6);

  // Quantized: outputs, gradients, training.
  std::vector<AffineLayer> quantized;
  for (const auto& [name, stored] : layers) {
    const at::Tensor& weight = block.parameters.at(name + ".weight");
    const AffineQuantizer quantizer{bits, ScaleGroups::per_row(weight.size(0), weight.size(1)),
                                    Dtype::f32};
    quantized.push_back({name, make_learnable_clipping(quantizer, weight, 4)});
  }
  const auto output_now = [&] {
    return block.output(quantized_parameters(
                            transformed(block.spec, block.transforms, block.parameters), quantized),
                        activation_bits);
  };
  const at::Tensor target = exact.detach();
  at::Tensor out = output_now();
  EXPECT_LT(relative_difference(out, tensor_of(file, "Y_q_init")), 1e-6);
  (out - target).square().mean().backward();
  const auto expect_gradient = [&](const at::Tensor& tensor, const std::string& name) {
    EXPECT_LT(relative_difference(tensor.grad(), tensor_of(file, "grad." + name)), 1e-6) << name;
  };
  std::vector<at::Tensor> transforms, clipping;
  for (size_t t = 0; t < 2; ++t) {
    const std::string number = std::to_string(t + 1);
    expect_gradient(block.transforms[t].scale, "s" + number);
    expect_gradient(block.transforms[t].shift, "shift" + number);
    transforms.push_back(block.transforms[t].scale);
    transforms.push_back(block.transforms[t].shift);
  }
  for (size_t l = 0; l < quantized.size(); ++l) {
    const auto& [name, stored] = layers[l];
    expect_gradient(parameter(*quantized[l].quantizer, "upper_logit"), "up_" + stored);
    expect_gradient(parameter(*quantized[l].quantizer, "lower_logit"), "low_" + stored);
    for (const auto& [key, tensor] : quantized[l].quantizer->parameters()) {
      clipping.push_back(tensor);
    }
  }
  torch::optim::AdamW let_optimizer(transforms, adamw(metadata_number(file, "let_lr")));
  torch::optim::AdamW lwc_optimizer(clipping, adamw(metadata_number(file, "lwc_lr")));
  const at::Tensor losses = tensor_of(file, "train_losses");
  for (int64_t step = 0; step < losses.numel(); ++step) {
    let_optimizer.zero_grad();
    lwc_optimizer.zero_grad();
    const at::Tensor loss = (output_now() - target).square().mean();
    const double expected = losses[step].item<double>();
    EXPECT_NEAR(loss.item<double>(), expected, 1e-4 * expected) << "step " << step;
    if (step + 1 == losses.numel()) break;
    loss.backward();
    let_optimizer.step();
    lwc_optimizer.step();
  }
  for (size_t t = 0; t < 2; ++t) {
    const std::string number = std::to_string(t + 1);
    EXPECT_LT(relative_difference(block.transforms[t].scale, tensor_of(file, "trained.s" + number)),
              1e-4);
    EXPECT_LT(
        relative_difference(block.transforms[t].shift, tensor_of(file, "trained.shift" + number)),
        1e-4);
  }
}

// --- on a model ----------------------------------------------------------------------------------

using testing::LoudModel;

TEST(OmniQuantTest, LowersTheLossOfEveryBlockAndTheErrorOfTheModel) {
  const LoudModel model;
  const double nearest = model.error("rtn:bits=3,group_size=32,range=min_max");
  for (const char* recipe : {"omniquant:bits=3,group_size=32,epochs=4",
                             "omniquant:bits=3,group_size=32,epochs=4,aug_loss=true,batch=2",
                             "omniquant:bits=3,group_size=32,epochs=4,let=true"}) {
    const QuantizedModel result = model.quantized(recipe);
    ASSERT_EQ(result.transforms.size(), 2u) << recipe;
    for (const TransformReport& report : result.transforms) {
      EXPECT_LE(*report.objective_after, *report.objective_before) << recipe << report.where;
    }
    EXPECT_LT(model.error(result), nearest) << recipe;
  }
}

TEST(OmniQuantTest, WithoutTrainingItIsClippedRoundToNearest) {
  const LoudModel model;
  const QuantizedModel result =
      model.quantized("omniquant:bits=4,group_size=16,epochs=0,scale_dtype=f32");
  const at::Tensor weight = model.weight("blocks.1.mlp.down");
  const at::Tensor groups = weight.reshape({-1, 16});
  const double share = 1 / (1 + std::exp(-4.0));
  const at::Tensor high = share * groups.amax(1, true), low = share * groups.amin(1, true);
  const at::Tensor scale = (high - low) / 15, zero = (-low / scale).round();
  const at::Tensor expected = (((groups / scale).round() + zero).clamp(0, 15) - zero) * scale;
  const at::Tensor have = testing::tensor_of(result.layers.at("blocks.1.mlp.down").dequantize());
  EXPECT_LT(relative_difference(have.reshape({-1, 16}), expected), 1e-5);
}

TEST(OmniQuantTest, TransformsLeaveTheFunctionOfTheModel) {
  // At 8 bits little is lost but by the clipping that training starts from.
  for (const auto kind : {LoudModel::Kind::plain, LoudModel::Kind::biased}) {
    const LoudModel model(kind);
    const std::string recipe = "omniquant:bits=8,group_size=16,epochs=1";
    const QuantizedModel result = model.quantized(recipe + ",let=true,let_rate=0.05");
    EXPECT_TRUE(result.changed.contains("blocks.0.attn_norm.weight"));
    EXPECT_EQ(result.changed.contains("blocks.0.attn.q.bias"), kind == LoudModel::Kind::biased);
    EXPECT_LT(model.error(result), 2 * model.error(recipe));
  }
}

TEST(OmniQuantTest, RefusesWhatItCannotTrain) {
  const LoudModel model;
  const auto expect_refused = [&](const char* recipe, const char* reason) {
    EXPECT_THAT([&] { model.passes(recipe); }, ::testing::ThrowsMessage<Error>(HasSubstr(reason)))
        << recipe;
  };
  for (const std::string method : {"omniquant", "autoround"}) {
    expect_refused((method + ":group_size=40").c_str(), "does not divide");
    expect_refused((method + ":symmetry=sym_offset").c_str(), "symmetry");
    expect_refused((method + ":clip=mse").c_str(), "clip");
    expect_refused((method + ":format=nf4").c_str(), "format");
    expect_refused((method + ":layers=embed").c_str(), "layers");
  }
  expect_refused("omniquant:lwc=false", "nothing is left to learn");
}

TEST(OmniQuantTest, DoesNotDependOnTheNumberOfThreads) {
  const LoudModel model;
  for (const char* recipe : {"omniquant:bits=3,group_size=32,epochs=2,let=true",
                             "autoround:bits=3,group_size=32,steps=10,batch=4"}) {
    EXPECT_TRUE(model.is_independent_of_threads(recipe)) << recipe;
  }
}

}  // namespace
}  // namespace fewbit
