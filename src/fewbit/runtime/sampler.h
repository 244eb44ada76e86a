// Sampler: chooses the next token of one sequence from the logits of its last.
//
// The chain, in this order (that of llama.cpp):
//   1. bias        logit += bias of its token
//   2. penalties   over the last `penalty_window` tokens, prompt included: a logit of a token among
//                  them is divided by `repetition_penalty` if positive, else multiplied by it
//                  (Keskar et al., 2019, "CTRL"); then count * frequency_penalty + presence_penalty
//                  is subtracted
//   3. top_k       the k largest logits stay
//   4. top_p       the fewest most probable tokens whose probabilities sum to at least p stay
//                  (Holtzman et al., 2020, "The Curious Case of Neural Text Degeneration")
//   5. min_p       tokens at least p times as probable as the most probable one stay
//   6. temperature probabilities = softmax(logit / temperature) of what is left
// Temperature 0 is greedy: the largest logit after step 2. Equal logits: the lower id goes first.
//
// A sequence owns its sampler, whose random numbers depend on the seed and the number of tokens
// drawn only: the same seed gives the same tokens from the same logits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "fewbit/base/random.h"

namespace fewbit {

struct SamplerOptions {
  double temperature = 0.8;       // >= 0; 0: greedy.
  size_t top_k = 40;              // 0: all.
  double top_p = 0.95;            // (0, 1]; 1: all.
  double min_p = 0.05;            // [0, 1]; 0: all.
  double repetition_penalty = 1;  // > 0; 1: none.
  double frequency_penalty = 0, presence_penalty = 0;
  size_t penalty_window = 64;  // 0: the whole sequence.
  std::map<int32_t, double> logit_bias;
  uint64_t seed = 0;

  // Error that names the option, its value and what is allowed.
  void validate() const;
};

struct TokenProbability {
  int32_t token = 0;
  double probability = 0;
};

class Sampler {
 public:
  // Only tokens below `vocabulary` are ever chosen: a model's logits may have rows that stand for
  // no token.
  Sampler(SamplerOptions options, size_t vocabulary);

  // Counts a token of the sequence: the prompt's, and every one that was chosen.
  void accept(int32_t token);
  // The next token; does not accept() it. Error if `logits` has fewer than `vocabulary` elements,
  // or if they hold a NaN.
  int32_t sample(std::span<const float> logits);
  // What sample() draws from, most probable first.
  std::vector<TokenProbability> distribution(std::span<const float> logits) const;

 private:
  struct Candidate {
    float logit;
    int32_t token;
  };
  static bool before(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }
  static std::vector<Candidate> every(std::span<const float> values);
  std::vector<Candidate> largest_logits(std::span<const float> values) const;
  // Steps 1 and 2.
  std::vector<float> adjusted(std::span<const float> logits) const;

  SamplerOptions options_;
  size_t vocabulary_;
  RandomStream random_;
  std::deque<int32_t> recent_;
  std::unordered_map<int32_t, size_t> counts_;  // Of the tokens in recent_.
};

}  // namespace fewbit
