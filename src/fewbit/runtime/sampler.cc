#include "fewbit/runtime/sampler.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"

namespace fewbit {

void SamplerOptions::validate() const {
  const auto within = [](const char* name, double value, double low, double high) {
    require(value >= low && value <= high, "{} {} is not allowed (allowed: {} to {})", name, value,
            low, high);
  };
  constexpr double kLargestTemperature = 100, kLargestPenalty = 100;
  within("temperature", temperature, 0, kLargestTemperature);
  within("top_p", top_p, 0, 1);
  within("min_p", min_p, 0, 1);
  within("frequency_penalty", frequency_penalty, -kLargestPenalty, kLargestPenalty);
  within("presence_penalty", presence_penalty, -kLargestPenalty, kLargestPenalty);
  require(repetition_penalty > 0 && repetition_penalty <= kLargestPenalty,
          "repetition_penalty {} is not allowed (allowed: above 0, to {})", repetition_penalty,
          kLargestPenalty);
  for (const auto& [token, bias] : logit_bias) {
    require(token >= 0 && !std::isnan(bias), "logit_bias of token {}: {} is not allowed", token,
            bias);
  }
}

Sampler::Sampler(SamplerOptions options, size_t vocabulary)
    : options_(std::move(options)), vocabulary_(vocabulary), random_(options_.seed, "sample") {
  options_.validate();
  require(vocabulary_ > 0, "there are no tokens to choose from");
}

void Sampler::accept(int32_t token) {
  recent_.push_back(token);
  ++counts_[token];
  if (options_.penalty_window > 0 && recent_.size() > options_.penalty_window) {
    const auto oldest = counts_.find(recent_.front());
    if (--oldest->second == 0) counts_.erase(oldest);
    recent_.pop_front();
  }
}

std::vector<float> Sampler::adjusted(std::span<const float> logits) const {
  require(logits.size() >= vocabulary_, "{} logits are too few for {} tokens", logits.size(),
          vocabulary_);
  std::vector<float> result(logits.begin(), logits.begin() + static_cast<long>(vocabulary_));
  for (const float logit : result) require(!std::isnan(logit), "the logits hold a NaN");
  for (const auto& [token, bias] : options_.logit_bias) {
    if (static_cast<size_t>(token) < vocabulary_) {
      result[static_cast<size_t>(token)] += static_cast<float>(bias);
    }
  }
  const bool penalises = options_.repetition_penalty != 1 || options_.frequency_penalty != 0 ||
                         options_.presence_penalty != 0;
  if (!penalises) return result;
  const auto factor = static_cast<float>(options_.repetition_penalty);
  for (const auto& [token, count] : counts_) {
    if (token < 0 || static_cast<size_t>(token) >= vocabulary_) continue;
    float& logit = result[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / factor : logit * factor;
    logit -= static_cast<float>(static_cast<double>(count) * options_.frequency_penalty +
                                options_.presence_penalty);
  }
  return result;
}

std::vector<Sampler::Candidate> Sampler::every(std::span<const float> values) {
  std::vector<Candidate> all(values.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = {values[i], static_cast<int32_t>(i)};
  return all;
}

// One comparison for almost every token: the heap's front is the worst of those kept.
std::vector<Sampler::Candidate> Sampler::largest_logits(std::span<const float> values) const {
  std::vector<Candidate> kept = every(values.first(options_.top_k));
  std::make_heap(kept.begin(), kept.end(), before);
  for (size_t i = options_.top_k; i < values.size(); ++i) {
    if (values[i] <= kept.front().logit) continue;
    std::pop_heap(kept.begin(), kept.end(), before);
    kept.back() = {values[i], static_cast<int32_t>(i)};
    std::push_heap(kept.begin(), kept.end(), before);
  }
  return kept;
}

std::vector<TokenProbability> Sampler::distribution(std::span<const float> logits) const {
  const std::vector<float> values = adjusted(logits);
  if (options_.temperature == 0) {
    const auto best = std::max_element(values.begin(), values.end());
    return {{static_cast<int32_t>(best - values.begin()), 1.0}};
  }
  const auto as_heap = [](const Candidate& a, const Candidate& b) { return before(b, a); };
  std::vector<Candidate> all =
      options_.top_k > 0 && options_.top_k < values.size() ? largest_logits(values) : every(values);
  // Candidates are taken from a heap in order, so that a small nucleus of a large vocabulary costs
  // no full sort.
  std::make_heap(all.begin(), all.end(), as_heap);
  const double largest = all.front().logit;
  double total = 0;
  for (const Candidate& c : all) total += std::exp(c.logit - largest);
  std::vector<Candidate> kept;
  double mass = 0;
  for (auto end = all.end(); end != all.begin() && (kept.empty() || mass < options_.top_p * total);
       --end) {
    std::pop_heap(all.begin(), end, as_heap);
    const Candidate& next = *(end - 1);
    const double weight = std::exp(next.logit - largest);
    if (!kept.empty() && weight < options_.min_p) break;
    mass += weight;
    kept.push_back(next);
  }
  std::vector<TokenProbability> result;
  double sum = 0;
  for (const Candidate& c : kept) {
    const double weight = std::exp((c.logit - largest) / options_.temperature);
    sum += weight;
    result.push_back({c.token, weight});
  }
  for (TokenProbability& p : result) p.probability /= sum;
  return result;
}

int32_t Sampler::sample(std::span<const float> logits) {
  const std::vector<TokenProbability> choices = distribution(logits);
  if (options_.temperature == 0) return choices.front().token;
  const double drawn = random_.uniform();
  double sum = 0;
  for (const TokenProbability& choice : choices) {
    sum += choice.probability;
    if (drawn < sum) return choice.token;
  }
  return choices.back().token;  // The probabilities sum to a little less than 1.
}

}  // namespace fewbit
