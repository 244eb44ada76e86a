#include "fewbit/train/quantizer_rules.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/train/fake_quant_testing.h"
#include "fewbit/train/schedule.h"

namespace fewbit {
namespace {

using testing::fixture_tensor;
using testing::largest_difference;
using testing::leaf;
using testing::metadata_integer;
using testing::metadata_number;
using testing::metadata_true;
using testing::relative_difference;
using testing::same_values;

// The reference spells ternary as 0 bits.
std::string bits_word(const std::string& w_bits) { return w_bits == "0" ? "1.58" : w_bits; }

struct Outcome {
  at::Tensor values, weight_gradient, scale_gradient, codes;
};

Outcome run(const LevelRule& rule, const ScaleGroups& groups, const at::Tensor& weight,
            const at::Tensor& scale, const at::Tensor& gradient) {
  const at::Tensor w = leaf(weight), a = leaf(scale.reshape({groups.count(), 1}));
  const at::Tensor out = groups.join(level_fake_quant(groups.split(w), a, at::Tensor(), rule));
  out.backward(gradient);
  return {out.detach(), w.grad(), a.grad(),
          level_codes(groups.split(weight), a.detach(), at::Tensor(), rule)};
}

// Gradients of the reference are computed with 5e-5 of their largest entry.
constexpr double kScaleTolerance = 5e-5;

FEWBIT_FIXTURE_TEST(ParetoQFixture, "paretoq", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  const at::Tensor w = fixture_tensor(file, "W"), alpha = fixture_tensor(file, "alpha");
  const at::Tensor gradient = fixture_tensor(file, "grad_out");
  const int64_t rows = w.size(0), cols = w.size(1);
  const ScaleGroups groups =
      alpha.numel() == 1 ? ScaleGroups::per_matrix(rows, cols) : ScaleGroups::per_row(rows, cols);
  const std::vector<std::string> all_bits = testing::metadata_list(file, "w_bits");
  for (const std::string& bits : all_bits) {
    SCOPED_TRACE("w_bits " + bits);
    const std::string suffix = all_bits.size() > 1 ? "_" + bits : "";
    const ParetoQOptions compatible{.compatible = true};
    const LevelRule rule = paretoq_quantizer(bits_word(bits), groups, compatible).rule;
    if (file.metadata().contains("grad_scale")) {
      EXPECT_NEAR(rule.gradient.factor, metadata_number(file, "grad_scale"), 1e-12);
    }
    const Outcome outcome = run(rule, groups, w, alpha, gradient);
    EXPECT_LT(largest_difference(outcome.values, fixture_tensor(file, "Wq" + suffix)), 1e-6);
    EXPECT_TRUE(same_values(outcome.weight_gradient, fixture_tensor(file, "dW" + suffix)));
    EXPECT_LT(relative_difference(outcome.scale_gradient, fixture_tensor(file, "dalpha" + suffix)),
              kScaleTolerance);
    if (file.contains("codes")) {
      const LevelGrid& grid = rule.grid;
      // Signed codes are levels; binary and 2-bit codes count from 0.
      const int first = grid.level_step == 1 ? grid.first_level : 0;
      EXPECT_TRUE(same_values(outcome.codes.to(at::kLong) + first, fixture_tensor(file, "codes")));
    }
    if (file.contains("dalpha_consistent")) {
      const Outcome consistent =
          run(paretoq_quantizer(bits_word(bits), groups).rule, groups, w, alpha, gradient);
      EXPECT_LT(
          relative_difference(consistent.scale_gradient, fixture_tensor(file, "dalpha_consistent")),
          kScaleTolerance);
    }
  }
}

FEWBIT_FIXTURE_TEST(LsqFixture, "lsq", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  const at::Tensor v = fixture_tensor(file, "v"), step = fixture_tensor(file, "s");
  const int bits = metadata_integer(file, "bits");
  const bool is_unsigned = metadata_integer(file, "Qn") == 0;
  const LevelGrid grid = is_unsigned ? unsigned_grid(bits) : signed_grid(bits);
  ASSERT_EQ(-grid.first_level, metadata_integer(file, "Qn"));
  ASSERT_EQ(grid.last_level(), metadata_integer(file, "Qp"));
  const ScaleGroups groups = metadata_true(file, "per_row")
                                 ? ScaleGroups::per_row(v.size(0), v.size(1))
                                 : ScaleGroups::per_matrix(v.size(0), v.size(1));
  const LevelRule rule = lsq_rule(grid, groups.length());
  EXPECT_NEAR(rule.gradient.factor, metadata_number(file, "grad_scale"), 1e-12);

  const at::Tensor start = scale_statistic(groups.split(v), lsq_start(grid));
  EXPECT_LT(relative_difference(start, fixture_tensor(file, "s_init")), 1e-6);
  const Outcome outcome = run(rule, groups, v, step, fixture_tensor(file, "grad_out"));
  EXPECT_LT(largest_difference(outcome.values, fixture_tensor(file, "vq")), 1e-6);
  EXPECT_TRUE(same_values(outcome.weight_gradient, fixture_tensor(file, "dv")));
  EXPECT_LT(relative_difference(outcome.scale_gradient, fixture_tensor(file, "ds")), 1e-4);
  EXPECT_LT(relative_difference(outcome.scale_gradient / rule.gradient.factor,
                                fixture_tensor(file, "ds_unscaled")),
            1e-4);
  EXPECT_TRUE(
      same_values(outcome.codes.to(at::kLong) + grid.first_level, fixture_tensor(file, "codes")));
}

FEWBIT_FIXTURE_TEST(TrilmFixture, "trilm", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  const at::Tensor weight = leaf(fixture_tensor(file, "w")), x = leaf(fixture_tensor(file, "x"));
  const ScaleGroups groups =
      ScaleGroups::per_matrix(weight.size(0), weight.size(1), metadata_integer(file, "shards"));
  const bool binary = file.metadata("method") == "bilm";
  const auto quantizer =
      make_level_fake_quant(binary ? bilm_quantizer(groups) : trilm_quantizer(groups), weight);
  const at::Tensor effective = quantizer->forward(weight);
  const at::Tensor y = at::matmul(x, effective.t());
  y.backward(fixture_tensor(file, "grad_out"));

  constexpr double kTolerance = 1e-6;
  const QuantizedTensor stored = quantizer->quantize(weight);
  EXPECT_LT(relative_difference(stored.scales, fixture_tensor(file, "scale")), kTolerance);
  EXPECT_TRUE(same_values(stored.integers(), fixture_tensor(file, "codes")));
  EXPECT_LT(relative_difference(effective, fixture_tensor(file, "w_eff")), kTolerance);
  EXPECT_LT(relative_difference(y, fixture_tensor(file, "y")), kTolerance);
  EXPECT_LT(relative_difference(x.grad(), fixture_tensor(file, "dx")), kTolerance);
  EXPECT_LT(relative_difference(weight.grad(), fixture_tensor(file, "dw")), kTolerance);
}

FEWBIT_FIXTURE_TEST(LlmQatWeightFixture, "llm-qat", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (!file.contains("W")) GTEST_SKIP() << "not a case of weights";
  const at::Tensor weight = leaf(fixture_tensor(file, "W")), x = leaf(fixture_tensor(file, "x"));
  const ScaleGroups groups = ScaleGroups::per_row(weight.size(0), weight.size(1));
  const auto quantizer =
      make_level_fake_quant(llm_qat_quantizer(metadata_integer(file, "w_bits"), groups), weight);
  const at::Tensor y = at::matmul(x, quantizer->forward(weight).t());
  y.backward(fixture_tensor(file, "grad_out"));
  EXPECT_LT(relative_difference(y, fixture_tensor(file, "y")), 1e-5);
  EXPECT_LT(relative_difference(x.grad(), fixture_tensor(file, "dx")), 1e-5);
  EXPECT_LT(relative_difference(weight.grad(), fixture_tensor(file, "dW")), 1e-5);
}

// Two linear layers under ParetoQ's quantizer: accumulate, clip by the global norm, AdamW.
class GoldenTrajectory {
 public:
  explicit GoldenTrajectory(const SafetensorsFile& file)
      : file_(file),
        steps_(metadata_integer(file, "steps")),
        accumulation_(metadata_integer(file, "accumulation")),
        training_(optimizer_of(file)) {
    schedule_.kind = ScheduleKind::cosine;
    schedule_.peak = metadata_number(file, "peak_lr");
    schedule_.warmup_steps = static_cast<uint64_t>(metadata_integer(file, "warmup_steps"));
    schedule_.floor_fraction = 0;
    for (const std::string layer : {"1", "2"}) {
      const at::Tensor w = fixture_tensor(file, "W" + layer);
      const ScaleGroups groups = ScaleGroups::per_row(w.size(0), w.size(1));
      rules_.push_back(
          paretoq_quantizer(bits_word(file.metadata("w_bits")), groups, {.compatible = true}).rule);
      training_.add(leaf(w), true);
      training_.add(leaf(fixture_tensor(file, "alpha" + layer + "_init")),
                    metadata_number(file, "weight_decay_on_alpha") != 0);
    }
  }

