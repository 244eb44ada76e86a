#include "fewbit/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/log.h"
#include "fewbit/model/checkpoint.h"

namespace fewbit {
namespace {

TrainingState starting_state(const TrainingRun& run) {
  const bool moments = !run.zeroth_order;
  if (run.init.empty()) {
    return TrainingState(run.spec, *random_tensors(run.spec, run.seed), moments);
  }
  const Checkpoint start = open_checkpoint(run.init);
  require(start.hash == run.init_hash, "{}: has changed since the run was planned",
          run.init.string());
  return TrainingState(run.spec, *start.tensors, moments);
}

// Whether the teacher is what the float phase of this very run ends with.
bool learns_from_itself(const TrainingRun& run) {
  return run.distillation && run.distillation->teacher.empty() && run.float_steps() > 0;
}

// Names the first tensor whose gradient is not finite.
[[noreturn]] void fail_not_finite(uint64_t step, double loss,
                                  const std::vector<TrainedTensor>& tensors,
                                  const std::vector<at::Tensor>& gradients) {
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (gradients[t].defined() && !at::isfinite(gradients[t]).all().item<bool>()) {
      fail("step {}: the gradient of {} is not finite (loss {}); lower the learning rate", step,
           tensors[t].name, loss);
    }
  }
  fail("step {}: the loss is {}; lower the learning rate", step, loss);
}

}  // namespace

Trainer::Trainer(TrainingRun run, std::span<const int32_t> tokens)
    : run_(std::move(run)),
      tokens_(tokens),
      state_(starting_state(run_)),
      decoder_(run_.spec, nullptr),
      data_(tokens, run_.context, run_.sequences, run_.seed) {}

void Trainer::save(const std::filesystem::path& path, const std::string& config_hash) const {
  state_.save(path, config_hash);
}

void Trainer::load(const std::filesystem::path& path, const std::string& config_hash) {
  step_.reset();
  zeroth_step_.reset();
  teacher_decoder_.reset();
  // The saved state may be of a phase before this one.
  if (state_.step > 0 || state_.quantized()) state_ = starting_state(run_);
  state_.load(path, config_hash, run_.quantizers);
}

void Trainer::prepare_phase() {
  const bool starts =
      !run_.quantizers.plan.empty() && !state_.quantized() && state_.step >= run_.float_steps();
  if ((step_ || zeroth_step_) && !starts) return;
  step_.reset();
  zeroth_step_.reset();
  if (starts) start_quantizers();
  if (run_.zeroth_order) {
    require(state_.quantizers.site_parameters.empty(),
            "zeroth-order training moves weights alone; choose activations that learn nothing");
    zeroth_step_ = std::make_unique<ZerothOrderStep>(decoder_, *run_.zeroth_order, run_.dtype,
                                                     state_.tensors, &state_.quantizers);
    return;
  }
  step_ = std::make_unique<GradientStep>(decoder_,
                                         GradientOptions{run_.shards, run_.dtype, run_.pass_tokens},
                                         state_.tensors, &state_.quantizers);
  if (starts) step_->start_activations(next_batch());
  if (run_.distillation && state_.quantized()) prepare_teacher();
}

void Trainer::start_quantizers() {
  if (learns_from_itself(run_)) state_.keep_teacher();
  state_.start_quantizers(run_.quantizers);
  state_.spikes.forget();
  if (run_.block_phase) {
    DataOrder order(tokens_, run_.context, run_.block_phase->sequences, run_.seed);
    block_outcomes_ = train_blocks(decoder_, *run_.block_phase, order.batch(0).inputs,
                                   state_.quantizers, state_.tensors);
    for (const BlockOutcome& outcome : block_outcomes_) {
      note("{}: {}: mean squared error {:.4g}, after training {:.4g}", run_.name, outcome.block,
           outcome.before, outcome.after);
    }
  }
  state_.finish_quantizers(run_.quantizers);
}

TrainingBatch Trainer::next_batch() {
  return data_.batch(state_.step + state_.spikes.passed_batches());
}

void Trainer::prepare_teacher() {
  if (!teacher_decoder_) {
    const DistillationPlan& plan = *run_.distillation;
    teacher_ = {nullptr, {}, plan.options, plan.hidden_weight};
    if (learns_from_itself(run_)) {
      teacher_decoder_ = std::make_unique<Decoder>(run_.spec, nullptr);
      teacher_.parameters = state_.teacher;
    } else {
      // The checkpoint that the run starts from, or another one.
      const bool start = plan.teacher.empty();
      const Checkpoint checkpoint = open_checkpoint(start ? run_.init : plan.teacher);
      require(checkpoint.hash == (start ? run_.init_hash : plan.teacher_hash),
              "{}: has changed since the run was planned", checkpoint.path.string());
      check_teacher(checkpoint.spec, run_.spec, plan.hidden_weight);
      teacher_decoder_ = std::make_unique<Decoder>(checkpoint.spec, checkpoint.tensors);
      teacher_.parameters = load_parameters(model_tensors(checkpoint.spec), checkpoint.tensors,
                                            at::kCPU, Sharing::share);
    }
    teacher_.decoder = teacher_decoder_.get();
  }
  step_->set_teacher(&teacher_);
}

Update Trainer::update() { return update(run_.rate_of(state_.step) * state_.spikes.rate_scale()); }

void Trainer::go_back(const std::filesystem::path& path, const std::string& config_hash) {
  const SpikeGuard spiked = state_.spikes;
  const uint64_t step = state_.step;
  load(path, config_hash);
  state_.spikes.gone_back(*run_.spikes, spiked, state_.step, step);
}

void Trainer::measure(Update& update) {
  if (zeroth_step_) {
    update.loss = zeroth_step_->measure(next_batch(), run_.seed, state_.step);
    update.slopes = zeroth_step_->slopes();
    for (const double slope : update.slopes) {
      update.norm = std::max(update.norm, std::abs(slope));
    }
    return;
  }
  update.loss = step_->run(next_batch());
  update.norm = step_->norm();
}

void Trainer::apply(const Update& update) {
  if (zeroth_step_) return zeroth_step_->apply(update.rate, run_.seed, state_.step);
  AdamWOptions optimizer = run_.optimizer;
  uint64_t updates = state_.step;
  if (state_.quantized()) {
    optimizer.weight_decay = run_.qat_weight_decay;
    updates -= run_.float_steps();
  }
  adamw_step(state_.tensors, step_->gradients(), update.norm, update.rate, updates, optimizer);
}

Update Trainer::update(double rate) {
  prepare_phase();
  Update update;
  update.rate = rate;
  measure(update);
  if (run_.spikes) {
    update.verdict = state_.spikes.judge(*run_.spikes, update.loss, update.norm);
    if (update.verdict != SpikeGuard::Verdict::accept) return update;
  } else if (!std::isfinite(update.loss) || !std::isfinite(update.norm)) {
    fail_not_finite(state_.step, update.loss, state_.tensors,
                    step_ ? step_->gradients() : std::vector<at::Tensor>(state_.tensors.size()));
  }
  apply(update);
  ++state_.step;
  return update;
}

}  // namespace fewbit
