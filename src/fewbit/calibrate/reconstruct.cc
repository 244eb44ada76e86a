#include "fewbit/calibrate/reconstruct.h"

#include <torch/torch.h>

#include <cmath>
#include <numeric>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"

namespace fewbit {
namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;

using Values = std::vector<at::Tensor>;

Values copies(std::span<const TrainedLeaf> leaves) {
  Values result;
  for (const TrainedLeaf& leaf : leaves) result.push_back(leaf.value.detach().clone());
  return result;
}

void put_back(std::span<const TrainedLeaf> leaves, const Values& values) {
  const at::NoGradGuard no_gradient;
  for (size_t i = 0; i < leaves.size(); ++i) at::Tensor(leaves[i].value).copy_(values[i]);
}

// One update of all leaves from their gradients, which it clears.
class Updater {
 public:
  Updater(std::span<const TrainedLeaf> leaves, ReconstructOptions::Update update)
      : leaves_(leaves), update_(update) {
    if (update == ReconstructOptions::Update::sign) return;
    for (const TrainedLeaf& leaf : leaves) {
      first_.push_back(at::zeros_like(leaf.value.detach()));
      second_.push_back(at::zeros_like(leaf.value.detach()));
    }
  }

  void step(double factor) {
    const at::NoGradGuard no_gradient;
    ++count_;
    for (size_t i = 0; i < leaves_.size(); ++i) {
      at::Tensor value = leaves_[i].value;
      at::Tensor& gradient = value.mutable_grad();
      if (!gradient.defined()) continue;
      const double rate = factor * leaves_[i].rate;
      if (update_ == ReconstructOptions::Update::sign) {
        value.sub_(gradient.sign(), rate);
      } else {
        first_[i].mul_(kBeta1).add_(gradient, 1 - kBeta1);
        second_[i].mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
        const double correction1 = 1 - std::pow(kBeta1, count_);
        const double correction2 = 1 - std::pow(kBeta2, count_);
        const at::Tensor root = (second_[i] / correction2).sqrt_().add_(kEpsilon);
        value.addcdiv_(first_[i], root, -rate / correction1);
      }
      gradient.reset();
    }
  }

 private:
  std::span<const TrainedLeaf> leaves_;
  ReconstructOptions::Update update_;
  Values first_, second_;
  int count_ = 0;
};

double total_loss(const BlockContext& block, const BlockSamples& samples,
                  const ParameterMap& parameters) {
  double total = 0;
  for (size_t s = 0; s < samples.size(); ++s) {
    const size_t one[] = {s};
    total += mean_squared_difference(block.run_state(samples.inputs(one), parameters, {}),
                                     samples.targets(one));
  }
  return total / static_cast<double>(samples.size());
}

}  // namespace

double mean_squared_difference(const at::Tensor& a, const at::Tensor& b) {
  constexpr size_t kChunk = 1 << 14;
  const at::Tensor left = a.detach().to(at::kCPU, at::kFloat).contiguous();
  const at::Tensor right = b.detach().to(at::kCPU, at::kFloat).contiguous();
  require(left.sizes() == right.sizes(), "outputs of different shapes are compared");
  const float *x = left.data_ptr<float>(), *y = right.data_ptr<float>();
  const auto count = static_cast<size_t>(left.numel());
  std::vector<double> sums((count + kChunk - 1) / kChunk);
  parallel_for_chunks(count, kChunk, [&](size_t first, size_t last) {
    double sum = 0;
    for (size_t i = first; i < last; ++i) {
      const double difference = static_cast<double>(x[i]) - y[i];
      sum += difference * difference;
    }
    sums[first / kChunk] = sum;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(count);
}

BlockSamples::BlockSamples(const BlockContext& block, bool on_quantized) : block_(block) {
  const at::NoGradGuard no_gradient;
  const ParameterMap exact = block.exact_parameters();
  for (size_t b = 0; b < block.batches(); ++b) {
    inputs_.push_back(block.input(b).value);
    at::Tensor target = block.run_exact(b, exact, {});
    if (on_quantized) target = (target + block.run(b, exact, {})) / 2;
    targets_.push_back(std::move(target));
    for (int64_t row = 0; row < inputs_.back().size(0); ++row) where_.push_back({b, row});
  }
}

at::Tensor BlockSamples::gather(const std::vector<at::Tensor>& batches,
                                std::span<const size_t> samples) const {
  std::vector<at::Tensor> rows;
  for (const size_t s : samples) {
    const Place& place = where_.at(s);
    rows.push_back(batches[place.batch].narrow(0, place.row, 1));
  }
  return rows.size() == 1 ? rows.front() : at::cat(rows);
}

BlockState BlockSamples::inputs(std::span<const size_t> samples) const {
  return {gather(inputs_, samples), block_.input(where_.at(samples.front()).batch).side};
}

at::Tensor BlockSamples::targets(std::span<const size_t> samples) const {
  return gather(targets_, samples);
}

ReconstructReport reconstruct(const BlockContext& block, const BlockSamples& samples,
                              std::span<const TrainedLeaf> leaves,
                              const std::function<ParameterMap()>& parameters,
                              const ReconstructOptions& options) {
  require(samples.size() > 0, "{}: there are no calibration sequences", block.info().name);
  const auto loss_now = [&] {
    const at::NoGradGuard no_gradient;
    options.constrain();
    return total_loss(block, samples, parameters());
  };
  ReconstructReport report;
  report.first_loss = loss_now();
  require(std::isfinite(report.first_loss), "{}: the output of the block is not finite",
          block.info().name);
  const Values start = copies(leaves);
  Values best;
  double smallest = std::numeric_limits<double>::infinity();
  Updater updater(leaves, options.update);
  for (size_t step = 0; step < options.steps; ++step) {
    const at::AutoGradMode gradients(true);
    options.constrain();
    const std::vector<size_t> drawn = options.samples(step);
    const at::Tensor out = block.run_state(samples.inputs(drawn), parameters(), {});
    const at::Tensor target = samples.targets(drawn);
    const double loss = mean_squared_difference(out, target);
    require(std::isfinite(loss), "{}: the loss of step {} is not finite; lower the learning rate",
            block.info().name, step);
    report.step_losses.push_back(loss);
    if (options.keep_best_step && loss < smallest) {
      smallest = loss;
      best = copies(leaves);
    }
    // The derivative of the mean square, given straight: no reduction over the whole output.
    out.backward((out.detach() - target) * (2.0 / static_cast<double>(out.numel())));
    updater.step(options.rate_factor(step));
  }
  if (!best.empty()) put_back(leaves, best);
  report.last_loss = loss_now();
  if (!(report.last_loss < report.first_loss)) {
    put_back(leaves, start);
    report.last_loss = report.first_loss;
  }
  return report;
}

}  // namespace fewbit
