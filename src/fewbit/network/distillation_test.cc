#include "fewbit/network/distillation.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "fewbit/base/error.h"

namespace fewbit::ops {
namespace {

struct Case {
  LogitSource student, teacher;
  at::Tensor targets;
};

Case make_case(int64_t rows, bool bias, std::optional<double> softcap) {
  constexpr int64_t kFeatures = 7, kVocabulary = 11;
  torch::manual_seed(rows);
  const auto source = [&](bool trained) {
    LogitSource s;
    s.hidden = torch::randn({rows, kFeatures}).set_requires_grad(trained);
    s.weight = torch::randn({kVocabulary, kFeatures}).set_requires_grad(trained);
    if (bias) s.head.bias = torch::randn({kVocabulary}).set_requires_grad(trained);
    s.head.softcap = softcap;
    return s;
  };
  return {source(true), source(false), torch::randint(kVocabulary, {rows}, at::kLong)};
}

at::Tensor logits_of(const LogitSource& s) {
  at::Tensor logits = s.hidden.matmul(s.weight.t());
  if (s.head.bias.defined()) logits = logits + s.head.bias;
  if (s.head.softcap) logits = (logits / *s.head.softcap).tanh() * *s.head.softcap;
  return logits;
}

at::Tensor expected_loss(const Case& c, const DistillationOptions& options) {
  const double tau = options.temperature;
  const at::Tensor log_q = at::log_softmax(logits_of(c.student) / tau, -1);
  const at::Tensor log_p = at::log_softmax(logits_of(c.teacher) / tau, -1);
  const bool forward = options.divergence == Divergence::forward;
  const at::Tensor divergence =
      forward ? log_p.exp() * (log_p - log_q) : log_q.exp() * (log_q - log_p);
  const at::Tensor entropy =
      at::cross_entropy_loss(logits_of(c.student), c.targets, {}, at::Reduction::Sum);
  return (1 - options.cross_entropy_share) * tau * tau * divergence.sum() +
         options.cross_entropy_share * entropy;
}

TEST(DistillationTest, LossAndGradientsAreThoseOfTheFormulas) {
  for (const auto divergence : {Divergence::forward, Divergence::reverse}) {
    for (const double tau : {1.0, 2.5}) {
      for (const double share : {0.0, 0.3, 1.0}) {
        for (const bool bias : {false, true}) {
          const Case c = make_case(130, bias, bias ? std::optional<double>(5.0) : std::nullopt);
          const DistillationOptions options{divergence, tau, share};
          std::vector<at::Tensor> leaves = {c.student.hidden, c.student.weight};
          if (bias) leaves.push_back(c.student.head.bias);
          const at::Tensor expected = expected_loss(c, options);
          const auto wanted = torch::autograd::grad({expected}, leaves);
          const at::Tensor loss = distillation_sum(c.student, c.teacher, c.targets, options);
          EXPECT_NEAR(loss.item<double>(), expected.item<double>(),
                      2e-5 * std::abs(expected.item<double>()));
          const auto got = torch::autograd::grad({loss}, leaves);
          for (size_t i = 0; i < leaves.size(); ++i) {
            EXPECT_LT((got[i] - wanted[i]).norm().item<double>(),
                      1e-4 * (1 + wanted[i].norm().item<double>()));
          }
        }
      }
    }
  }
}

TEST(DistillationTest, AStudentThatIsItsTeacherHasNoLossAndNoGradient) {
  for (const auto divergence : {Divergence::forward, Divergence::reverse}) {
    Case c = make_case(9, true, std::nullopt);
    c.teacher = {c.student.hidden.detach(),
                 c.student.weight.detach(),
                 {c.student.head.bias.detach() + 3.0, {}}};  // A constant shift says the same.
    const at::Tensor loss = distillation_sum(c.student, c.teacher, c.targets, {divergence});
    EXPECT_NEAR(loss.item<double>(), 0, 1e-5);
    const auto gradients = torch::autograd::grad({loss}, {c.student.hidden});
    EXPECT_LT(gradients[0].abs().max().item<double>(), 1e-5);
  }
}

TEST(DistillationTest, OnlyTheCrossEntropyIsCrossEntropySum) {
  const Case c = make_case(40, false, std::nullopt);
  const at::Tensor loss =
      distillation_sum(c.student, c.teacher, c.targets, {.cross_entropy_share = 1});
  EXPECT_NEAR(loss.item<double>(),
              cross_entropy_sum(c.student.hidden, c.student.weight, c.targets).item<double>(),
              1e-3);
}

TEST(DistillationTest, AnotherVocabularyIsRefused) {
  Case c = make_case(4, false, std::nullopt);
  c.teacher.weight = torch::randn({12, 7});
  EXPECT_THROW((void)distillation_sum(c.student, c.teacher, c.targets, {}), Error);
}

}  // namespace
}  // namespace fewbit::ops
