// Block reconstruction: trains chosen parameters of a block so that its output, on the inputs that
// the quantized blocks before it give, comes near what the full-precision network puts out there.
//
//   loss = mean (block(x_q; theta) - block_exact(x))^2
//
// One loop for the methods that learn clipping, rounding, scales or equivalent transforms; they say
// which tensors are trained and how, and how the block's parameters follow from them. The loop is
// deterministic, and its results do not depend on the number of threads.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "fewbit/calibrate/pass.h"

namespace fewbit {

// The calibration sequences of a block one by one: what goes in, and what is wanted.
class BlockSamples {
 public:
  // Runs the full-precision stream of `block` (Pass::needs_exact_stream()). `on_quantized`: wants
  // the mean of that and of what the exact block makes of the inputs themselves, so that the loss
  // pulls at both (OmniQuant's augmented loss, up to a constant).
  BlockSamples(const BlockContext& block, bool on_quantized);

  size_t size() const { return where_.size(); }
  BlockState inputs(std::span<const size_t> samples) const;
  at::Tensor targets(std::span<const size_t> samples) const;

 private:
  struct Place {
    size_t batch;
    int64_t row;
  };
  at::Tensor gather(const std::vector<at::Tensor>& batches, std::span<const size_t> samples) const;

  const BlockContext& block_;
  std::vector<at::Tensor> inputs_, targets_;  // by batch
  std::vector<Place> where_;
};

// A leaf that is trained in place.
struct TrainedLeaf {
  at::Tensor value;
  double rate = 0;
};

struct ReconstructOptions {
  enum class Update {
    adamw,  // moments 0.9 and 0.999, no decay
    sign    // p -= rate * sign(gradient)
  };

  size_t steps = 0;
  Update update = Update::adamw;
  // Samples of a step, and what its rates are multiplied with.
  std::function<std::vector<size_t>(size_t step)> samples;
  std::function<double(size_t step)> rate_factor = [](size_t) { return 1.0; };
  // Called before every run, to keep leaves within their bounds.
  std::function<void()> constrain = [] {};
  // At the end the leaves become those of the step whose loss was the smallest, on its own samples.
  bool keep_best_step = false;
};

struct ReconstructReport {
  double first_loss = 0, last_loss = 0;  // Over all samples, before and after.
  std::vector<double> step_losses;       // Of every step's samples, before its update.
};

// Trains `leaves`. `parameters` makes the block's parameters from them, with gradients. If the loss
// over all samples is no smaller at the end, the leaves are put back as they were. Error if a loss
// is not finite.
ReconstructReport reconstruct(const BlockContext& block, const BlockSamples& samples,
                              std::span<const TrainedLeaf> leaves,
                              const std::function<ParameterMap()>& parameters,
                              const ReconstructOptions& options);

// Mean of (a - b)^2, in double and in an order that does not depend on the number of threads.
double mean_squared_difference(const at::Tensor& a, const at::Tensor& b);

}  // namespace fewbit
