// One training run: a model from scratch on a text, with checkpoints at given token counts, and a
// state from which a killed run continues to bit-identical weights.
//
//   DIR/checkpoints/0001048576/    a Hugging Face directory with training.json (D tokens seen)
//   DIR/state.safetensors          weights, moments, step: written whole, removed when finished
//   DIR/run.json                   configuration hash, finished or not, last loss
//   DIR/log.csv                    step, tokens, learning rate, loss, gradient norm
//
// A step cuts its batch into `shards` of whole sequences, runs each on one thread, and adds their
// gradients in shard order: results are the same bits for any number of threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/model/model_spec.h"
#include "fewbit/network/ops.h"
#include "fewbit/train/adamw.h"
#include "fewbit/train/schedule.h"

namespace fewbit {

struct TrainingRun {
  std::string name;
  ModelSpec spec;
  uint64_t seed = 0;
  size_t context = 256;
  size_t sequences = 32;  // of one update
  size_t shards = 4;      // at most `sequences`
  ops::MatmulDtype dtype = ops::MatmulDtype::f32;
  AdamWOptions optimizer;
  Schedule schedule;
  uint64_t total_tokens = 0;                // rounded up to whole updates
  std::vector<uint64_t> checkpoint_tokens;  // rounded up to whole updates; the end is always one

  uint64_t tokens_per_step() const { return context * sequences; }
  uint64_t total_steps() const;
  // Updates after which a checkpoint is written, rising, the last one total_steps().
  std::vector<uint64_t> checkpoint_steps() const;
  // Everything that the weights depend on besides the text.
  Json config() const;
};

// The text of a suite, tokenized once for all runs.
struct TrainingText {
  std::vector<int32_t> tokens;
  std::string hash;            // SHA-256 of the ids
  std::string tokenizer_json;  // written into every checkpoint
  std::string tokenizer_config;
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
