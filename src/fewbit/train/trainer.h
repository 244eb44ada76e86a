// A run's state together with what advances it by one update.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fewbit/network/decoder.h"
#include "fewbit/train/block_training.h"
#include "fewbit/train/data_order.h"
#include "fewbit/train/gradient_step.h"
#include "fewbit/train/training_run.h"
#include "fewbit/train/training_state.h"
#include "fewbit/train/zeroth_order.h"

namespace fewbit {

struct Update {
  double loss = 0, norm = 0, rate = 0;
  std::vector<double> slopes;  // Of a zeroth-order update, whose norm is the largest magnitude.
  SpikeGuard::Verdict verdict = SpikeGuard::Verdict::accept;  // Otherwise nothing has changed.
};

class Trainer {
 public:
  // At the start of the run. `tokens` is borrowed, the run copied.
  Trainer(TrainingRun run, std::span<const int32_t> tokens);

  const TrainingState& state() const { return state_; }
  // Of the phase that trained block by block, if this object ran it.
  const std::vector<BlockOutcome>& block_outcomes() const { return block_outcomes_; }
  void save(const std::filesystem::path& path, const std::string& config_hash) const;
  void load(const std::filesystem::path& path, const std::string& config_hash);

  // One update, at the run's learning rate or a given one. Error that names step and tensor if the
  // loss or a gradient is not finite and the run has no policy for that; the weights are as before
  // then.
  Update update();
  Update update(double rate);
  // After the verdict go_back: loads the last saved state, to go on at a lower rate and with other
  // batches.
  void go_back(const std::filesystem::path& path, const std::string& config_hash);

 private:
  // Loss and norm of the next batch.
  void measure(Update& update);
  void apply(const Update& update);
  void prepare_phase();
  void prepare_teacher();
  void start_quantizers();
  TrainingBatch next_batch();

  TrainingRun run_;
  std::span<const int32_t> tokens_;
  TrainingState state_;
  Decoder decoder_;
  DataOrder data_;
  std::unique_ptr<Decoder> teacher_decoder_;
  Teacher teacher_;
  std::unique_ptr<GradientStep> step_;
  std::unique_ptr<ZerothOrderStep> zeroth_step_;
  std::vector<BlockOutcome> block_outcomes_;
};

}  // namespace fewbit