  void run() {
    const at::Tensor x = fixture_tensor(file_, "X"), y = fixture_tensor(file_, "Y");
    for (int step = 0; step < steps_; ++step) {
      double loss = 0;
      for (int micro = 0; micro < accumulation_; ++micro) {
        const at::Tensor part =
            (predict(x[step][micro]) - y[step][micro]).square().mean() / accumulation_;
        part.backward();
        loss += part.item<double>();
      }
      losses.push_back(loss);
      learning_rates.push_back(
          learning_rate(schedule_, static_cast<uint64_t>(step), static_cast<uint64_t>(steps_)));
      norms.push_back(training_.step(learning_rates.back()));
    }
  }

  const at::Tensor& parameter(size_t i) const { return training_.leaf(i); }
  std::vector<double> losses, norms, learning_rates;

 private:
  static AdamWOptions optimizer_of(const SafetensorsFile& file) {
    const std::vector<std::string> betas = testing::metadata_list(file, "betas");
    return {.beta1 = std::stod(betas.at(0)),
            .beta2 = std::stod(betas.at(1)),
            .epsilon = metadata_number(file, "adam_eps"),
            .weight_decay = metadata_number(file, "weight_decay"),
            .clip_norm = metadata_number(file, "clip_norm")};
  }

  at::Tensor predict(const at::Tensor& x) const {
    const auto weight = [&](size_t layer) {
      return level_fake_quant(parameter(2 * layer), parameter(2 * layer + 1), at::Tensor(),
                              rules_[layer]);
    };
    return at::matmul(at::matmul(x, weight(0).t()).relu(), weight(1).t());
  }

