// Training under quantizers: gradients, what checkpoints hold, resuming, threads.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <filesystem>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/train/quantizer_registry.h"
#include "fewbit/train/training_testing.h"

namespace fewbit {
namespace {

// Mean loss of a checkpoint as it is stored, on the batch.
double stored_loss(const std::filesystem::path& path, const TrainingBatch& batch) {
  const Checkpoint checkpoint = open_checkpoint(path);
  const Decoder decoder(checkpoint.spec, checkpoint.tensors);
  const at::NoGradGuard no_gradient;
  const ParameterMap parameters = decoder.load_all_parameters();
  const at::Tensor hidden =
      decoder.hidden_states(batch.inputs, parameters, activation_hooks(checkpoint.activations));
  return decoder.loss_sum(hidden.flatten(0, 1), batch.targets.flatten(), parameters)
             .item<double>() /
         static_cast<double>(batch.inputs.numel());
}

TEST(LowBitTrainingTest, GradientsAreThoseOfOneGraphThroughQuantizersAndNetwork) {
  for (const char* line : {"paretoq:bits=2", "lsq:bits=3 | paretoq:bits=1,layers=blocks.0.mlp.down",
                           "efficientqat:bits=2,group_size=32 | lsq:bits=8,layers=embed+head",
                           "bitnet", "paretoq:bits=1.58,frozen_codes=true"}) {
    TrainingRun run = run_of(line, std::string(line) == "bitnet" ? "absmax:bits=8" : "");
    const auto text = tokens_of(2000);
    DataOrder data(text, kContext, run.sequences, 0);
    const TrainingBatch batch = data.batch(0);
    TrainingState state(run.spec, *random_tensors(run.spec, 3, 0.1));
    state.start_quantizers(run.quantizers);
    const Decoder decoder(run.spec, nullptr);
    GradientStep step(decoder, {run.shards, run.dtype, run.pass_tokens}, state.tensors,
                      &state.quantizers);
    const double loss = step.run(batch);

    ParameterMap parameters;
    for (const TrainedTensor& tensor : state.tensors) {
      parameters[tensor.name] = tensor.value.clone().set_requires_grad(true);
    }
    ParameterMap network = parameters;
    for (const QuantizedLayer& layer : state.quantizers.layers) {
      network[layer.name + ".weight"] =
          layer.quantizer->forward(parameters[layer.name + ".weight"]);
    }
    const at::Tensor hidden =
        decoder.hidden_states(batch.inputs, network, state.quantizers.sites.hooks());
    const at::Tensor expected =
        decoder.loss_sum(hidden.flatten(0, 1), batch.targets.flatten(), network) /
        static_cast<double>(batch.inputs.numel());
    expected.backward();
    // Quantized activations may round otherwise where a sum differs in its last bit.
    const bool rounds = !run.quantizers.activations.empty();
    EXPECT_NEAR(loss, expected.item<double>(), rounds ? 1e-3 : 1e-5) << line;
    for (const QuantizedLayer& layer : state.quantizers.layers) {
      const auto learned = layer.quantizer->parameters();
      for (size_t i = 0; i < learned.size(); ++i) {
        parameters[state.tensors[layer.parameters[i]].name] = learned[i].tensor;
      }
    }
    for (size_t t = 0; t < state.tensors.size(); ++t) {
      const TrainedTensor& tensor = state.tensors[t];
      if (!tensor.trained) {
        EXPECT_FALSE(step.gradients()[t].defined()) << tensor.name;
        continue;
      }
      const at::Tensor reference = parameters[tensor.name].grad();
      EXPECT_LT((step.gradients()[t] - reference).norm().item<double>(),
                (rounds ? 2e-2 : 2e-5) * reference.norm().item<double>() + 1e-9)
          << line << " " << tensor.name;
    }
    EXPECT_NEAR(step.norm(), global_norm(step.gradients()), 1e-9);
  }
}

TEST(LowBitTrainingTest, EveryQuantizerTrainsAndItsCheckpointHasTheLossThatWasTrained) {
  const TrainingText text = text_of(4000);
  for (const Quantizer& quantizer : quantizers()) {
    for (const std::string& bits : quantizer.bits) {
      const testing::TemporaryDirectory folder;
      const TrainingRun run = run_of(fmt::format("{}:bits={}", quantizer.name, bits));
      Trainer trainer(run, text.tokens);
      const auto losses = train_steps(trainer, run.total_steps()).losses;
      EXPECT_LT(losses.back(), losses.front()) << quantizer.name << " " << bits;
      (void)train(run, text, folder.path(), {});
      // The batch behind the last one: its loss is that of the weights as they are now.
      DataOrder data(text.tokens, kContext, run.sequences, run.seed);
      const TrainingBatch batch = data.batch(run.total_steps());
      const double trained = trainer.update().loss;
      const auto path = folder.path() / "checkpoints" / fmt::format("{:012}", run.total_tokens);
      EXPECT_NEAR(stored_loss(path, batch), trained, 1e-5) << quantizer.name << " " << bits;
      const Checkpoint checkpoint = open_checkpoint(path);
      EXPECT_EQ(checkpoint.training->quantizer, run.quantizers.plan.text());
      EXPECT_NEAR(*checkpoint.training->bits, std::stod(bits), 1e-9);
      EXPECT_EQ(checkpoint.training->tokens, run.total_tokens);
      EXPECT_EQ(checkpoint.training->params, run.spec.non_embedding_params());
      // Only what no format can pack is stored as floats.
      EXPECT_EQ(checkpoint.tensors->quantized("blocks.0.attn.q").has_value(),
                quantizer.name != "pb-llm");
      EXPECT_FALSE(checkpoint.tensors->quantized("head").has_value());
    }
  }
}

TEST(LowBitTrainingTest, ActivationQuantizersTravelWithTheCheckpoint) {
  const TrainingText text = text_of(4000);
  for (const char* activations :
       {"absmax:bits=4", "minmax:bits=4,symmetric=false", "lsq:bits=4", "pact:bits=8"}) {
    const testing::TemporaryDirectory folder;
    const TrainingRun run = run_of("bitnet", activations);
    (void)train(run, text, folder.path(), {});
    Trainer trainer(run, text.tokens);
    (void)train_steps(trainer, run.total_steps());
    DataOrder data(text.tokens, kContext, run.sequences, run.seed);
    const TrainingBatch batch = data.batch(run.total_steps());
    const double trained = trainer.update().loss;
    const auto path = folder.path() / "checkpoints" / fmt::format("{:012}", run.total_tokens);
    EXPECT_NEAR(stored_loss(path, batch), trained, 1e-3) << activations;
  }
}

TEST(LowBitTrainingTest, ThreadsAndInterruptionsDoNotChangeABit) {
  const TrainingText text = text_of(4000);
  for (const auto dtype : {ops::MatmulDtype::f32, ops::MatmulDtype::bf16}) {
    TrainingRun run =
        run_of("paretoq:bits=2 | efficientqat:bits=3,layers=blocks.1.*", "lsq:bits=8");
    run.dtype = dtype;
    run.qat_share = 0.5;
    EXPECT_EQ(run.float_steps(), 6u);
    const size_t before = thread_count();
    set_thread_count(1);
    Trainer straight(run, text.tokens);
    const Trained expected = train_steps(straight, run.total_steps());
    set_thread_count(3);
    const testing::TemporaryDirectory folder;
    // Before, at and after the start of the quantizers.
    for (const uint64_t stop : {3u, 6u, 9u}) {
      Trainer first(run, text.tokens);
      (void)train_steps(first, stop);
      first.save(folder.path() / "state", "hash");
      Trainer second(run, text.tokens);
      second.load(folder.path() / "state", "hash");
      EXPECT_EQ(second.state().step, stop);
      expect_equal(train_steps(second, run.total_steps()).values, expected.values);
      EXPECT_THROW(second.load(folder.path() / "state", "another"), Error);
    }
    set_thread_count(before);
  }
}

TEST(LowBitTrainingTest, StartsFromAnyCheckpointAndSplitsTheBudget) {
  const TrainingText text = text_of(4000);
  const testing::TemporaryDirectory folder;
  TrainingRun full = run_of("");
  full.total_tokens = 80 * full.tokens_per_step();
  (void)train(full, text, folder.path() / "full", {});
  TrainingRun fine = run_of("paretoq:bits=4");
  fine.init = folder.path() / "full/checkpoints" / fmt::format("{:012}", full.total_tokens);
  fine.init_hash = open_checkpoint(fine.init).hash;
  TrainingRun control = fine;
  control.quantizers = {};
  // Four bits are close to full precision, which has learned something.
  const double plain = Trainer(control, text.tokens).update().loss;
  EXPECT_LT(plain, 2.8);
  EXPECT_NEAR(Trainer(fine, text.tokens).update().loss, plain, 0.1);
  (void)train(fine, text, folder.path() / "fine", {});
  const Checkpoint end = open_checkpoint(folder.path() / "fine/checkpoints" /
                                         fmt::format("{:012}", fine.total_tokens));
  EXPECT_EQ(end.training->start, fine.init_hash);
  fine.init_hash = "another";
  EXPECT_THROW(Trainer(fine, text.tokens), Error);
}

TEST(QuantizerPlanTest, LaterPartsTakeLayersFromEarlierOnes) {
  const ModelSpec spec = run_of("").spec;
  const QuantizerPlan plan = QuantizerPlan::parse(
      "paretoq:bits=2|lsq:bits=4, layers=*.mlp.down | float:layers=blocks.0.* "
      "|minmax:layers=embed");
  EXPECT_EQ(plan.text(),
            "paretoq:bits=2 | lsq:bits=4,layers=*.mlp.down | float:layers=blocks.0.* | "
            "minmax:layers=embed");
  EXPECT_EQ(plan.layers(spec).size(), 8u);
  EXPECT_EQ(plan.choice("blocks.0.attn.q"), nullptr);
  EXPECT_EQ(plan.choice("head"), nullptr);
  EXPECT_EQ(plan.choice("blocks.1.attn.q")->bits, 2);
  EXPECT_EQ(plan.choice("blocks.1.mlp.down")->name, "lsq");
  EXPECT_EQ(plan.choice("embed")->bits, 4);
  EXPECT_DOUBLE_EQ(QuantizerPlan::parse("paretoq:bits=1.58").mean_bits(spec), 1.58);
  for (const char* wrong : {"", "float", "paretoq:bits=5", "parato:bits=2", "paretoq:bit=2",
                            "paretoq | float:bits=2", "paretoq:layers="}) {
    EXPECT_THROW(QuantizerPlan::parse(wrong), Error) << wrong;
  }
  EXPECT_THROW((void)QuantizerPlan::parse("lsq:layers=blocks.7.*").layers(spec), Error);
}

}  // namespace
}  // namespace fewbit
