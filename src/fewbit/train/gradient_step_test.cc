#include "fewbit/train/gradient_step.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/model/tensor_source.h"
#include "fewbit/train/suite.h"

namespace fewbit {
namespace {

ModelSpec tiny_spec(bool tied_head) {
  ModelSpec spec = llama_spec(2, 32, 2, 0, 16, tied_head);
  spec.vocab_size = 20;
  return spec;
}

std::vector<TrainedTensor> tensors_of(const ModelSpec& spec) {
  const auto source = random_tensors(spec, 3, 0.1);
  std::vector<TrainedTensor> tensors;
  for (const std::string& name : source->names()) {
    const auto shape = source->shape(name);
    at::Tensor value = at::empty(std::vector<int64_t>(shape.begin(), shape.end()), at::kFloat);
    source->load(name, {value.data_ptr<float>(), static_cast<size_t>(value.numel())});
    tensors.push_back(trained_tensor(name, value));
  }
  return tensors;
}

// A text with something to learn: each token is likely followed by its successor.
std::vector<int32_t> text_of(size_t count, size_t vocabulary) {
  RandomStream random(5, "text");
  std::vector<int32_t> tokens(count);
  for (size_t i = 1; i < count; ++i) {
    const bool jump = random.uniform() < 0.2;
    tokens[i] = static_cast<int32_t>(
        jump ? random.below(vocabulary) : (static_cast<uint64_t>(tokens[i - 1]) + 1) % vocabulary);
  }
  return tokens;
}

TEST(GradientStepTest, EqualsOnePassOverTheWholeBatch) {
  for (const bool tied_head : {false, true}) {
    const ModelSpec spec = tiny_spec(tied_head);
    const Decoder decoder(spec, nullptr);
    const auto text = text_of(2000, spec.vocab_size);
    DataOrder data(text, 16, 7, 0);
    const TrainingBatch batch = data.batch(0);

    std::vector<TrainedTensor> tensors = tensors_of(spec);
    ParameterMap parameters;
    for (const TrainedTensor& tensor : tensors) {
      parameters[tensor.name] = tensor.value.clone().set_requires_grad(true);
    }
    const at::Tensor hidden = decoder.hidden_states(batch.inputs, parameters).flatten(0, 1);
    const at::Tensor loss = decoder.loss_sum(hidden, batch.targets.flatten(), parameters) /
                            static_cast<double>(batch.inputs.numel());
    loss.backward();

    GradientStep step(decoder, {3, ops::MatmulDtype::f32}, tensors);
    // The second run starts from cleared buffers.
    for (int repeat = 0; repeat < 2; ++repeat) {
      EXPECT_NEAR(step.run(batch), loss.item<double>(), 1e-6);
      for (size_t t = 0; t < tensors.size(); ++t) {
        const at::Tensor expected = parameters[tensors[t].name].grad();
        EXPECT_LT((step.gradients()[t] - expected).norm().item<double>(),
                  1e-5 * expected.norm().item<double>())
            << tensors[t].name;
      }
      EXPECT_NEAR(step.norm(), global_norm(step.gradients()), 1e-9);
    }
  }
}

// Losses of a short training.
std::vector<double> train_briefly(ops::MatmulDtype dtype, size_t threads, int steps) {
  const size_t before = thread_count();
  set_thread_count(threads);
  const ModelSpec spec = tiny_spec(false);
  const Decoder decoder(spec, nullptr);
  const auto text = text_of(20000, spec.vocab_size);
  DataOrder data(text, 16, 16, 0);
  std::vector<TrainedTensor> tensors = tensors_of(spec);
  GradientStep step(decoder, {4, dtype}, tensors);
  std::vector<double> losses;
  for (int i = 0; i < steps; ++i) {
    losses.push_back(step.run(data.batch(static_cast<uint64_t>(i))));
    adamw_step(tensors, step.gradients(), step.norm(), 3e-3, static_cast<uint64_t>(i), {});
  }
  set_thread_count(before);
  return losses;
}

TEST(GradientStepTest, IsBitIdenticalForAnyNumberOfThreads) {
  for (const auto dtype : {ops::MatmulDtype::f32, ops::MatmulDtype::bf16}) {
    EXPECT_EQ(train_briefly(dtype, 1, 5), train_briefly(dtype, 3, 5));
  }
}

TEST(GradientStepTest, Bf16TrainingAgreesWithF32) {
  constexpr int kSteps = 150, kTail = 20;
  const auto f32 = train_briefly(ops::MatmulDtype::f32, 2, kSteps);
  const auto bf16 = train_briefly(ops::MatmulDtype::bf16, 2, kSteps);
  EXPECT_LT(f32.back(), 0.6 * f32.front());
  double difference = 0;
  for (int i = kSteps - kTail; i < kSteps; ++i) {
    difference += (bf16[static_cast<size_t>(i)] - f32[static_cast<size_t>(i)]) / kTail;
  }
  EXPECT_LT(std::abs(difference), 0.01);
}

}  // namespace
}  // namespace fewbit
