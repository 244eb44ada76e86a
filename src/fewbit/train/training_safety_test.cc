// Spikes, values that are not finite, teachers, learning-rate ranges and estimates.
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/threads.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/train/rate_range.h"
#include "fewbit/train/run_estimate.h"
#include "fewbit/train/training_testing.h"

namespace fewbit {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(SpikeGuardTest, SkipsThenGoesBackAndRemembersItExactly) {
  const SpikePolicy policy{.window = 16, .patience = 2};
  SpikeGuard guard;
  using Verdict = SpikeGuard::Verdict;
  for (int i = 0; i < 20; ++i) EXPECT_EQ(guard.judge(policy, 3.0, 1.0 / 3), Verdict::accept);
  EXPECT_EQ(guard.judge(policy, 3.1, 4.0), Verdict::skip);  // The norm alone.
  EXPECT_EQ(guard.judge(policy, 3.0, 0.3), Verdict::accept);
  EXPECT_EQ(guard.passed_batches(), 1u);
  EXPECT_EQ(guard.judge(policy, 5.5, 0.3), Verdict::skip);  // The loss alone.
  EXPECT_EQ(guard.judge(policy, kNan, kNan), Verdict::skip);
  SpikeGuard copy;
  copy.load(guard.save());
  EXPECT_EQ(copy.save(), guard.save());
  EXPECT_EQ(guard.judge(policy, 3.0, 9.0), Verdict::go_back);
  EXPECT_EQ(copy.judge(policy, 3.0, 9.0), Verdict::go_back);

  SpikeGuard saved;  // As it was at step 10; the spikes came at step 21.
  saved.gone_back(policy, guard, 10, 21);
  EXPECT_EQ(saved.passed_batches(), guard.passed_batches() + 11);
  EXPECT_DOUBLE_EQ(saved.rate_scale(), policy.rate_factor);
  const SpikePolicy strict{.most_returns = 1};
  EXPECT_THROW(SpikeGuard().gone_back(strict, saved, 10, 21), Error);
  EXPECT_THROW(SpikeGuard().load({}), Error);
}

TEST(TrainingSafetyTest, ALossThatIsNotFiniteStopsAtItsStepAndTensor) {
  const TrainingText text = text_of(4000);
  for (const char* quantizer : {"", "paretoq:bits=2"}) {
    TrainingRun run = run_of(quantizer);
    run.optimizer.clip_norm = 0;
    run.schedule.peak = run.qat_schedule.peak = 1e30;
    Trainer trainer(run, text.tokens);
    try {
      (void)train_steps(trainer, run.total_steps());
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("step 1"), std::string::npos) << error.what();
    }
  }
}

TEST(TrainingSafetyTest, ARunGoesBackFromSpikesAndResumesToTheBit) {
  const TrainingText text = text_of(4000);
  TrainingRun run = run_of("paretoq:bits=2");
  run.total_tokens = 60 * run.tokens_per_step();
  // So strict that ordinary noise is a spike now and then.
  run.spikes = SpikePolicy{.norm_factor = 1.15,
                           .loss_rise = 0.2,
                           .window = 8,
                           .patience = 0,
                           .most_returns = 1000,
                           .save_steps = 5};
  const testing::TemporaryDirectory straight, interrupted;
  (void)train(run, text, straight.path(), {});
  TrainingOptions stopping;
  struct Stop {};
  uint64_t left = 17;
  stopping.on_step = [&](uint64_t, double) {
    if (--left == 0) throw Stop{};
  };
  for (int kills = 0; kills < 3; ++kills, left = 13) {
    EXPECT_THROW((void)train(run, text, interrupted.path(), stopping), Stop);
  }
  (void)train(run, text, interrupted.path(), {});
  const auto model = std::filesystem::path("checkpoints") /
                     fmt::format("{:012}", run.total_tokens) / "model.safetensors";
  EXPECT_EQ(read_text_file(straight.path() / model, 1 << 24),
            read_text_file(interrupted.path() / model, 1 << 24));
  EXPECT_EQ(read_text_file(straight / "log.csv", 1 << 20),
            read_text_file(interrupted / "log.csv", 1 << 20));
}

