// A tiny run and a text with something to learn, for tests.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fewbit/base/random.h"
#include "fewbit/train/suite.h"
#include "fewbit/train/trainer.h"

namespace fewbit {

inline constexpr size_t kContext = 16, kVocabulary = 24;

// A text with something to learn: each token is likely followed by its successor.
inline std::vector<int32_t> tokens_of(size_t count) {
  RandomStream random(5, "text");
  std::vector<int32_t> tokens(count);
  for (size_t i = 1; i < count; ++i) {
    const bool jump = random.uniform() < 0.2;
    tokens[i] =
        static_cast<int32_t>(jump ? random.below(kVocabulary)
                                  : (static_cast<uint64_t>(tokens[i - 1]) + 1) % kVocabulary);
  }
  return tokens;
}

inline TrainingText text_of(size_t count) {
  TrainingText text;
  text.tokens = tokens_of(count);
  text.hash = "a text";
  return text;
}

inline TrainingRun run_of(const std::string& quantizer, const std::string& activations = "") {
  TrainingRun run;
  run.name = "run";
  run.spec = llama_spec(2, 64, 2, 64, kContext, false);
  run.spec.vocab_size = kVocabulary;
  run.context = kContext;
  run.sequences = 8;
  run.shards = 3;
  run.pass_tokens = 2 * kContext;
  run.total_tokens = 12 * run.tokens_per_step();
  run.schedule.peak = run.qat_schedule.peak = 3e-3;
  if (!quantizer.empty()) run.quantizers.plan = QuantizerPlan::parse(quantizer);
  run.quantizers.activations = activations;
  return run;
}

struct Trained {
  std::vector<double> losses;
  std::vector<at::Tensor> values;
};

inline Trained train_steps(Trainer& trainer, uint64_t until) {
  Trained result;
  while (trainer.state().step < until) result.losses.push_back(trainer.update().loss);
  for (const TrainedTensor& tensor : trainer.state().tensors) {
    result.values.push_back(tensor.value.clone());
  }
  return result;
}

inline void expect_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i])) << i;
}

}  // namespace fewbit
