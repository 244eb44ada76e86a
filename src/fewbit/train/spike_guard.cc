#include "fewbit/train/spike_guard.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// Fewer accepted updates give no median to compare with.
constexpr size_t kLeastHistory = 8;

constexpr const char* kLosses = "spikes.losses";
constexpr const char* kNorms = "spikes.norms";
constexpr const char* kCounts = "spikes.counts";
constexpr const char* kScale = "spikes.rate_scale";

double median(const std::deque<double>& values) {
  std::vector<double> sorted(values.begin(), values.end());
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

std::string join(const std::deque<double>& values) {
  std::string text;
  for (const double value : values) text += fmt::format("{} ", value);  // Shortest exact form.
  return text;
}

std::deque<double> split(const std::string& text) {
  std::deque<double> values;
  size_t at = 0;
  while (at < text.size()) {
    size_t used = 0;
    values.push_back(std::stod(text.substr(at), &used));
    at += used + 1;
  }
  return values;
}

}  // namespace

SpikeGuard::Verdict SpikeGuard::judge(const SpikePolicy& policy, double loss, double norm) {
  bool spike = !std::isfinite(loss) || !std::isfinite(norm);
  if (!spike && losses_.size() >= std::min(kLeastHistory, policy.window)) {
    spike = norm > policy.norm_factor * median(norms_) || loss > median(losses_) + policy.loss_rise;
  }
  if (spike) {
    ++passed_batches_;
    return ++spikes_in_row_ > policy.patience ? Verdict::go_back : Verdict::skip;
  }
  spikes_in_row_ = 0;
  losses_.push_back(loss);
  norms_.push_back(norm);
  if (losses_.size() > policy.window) {
    losses_.pop_front();
    norms_.pop_front();
  }
  return Verdict::accept;
}

void SpikeGuard::gone_back(const SpikePolicy& policy, const SpikeGuard& spiked, uint64_t step,
                           uint64_t spiked_step) {
  returns_ = spiked.returns_ + 1;
  require(returns_ <= policy.most_returns,
          "step {}: loss spikes again after going back {} times; lower the learning rate",
          spiked_step, policy.most_returns);
  rate_scale_ = spiked.rate_scale_ * policy.rate_factor;
  passed_batches_ = spiked.passed_batches_ + (spiked_step - step);
  spikes_in_row_ = 0;
}

void SpikeGuard::forget() {
  losses_.clear();
  norms_.clear();
}

std::map<std::string, std::string> SpikeGuard::save() const {
  return {{kLosses, join(losses_)},
          {kNorms, join(norms_)},
          {kCounts, fmt::format("{} {} {}", spikes_in_row_, returns_, passed_batches_)},
          {kScale, fmt::format("{}", rate_scale_)}};
}

void SpikeGuard::load(const std::map<std::string, std::string>& saved) {
  const auto at = [&](const char* key) -> const std::string& {
    const auto found = saved.find(key);
    require(found != saved.end(), "the state lacks '{}'", key);
    return found->second;
  };
  losses_ = split(at(kLosses));
  norms_ = split(at(kNorms));
  const auto counts = split(at(kCounts));
  require(counts.size() == 3 && losses_.size() == norms_.size(), "the state's '{}' is damaged",
          kCounts);
  spikes_in_row_ = static_cast<uint64_t>(counts[0]);
  returns_ = static_cast<uint64_t>(counts[1]);
  passed_batches_ = static_cast<uint64_t>(counts[2]);
  rate_scale_ = std::stod(at(kScale));
}

}  // namespace fewbit
