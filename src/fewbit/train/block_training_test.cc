#include "fewbit/train/block_training.h"

#include <torch/torch.h>

#include "fewbit/base/threads.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/train/training_testing.h"

namespace fewbit {
namespace {

// A run whose model has learned something before its blocks are trained.
TrainingRun two_phases() {
  TrainingRun run = run_of("efficientqat:bits=2,group_size=32");
  run.total_tokens = 40 * run.tokens_per_step();
  run.qat_share = 0.5;
  run.qat_schedule.peak = 1e-3;
  run.quantizers.scales_only = true;
  run.block_phase =
      BlockPhase{.sequences = 24, .batch = 4, .epochs = 8, .rate = 1e-3, .weight_rate = 1e-3};
  return run;
}

TEST(BlockTrainingTest, EveryBlockComesNearerToItsFloatSelf) {
  const TrainingText text = text_of(4000);
  const TrainingRun run = two_phases();
  Trainer trainer(run, text.tokens);
  (void)train_steps(trainer, run.float_steps() + 1);
  ASSERT_EQ(trainer.block_outcomes().size(), 2u);
  for (const BlockOutcome& outcome : trainer.block_outcomes()) {
    EXPECT_LT(outcome.after, outcome.before) << outcome.block;
  }
}

TEST(BlockTrainingTest, WithoutEpochsItIsRounding) {
  const TrainingText text = text_of(4000);
  TrainingRun run = two_phases();
  run.block_phase->epochs = 0;
  Trainer with(run, text.tokens);
  const Trained trained = train_steps(with, run.float_steps() + 1);
  run.block_phase.reset();
  Trainer without(run, text.tokens);
  expect_equal(train_steps(without, run.float_steps() + 1).values, trained.values);
}

TEST(BlockTrainingTest, TheSecondPhaseTrainsScalesAlone) {
  const TrainingText text = text_of(4000);
  const TrainingRun run = two_phases();
  Trainer trainer(run, text.tokens);
  const Trained start = train_steps(trainer, run.float_steps() + 1);
  std::vector<at::Tensor> codes;
  for (const QuantizedLayer& layer : trainer.state().quantizers.layers) {
    codes.push_back(layer.quantizer->codes(layer.latent).clone());
  }
  const Trained end = train_steps(trainer, run.total_steps());
  for (size_t l = 0; l < codes.size(); ++l) {
    const QuantizedLayer& layer = trainer.state().quantizers.layers[l];
    EXPECT_TRUE(at::equal(layer.quantizer->codes(layer.latent), codes[l])) << layer.name;
  }
  size_t changed = 0;
  for (size_t t = 0; t < end.values.size(); ++t) {
    const TrainedTensor& tensor = trainer.state().tensors[t];
    EXPECT_EQ(tensor.trained, tensor.name.ends_with(".scale")) << tensor.name;
    if (!at::equal(end.values[t], start.values[t])) {
      ++changed;
      EXPECT_TRUE(tensor.name.ends_with(".scale")) << tensor.name;
    }
  }
  EXPECT_EQ(changed, 14u);
}

TEST(BlockTrainingTest, ThreadsAndInterruptionsDoNotChangeABit) {
  const TrainingText text = text_of(4000);
  const TrainingRun run = two_phases();
  const size_t before = thread_count();
  set_thread_count(1);
  Trainer straight(run, text.tokens);
  const Trained expected = train_steps(straight, run.total_steps());
  set_thread_count(3);
  const testing::TemporaryDirectory folder;
  for (const uint64_t stop : {20u, 30u}) {
    Trainer first(run, text.tokens);
    (void)train_steps(first, stop);
    first.save(folder / "state", "hash");
    Trainer second(run, text.tokens);
    second.load(folder / "state", "hash");
    expect_equal(train_steps(second, run.total_steps()).values, expected.values);
  }
  set_thread_count(before);
}

}  // namespace
}  // namespace fewbit
