#include "fewbit/network/fused_block.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/network/decoder.h"

namespace fewbit {
namespace {

ModelSpec small_spec() {
  ModelSpec spec;
  spec.architecture = "llama";
  spec.vocab_size = 40;
  spec.hidden_size = spec.embedding_size = 48;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_size = 12;
  spec.rotary_size = 12;
  spec.ffn_size = 80;
  spec.context = 128;
  spec.blocks.resize(1);
  return spec;
}

// Everything that block 0 of a decoder makes of `x`.
struct Outcome {
  at::Tensor y, dx;
  std::map<std::string, at::Tensor> gradients;
};

// `fused` false: a hook that changes nothing forces the operations one by one.
Outcome run_block(const ModelSpec& spec, bool fused, const std::vector<std::string>& frozen = {}) {
  at::manual_seed(5);
  const Decoder decoder(spec, nullptr);
  ParameterMap parameters;
  for (const TensorSpec& tensor : block_tensors(spec, 0)) {
    const std::vector<int64_t> shape(tensor.shape.begin(), tensor.shape.end());
    at::Tensor value = at::randn(shape) * 0.2;
    if (shape.size() == 1) value = value + 1;
    const bool trained = std::find(frozen.begin(), frozen.end(), tensor.name) == frozen.end();
    parameters[tensor.name] = value.set_requires_grad(trained);
  }
  const at::Tensor x =
      at::randn({3, 70, static_cast<int64_t>(spec.hidden_size)}).set_requires_grad(true);
  BlockHooks hooks;
  if (!fused) hooks.at_site = [](const std::string&, const at::Tensor& value) { return value; };
  const at::Tensor y = decoder.run(1, {x, {}}, parameters, hooks).value;
  (y * at::randn(y.sizes())).sum().backward();
  Outcome outcome{y.detach(), x.grad(), {}};
  for (const auto& [name, value] : parameters) outcome.gradients[name] = value.grad();
  return outcome;
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual - expected).norm() / (expected.norm() + 1e-12)).item<double>();
}

void expect_equal_outcomes(const ModelSpec& spec, double tolerance) {
  ASSERT_TRUE(fused_block_fits(spec));
  const Outcome expected = run_block(spec, false), actual = run_block(spec, true);
  EXPECT_LT(relative_error(actual.y, expected.y), tolerance);
  EXPECT_LT(relative_error(actual.dx, expected.dx), tolerance);
  for (const auto& [name, gradient] : expected.gradients) {
    EXPECT_LT(relative_error(actual.gradients.at(name), gradient), tolerance) << name;
  }
}

class FusedBlockTest : public ::testing::Test {
 protected:
  void TearDown() override { ops::set_matmul_dtype(ops::MatmulDtype::f32); }
};

TEST_F(FusedBlockTest, EqualsTheOperationsOneByOne) {
  expect_equal_outcomes(small_spec(), 5e-6);
  ModelSpec windowed = small_spec();
  windowed.blocks[0].window = 9;
  windowed.attention_softcap = 4.0;
  expect_equal_outcomes(windowed, 5e-6);
  ModelSpec other = small_spec();
  other.kv_heads = 4;
  other.rotary_size = 6;
  other.norm_plus_one = true;
  other.activation = Activation::gelu_tanh;
  expect_equal_outcomes(other, 5e-6);
}

TEST_F(FusedBlockTest, Bf16EqualsTheOperationsWithinItsPrecision) {
  ops::set_matmul_dtype(ops::MatmulDtype::bf16);
  // Intermediate values are rounded too, at eight bits.
  expect_equal_outcomes(small_spec(), 2e-2);
}

TEST_F(FusedBlockTest, RefusesBlocksOfOtherKinds) {
  ModelSpec spec = small_spec();
  spec.parallel_residual = true;
  EXPECT_FALSE(fused_block_fits(spec));
  spec = small_spec();
  spec.qk_norm = true;
  EXPECT_FALSE(fused_block_fits(spec));
  spec = small_spec();
  spec.norm = NormKind::layer;
  EXPECT_FALSE(fused_block_fits(spec));
}

TEST_F(FusedBlockTest, LeavesFrozenWeightsWithoutGradients) {
  const std::vector<std::string> frozen = {"blocks.0.attn.k.weight", "blocks.0.mlp_norm.weight"};
  const Outcome all = run_block(small_spec(), true), some = run_block(small_spec(), true, frozen);
  for (const auto& [name, gradient] : some.gradients) {
    if (std::find(frozen.begin(), frozen.end(), name) != frozen.end()) {
      EXPECT_FALSE(gradient.defined()) << name;
    } else {
      EXPECT_TRUE(at::equal(gradient, all.gradients.at(name))) << name;
    }
  }
}

TEST_F(FusedBlockTest, IsBitIdenticalForAnyNumberOfThreads) {
  const size_t before = thread_count();
  for (const auto dtype : {ops::MatmulDtype::f32, ops::MatmulDtype::bf16}) {
    ops::set_matmul_dtype(dtype);
    ModelSpec spec = small_spec();
    spec.ffn_size = 1200;
    set_thread_count(1);
    const Outcome one = run_block(spec, true);
    set_thread_count(3);
    const Outcome three = run_block(spec, true);
    EXPECT_TRUE(at::equal(one.y, three.y));
    EXPECT_TRUE(at::equal(one.dx, three.dx));
    for (const auto& [name, gradient] : one.gradients) {
      EXPECT_TRUE(at::equal(gradient, three.gradients.at(name))) << name;
    }
  }
  set_thread_count(before);
}

TEST_F(FusedBlockTest, RefusesWeightsOfAnotherShape) {
  const ModelSpec spec = small_spec();
  const Decoder decoder(spec, nullptr);
  ParameterMap parameters;
  for (const TensorSpec& tensor : block_tensors(spec, 0)) {
    parameters[tensor.name] =
        at::zeros(std::vector<int64_t>(tensor.shape.begin(), tensor.shape.end()));
  }
  parameters["blocks.0.mlp.up.weight"] = at::zeros({8, 48});
  EXPECT_THROW(decoder.run(1, {at::zeros({1, 4, 48}), {}}, parameters), Error);
}

}  // namespace
}  // namespace fewbit