TEST(TrainingSafetyTest, AccumulatedPassesAreOneBatch) {
  const auto tokens = tokens_of(2000);
  const TrainingRun run = run_of("lsq:bits=4");
  DataOrder data(tokens, kContext, run.sequences, 0);
  const TrainingBatch batch = data.batch(0);
  std::vector<at::Tensor> whole;
  for (const size_t pass_tokens : {size_t{100000}, kContext}) {
    TrainingState state(run.spec, *random_tensors(run.spec, 3, 0.1));
    state.start_quantizers(run.quantizers);
    const Decoder decoder(run.spec, nullptr);
    GradientStep step(decoder, {1, ops::MatmulDtype::f32, pass_tokens}, state.tensors,
                      &state.quantizers);
    (void)step.run(batch);
    for (size_t t = 0; t < state.tensors.size(); ++t) {
      const at::Tensor gradient = step.gradients()[t].clone();
      if (whole.size() <= t) {
        whole.push_back(gradient);
        continue;
      }
      EXPECT_LT((gradient - whole[t]).norm().item<double>(),
                1e-4 * whole[t].norm().item<double>() + 1e-9);
    }
  }
}

TEST(DistilledTrainingTest, AModelLearnsFromItselfAndResumesToTheBit) {
  const TrainingText text = text_of(4000);
  TrainingRun run = run_of("paretoq:bits=2");
  run.total_tokens = 60 * run.tokens_per_step();
  run.qat_share = 0.5;
  run.distillation = DistillationPlan{.hidden_weight = 0.1};
  Trainer straight(run, text.tokens);
  const Trained expected = train_steps(straight, run.total_steps());
  // The divergence from the teacher falls; it is far below the cross entropy.
  EXPECT_LT(expected.losses.back(), 0.9 * expected.losses[run.float_steps()]);
  const testing::TemporaryDirectory folder;
  Trainer first(run, text.tokens);
  (void)train_steps(first, 40);
  first.save(folder / "state", "hash");
  const size_t before = thread_count();
  set_thread_count(3);
  Trainer second(run, text.tokens);
  second.load(folder / "state", "hash");
  expect_equal(train_steps(second, run.total_steps()).values, expected.values);
  set_thread_count(before);
}

TEST(DistilledTrainingTest, AFloatStudentOfItselfHasNoLoss) {
  const auto tokens = tokens_of(2000);
  const TrainingRun run = run_of("");
  DataOrder data(tokens, kContext, run.sequences, 0);
  TrainingState state(run.spec, *random_tensors(run.spec, 3, 0.1));
  const Decoder decoder(run.spec, nullptr);
  GradientStep step(decoder, {2}, state.tensors);
  Teacher teacher{&decoder, {}, {}, 1.0};
  for (const TrainedTensor& tensor : state.tensors) {
    teacher.parameters[tensor.name] = tensor.value.clone();
  }
  step.set_teacher(&teacher);
  EXPECT_NEAR(step.run(data.batch(0)), 0, 1e-6);
  EXPECT_LT(step.norm(), 1e-4);
  ModelSpec other = run.spec;
  other.vocab_size += 1;
  EXPECT_THROW(check_teacher(other, run.spec, 0), Error);
  other = llama_spec(1, 64, 2, 64, kContext, false);
  other.vocab_size = kVocabulary;
  check_teacher(other, run.spec, 0);
  EXPECT_THROW(check_teacher(other, run.spec, 1), Error);
}

TEST(RateRangeTest, EndsWhereTheLossBreaksAwayAndSuggestsLess) {
  const TrainingText text = text_of(4000);
  const RateRangeResult result = test_rate_range(run_of(""), text.tokens, {1e-5, 1e3, 120});
  EXPECT_LT(result.points.size(), 120u);
  EXPECT_GT(result.lowest, 1e-3);
  EXPECT_LT(result.lowest, 1);
  EXPECT_LT(result.suggested, result.lowest);
  EXPECT_THROW((void)test_rate_range(run_of(""), text.tokens, {1e-2, 1e-3, 10}), Error);
}

TEST(RunEstimateTest, CountsWhatQuantizersAndTeachersAdd) {
  const TrainingRun plain = run_of("");
  TrainingRun quantized = run_of("paretoq:bits=2");
  const RunEstimate a = estimate(plain, 2), b = estimate(quantized, 2);
  EXPECT_EQ(a.packed_bytes, 0u);
  const uint64_t weights = 2 * (4 * 64 * 64 + 3 * 64 * 64);
  EXPECT_EQ(b.packed_bytes, weights / 4);
  EXPECT_EQ(b.working_bytes - a.working_bytes, 2 * sizeof(float) * weights);
  EXPECT_EQ(a.state_bytes, 12 * plain.spec.total_params());
  quantized.distillation = DistillationPlan{};
  EXPECT_EQ(estimate(quantized, 2).state_bytes, 16 * plain.spec.total_params());
  EXPECT_GT(timed_step(plain), 0);
}

}  // namespace
}  // namespace fewbit