  const SafetensorsFile& file_;
  int steps_, accumulation_;
  std::vector<LevelRule> rules_;
  testing::Training training_;
  Schedule schedule_;
};

FEWBIT_FIXTURE_TEST(QatTrainFixture, "qat-train", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  GoldenTrajectory trajectory(file);
  trajectory.run();
  const at::Tensor losses = fixture_tensor(file, "losses");
  const at::Tensor norms = fixture_tensor(file, "grad_norms"), rates = fixture_tensor(file, "lrs");
  for (size_t step = 0; step < trajectory.losses.size(); ++step) {
    const auto at_step = [&](const at::Tensor& t) {
      return t[static_cast<int64_t>(step)].item<double>();
    };
    EXPECT_NEAR(trajectory.losses[step] / at_step(losses), 1, 1e-4) << "step " << step;
    EXPECT_NEAR(trajectory.norms[step] / at_step(norms), 1, 1e-4) << "step " << step;
    EXPECT_NEAR(trajectory.learning_rates[step], at_step(rates), 1e-8) << "step " << step;
  }
  const char* const finals[] = {"W1_final", "alpha1_final", "W2_final", "alpha2_final"};
  for (size_t i = 0; i < std::size(finals); ++i) {
    EXPECT_LT(largest_difference(trajectory.parameter(i), fixture_tensor(file, finals[i])), 1e-4)
        << finals[i];
  }
  const at::Tensor change = fixture_tensor(file, "rel_l1_change");
  for (const int layer : {0, 1}) {
    const at::Tensor start = fixture_tensor(file, layer == 0 ? "W1" : "W2");
    const at::Tensor end = trajectory.parameter(static_cast<size_t>(2 * layer)).detach();
    const double relative = ((end - start).abs().sum() / start.abs().sum()).item<double>();
    EXPECT_NEAR(relative, change[layer].item<double>(), 1e-4);
  }
}

}  // namespace
}  // namespace fewbit
