// Loss spikes: updates whose loss or gradient norm stands far out of those before are skipped, and
// after some in a row the run goes back to its last saved state with a lower learning rate.
//
// An update is a spike if its loss or norm is not finite, its norm exceeds `norm_factor` times the
// median of the last accepted ones, or its loss their median by more than `loss_rise` nats. All of
// this is a function of the run alone, and part of its state: resuming stays exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>

namespace fewbit {

struct SpikePolicy {
  double norm_factor = 10;
  double loss_rise = 2;       // nats per token
  size_t window = 64;         // accepted updates that the medians are over
  size_t patience = 3;        // spikes in a row that are skipped before going back
  double rate_factor = 0.7;   // of the learning rate from then on
  size_t most_returns = 5;    // going back more often than this is an Error
  uint64_t save_steps = 200;  // updates between saved states
};

class SpikeGuard {
 public:
  enum class Verdict { accept, skip, go_back };
  // What to do with an update; remembers it.
  Verdict judge(const SpikePolicy& policy, double loss, double norm);
  // After going back to a saved state (load()), whose batches `beyond` and before are not to be
  // seen again: counts the return, lowers the rate. Error if there were too many.
  void gone_back(const SpikePolicy& policy, const SpikeGuard& spiked, uint64_t step,
                 uint64_t spiked_step);

  // Forgets the accepted updates: what follows is not to be compared with them.
  void forget();

  // Learning rate over the schedule's.
  double rate_scale() const { return rate_scale_; }
  // Batches passed over: update `step` takes batch step + this.
  uint64_t passed_batches() const { return passed_batches_; }

  // As text, exact.
  std::map<std::string, std::string> save() const;
  void load(const std::map<std::string, std::string>& saved);

 private:
  std::deque<double> losses_, norms_;
  uint64_t spikes_in_row_ = 0, returns_ = 0, passed_batches_ = 0;
  double rate_scale_ = 1;
};

}  // namespace fewbit
