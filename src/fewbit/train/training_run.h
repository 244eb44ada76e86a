// One training run: a model, from scratch or from a checkpoint, on a text, with checkpoints at
// given token counts, and a state from which a killed run continues to bit-identical weights.
//
// A run with quantizers spends the last `qat_share` of its updates under them, what comes before in
// full precision. The second phase has a schedule of its own, and its optimizer starts afresh.
//
//   DIR/checkpoints/0001048576/    training.json (D tokens seen) beside a Hugging Face directory,
//                                  or, under quantizers, beside a fewbit directory with packed
//                                  codes
//   DIR/state.safetensors          weights, moments, step: written whole, removed when finished
//   DIR/run.json                   configuration hash, finished or not, last loss
//   DIR/log.csv                    step, tokens, learning rate, loss, gradient norm
//   DIR/slopes.csv                 of zeroth-order runs: what replay_direction() needs, exactly
//
// A step cuts its batch into `shards` of whole sequences, runs each on one thread, and adds their
// gradients in shard order: results are the same bits for any number of threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/model/model_spec.h"
#include "fewbit/network/distillation.h"
#include "fewbit/network/ops.h"
#include "fewbit/train/adamw.h"
#include "fewbit/train/block_training.h"
#include "fewbit/train/gradient_step.h"
#include "fewbit/train/network_quantizers.h"
#include "fewbit/train/schedule.h"
#include "fewbit/train/spike_guard.h"
#include "fewbit/train/zeroth_order.h"

namespace fewbit {

// What the phase under quantizers learns from, besides the text.
struct DistillationPlan {
  // A checkpoint and its hash; empty: the model itself as it was when its quantizers started.
  std::filesystem::path teacher;
  std::string teacher_hash;
  ops::DistillationOptions options;
  double hidden_weight = 0;
};

struct TrainingRun {
  std::string name;
  ModelSpec spec;
  uint64_t seed = 0;
  size_t context = 256;
  size_t sequences = 32;  // of one update
  size_t shards = 4;      // at most `sequences`
  ops::MatmulDtype dtype = ops::MatmulDtype::f32;
  size_t pass_tokens = kPassTokens;  // see GradientOptions
  AdamWOptions optimizer;
  Schedule schedule;
  // Where the weights come from, and its hash; empty: drawn from the seed.
  std::filesystem::path init;
  std::string init_hash;
  QuantizerOptions quantizers;
  double qat_share = 1;
  Schedule qat_schedule;
  double qat_weight_decay = 0;
  std::optional<DistillationPlan> distillation;
  // Before the quantizers train end to end, blocks are trained one by one.
  std::optional<BlockPhase> block_phase;
  // Forward passes alone, in place of AdamW.
  std::optional<ZerothOrder> zeroth_order;
  // Without it, a loss or gradient that is not finite ends the run. With it, the state is saved
  // every save_steps updates and at no other time: it is what a spike goes back to.
  std::optional<SpikePolicy> spikes;
  uint64_t total_tokens = 0;                // rounded up to whole updates
  std::vector<uint64_t> checkpoint_tokens;  // rounded up to whole updates; the end is always one

  uint64_t tokens_per_step() const { return context * sequences; }
  uint64_t total_steps() const;
  // Of these, the ones in full precision, which come first.
  uint64_t float_steps() const;
  // Learning rate of update `step`, counted from 0.
  double rate_of(uint64_t step) const;
  // Updates after which a checkpoint is written, rising, the last one total_steps().
  std::vector<uint64_t> checkpoint_steps() const;
  // Everything that the weights depend on besides the text.
  Json config() const;
};

// The text of a suite, tokenized once for all runs.
struct TrainingText {
  std::vector<int32_t> tokens;
  std::string hash;                          // SHA-256 of the ids
  std::map<std::string, std::string> files;  // by name, written into every checkpoint: tokenizer
};

struct TrainingOptions {
  // Seconds between writes of the state; every checkpoint writes it too.
  double state_interval_seconds = 60;
  // Called after every update with the steps done and the loss, from the thread of train().
  std::function<void(uint64_t step, double loss)> on_step;
};

struct TrainingOutcome {
  bool already_finished = false;
  uint64_t steps = 0;
  double last_loss = 0;  // mean over the last tenth of the run, at least one step
};

// Trains, or goes on from the state. Errors: the directory holds a run of another configuration or
// text; a loss or gradient that is not finite (names step and tensor). Interrupted: the state is
// written first.
TrainingOutcome train(const TrainingRun& run, const TrainingText& text,
                      const std::filesystem::path& directory, const TrainingOptions& options);

}  // namespace fewbit
