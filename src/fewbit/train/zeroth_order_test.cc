#include "fewbit/train/zeroth_order.h"

#include <torch/torch.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/train/training_testing.h"

namespace fewbit {
namespace {

TrainingRun forward_only(const std::string& quantizer, const std::string& layers = "*") {
  TrainingRun run = run_of(quantizer);
  run.schedule.peak = run.qat_schedule.peak = 1e-3;
  run.zeroth_order = ZerothOrder{.epsilon = 1e-3, .trained = LayerSelection(layers)};
  return run;
}

TEST(ZerothOrderTest, DirectionsAreStandardNormalAndDependOnTheirNamesOnly) {
  at::Tensor a = at::zeros({300, 200}), b = at::zeros({300, 200}), c = at::zeros({300, 200});
  const size_t before = thread_count();
  set_thread_count(1);
  add_direction(a, 1, 7, 3, 0, "x");
  set_thread_count(3);
  add_direction(b, 1, 7, 3, 0, "x");
  set_thread_count(before);
  add_direction(c, 1, 7, 4, 0, "x");
  EXPECT_TRUE(at::equal(a, b));
  EXPECT_FALSE(at::equal(a, c));
  EXPECT_NEAR(a.mean().item<double>(), 0, 0.02);
  EXPECT_NEAR(a.std().item<double>(), 1, 0.02);
  EXPECT_NEAR((a * c).mean().item<double>(), 0, 0.02);
}

TEST(ZerothOrderTest, SlopeIsTheGradientAlongTheDirection) {
  const TrainingRun run = forward_only("");
  TrainingState state(run.spec, *random_tensors(run.spec, 3, 0.1), false);
  const Decoder decoder(run.spec, nullptr);
  const auto tokens = tokens_of(2000);
  DataOrder data(tokens, kContext, run.sequences, 0);
  const TrainingBatch batch = data.batch(0);
  for (TrainedTensor& tensor : state.tensors) tensor.trained = true;
  GradientStep gradient(decoder, {2}, state.tensors);
  const double loss = gradient.run(batch);
  double expected = 0;
  for (size_t t = 0; t < state.tensors.size(); ++t) {
    at::Tensor direction = at::zeros_like(state.tensors[t].value);
    add_direction(direction, 1, 5, 0, 0, state.tensors[t].name);
    expected += (gradient.gradients()[t] * direction).sum(at::kDouble).item<double>();
  }
  // Small enough for the third derivative, large enough for float32.
  ZerothOrder options = *run.zeroth_order;
  options.epsilon = 3e-4;
  ZerothOrderStep step(decoder, options, ops::MatmulDtype::f32, state.tensors, nullptr);
  EXPECT_NEAR(step.measure(batch, 5, 0), loss, 1e-3);
  EXPECT_NEAR(step.slopes()[0], expected, 0.02 * std::abs(expected) + 2e-3);
}

TEST(ZerothOrderTest, ARunIsPlayedAgainFromItsSlopes) {
  const TrainingText text = text_of(4000);
  for (const char* layers : {"*", "blocks.*.attn.q+blocks.*.attn.v"}) {
    TrainingRun run = forward_only("minmax:bits=4", layers);
    run.zeroth_order->directions = 2;
    Trainer trainer(run, text.tokens);
    TrainingState replayed(run.spec, *random_tensors(run.spec, run.seed), false);
    while (trainer.state().step < run.total_steps()) {
      const uint64_t step = trainer.state().step;
      const Update update = trainer.update();
      EXPECT_EQ(update.slopes.size(), 2u);
      replay_direction(replayed.tensors, *run.zeroth_order, update.slopes, update.rate, run.seed,
                       step);
    }
    for (size_t t = 0; t < replayed.tensors.size(); ++t) {
      EXPECT_TRUE(at::equal(replayed.tensors[t].value, trainer.state().tensors[t].value));
    }
  }
}

TEST(ZerothOrderTest, LowersTheLossOfAQuantizedModelAndResumesToTheBit) {
  TrainingRun run = forward_only("llm-qat:bits=3");
  // One batch is the whole text, so that losses compare.
  const TrainingText text = text_of(run.tokens_per_step() + 1);
  run.total_tokens = 150 * run.tokens_per_step();
  Trainer trainer(run, text.tokens);
  const Trained expected = train_steps(trainer, run.total_steps());
  double first = 0, last = 0;
  constexpr size_t kMean = 30;
  for (size_t i = 0; i < kMean; ++i) {
    first += expected.losses[i];
    last += expected.losses[expected.losses.size() - 1 - i];
  }
  EXPECT_LT(last, first);
  const testing::TemporaryDirectory folder;
  const size_t before = thread_count();
  set_thread_count(3);
  Trainer half(run, text.tokens);
  (void)train_steps(half, 70);
  half.save(folder / "state", "hash");
  Trainer rest(run, text.tokens);
  rest.load(folder / "state", "hash");
  expect_equal(train_steps(rest, run.total_steps()).values, expected.values);
  set_thread_count(before);
}

TEST(ZerothOrderTest, ASelectionOfNothingIsRefused) {
  const TrainingText text = text_of(4000);
  Trainer trainer(forward_only("", "blocks.9.*"), text.tokens);
  EXPECT_THROW((void)trainer.update(), Error);
}

}  // namespace
}  // namespace fewbit
