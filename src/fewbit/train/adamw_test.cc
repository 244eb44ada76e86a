#include "fewbit/train/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/threads.h"

namespace fewbit {
namespace {

// The update in double, one value at a time, as the paper has it.
class Reference {
 public:
  explicit Reference(const at::Tensor& value, bool decay) : decay_(decay) {
    const float* data = value.data_ptr<float>();
    value_.assign(data, data + value.numel());
    m_.resize(value_.size());
    v_.resize(value_.size());
  }
  void update(const at::Tensor& gradient, double clip, double rate, int step,
              const AdamWOptions& options) {
    const float* g = gradient.data_ptr<float>();
    for (size_t i = 0; i < value_.size(); ++i) {
      const double scaled = g[i] * clip;
      m_[i] = options.beta1 * m_[i] + (1 - options.beta1) * scaled;
      v_[i] = options.beta2 * v_[i] + (1 - options.beta2) * scaled * scaled;
      const double m = m_[i] / (1 - std::pow(options.beta1, step + 1));
      const double v = v_[i] / (1 - std::pow(options.beta2, step + 1));
      if (decay_) value_[i] *= 1 - rate * options.weight_decay;
      value_[i] -= rate * m / (std::sqrt(v) + options.epsilon);
    }
  }
  double worst(const at::Tensor& actual) const {
    double worst = 0;
    for (size_t i = 0; i < value_.size(); ++i) {
      worst = std::max(worst, std::abs(actual.data_ptr<float>()[i] - value_[i]));
    }
    return worst;
  }

 private:
  std::vector<double> value_, m_, v_;
  bool decay_;
};

TEST(AdamWTest, FollowsThePaperWithClippingAndGroups) {
  at::manual_seed(1);
  AdamWOptions options;
  options.clip_norm = 3;
  std::vector<TrainedTensor> tensors = {trained_tensor("matrix", at::randn({13, 7})),
                                        trained_tensor("norm", at::ones({31})),
                                        trained_tensor("slow", at::randn({2, 3}))};
  EXPECT_TRUE(tensors[0].decay);
  EXPECT_FALSE(tensors[1].decay);
  tensors[2].rate_factor = 0.25;
  std::vector<Reference> references;
  for (const TrainedTensor& tensor : tensors) references.emplace_back(tensor.value, tensor.decay);
  for (int step = 0; step < 20; ++step) {
    const std::vector<at::Tensor> gradients = {at::randn({13, 7}), at::randn({31}) * 0.1,
                                               at::randn({2, 3}) * 1e-4};
    const double norm = global_norm(gradients);
    const double clip = std::min(1.0, options.clip_norm / (norm + 1e-6));
    EXPECT_LT(clip, 1);
    const double rate = 0.01 / (1 + step);
    adamw_step(tensors, gradients, norm, rate, static_cast<uint64_t>(step), options);
    for (size_t t = 0; t < tensors.size(); ++t) {
      references[t].update(gradients[t], clip, rate * tensors[t].rate_factor, step, options);
    }
  }
  for (size_t t = 0; t < tensors.size(); ++t) {
    EXPECT_LT(references[t].worst(tensors[t].value), 2e-6) << tensors[t].name;
  }
}

TEST(AdamWTest, WithoutAClipNormGradientsStayAsTheyAre) {
  AdamWOptions options;
  options.clip_norm = 0;
  options.weight_decay = 0;
  std::vector<TrainedTensor> tensors = {trained_tensor("x", at::zeros({4}))};
  adamw_step(tensors, {at::full({4}, 1000.0f)}, 2000, 0.5, 0, options);
  // The first update of Adam has the size of the rate, whatever the gradient.
  EXPECT_NEAR(tensors[0].value[0].item<float>(), -0.5, 1e-6);
}

TEST(AdamWTest, KeepsTheBf16CopyEqualToTheRoundedValue) {
  at::manual_seed(2);
  std::vector<TrainedTensor> tensors = {trained_tensor("x", at::randn({5, 9}))};
  tensors[0].bf16_copy = at::empty({5, 9}, at::kBFloat16);
  adamw_step(tensors, {at::randn({5, 9})}, 1, 0.1, 0, {});
  EXPECT_TRUE(at::equal(tensors[0].bf16_copy, tensors[0].value.to(at::kBFloat16)));
}

TEST(AdamWTest, ShardsAreAddedInOrderForAnyNumberOfThreads) {
  const size_t before = thread_count();
  std::vector<at::Tensor> sums;
  std::vector<double> norms;
  for (const size_t threads : {1, 3}) {
    set_thread_count(threads);
    at::manual_seed(4);
    std::vector<std::vector<at::Tensor>> shards;
    for (int s = 0; s < 3; ++s) shards.push_back({at::randn({300, 700}), at::randn({11})});
    const at::Tensor expected = shards[0][0] + shards[1][0] + shards[2][0];
    norms.push_back(reduce_gradients(shards));
    sums.push_back(shards[0][0]);
    EXPECT_TRUE(at::equal(shards[0][0], expected));
    const double squares = shards[0][0].to(at::kDouble).square().sum().item<double>() +
                           shards[0][1].to(at::kDouble).square().sum().item<double>();
    EXPECT_NEAR(norms.back(), std::sqrt(squares), 1e-6 * std::sqrt(squares));
  }
  EXPECT_EQ(norms[0], norms[1]);
  EXPECT_TRUE(at::equal(sums[0], sums[1]));
  set_thread_count(before);
}

}  // namespace
}  // namespace fewbit
