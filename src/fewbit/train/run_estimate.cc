#include "fewbit/train/run_estimate.h"

#include <algorithm>

#include "fewbit/base/progress.h"
#include "fewbit/base/random.h"
#include "fewbit/model/wiring.h"
#include "fewbit/train/trainer.h"

namespace fewbit {
namespace {

uint64_t quantized_weights(const TrainingRun& run) {
  uint64_t weights = 0;
  for (const TensorSpec& tensor : model_tensors(run.spec)) {
    if (!tensor.name.ends_with(".weight") || tensor.shape.size() != 2) continue;
    if (!run.quantizers.plan.choice(tensor.name.substr(0, tensor.name.rfind('.')))) continue;
    weights += tensor.shape[0] * tensor.shape[1];
  }
  return weights;
}

// What one shard keeps of its pass for the backward pass, and the gradient of the head that the
// loss makes.
uint64_t pass_bytes(const TrainingRun& run) {
  const ModelSpec& s = run.spec;
  const uint64_t tokens =
      std::max<uint64_t>(run.context, run.pass_tokens / run.context * run.context);
  const uint64_t element = run.dtype == ops::MatmulDtype::bf16 ? 2 : sizeof(float);
  const uint64_t q = s.heads * s.head_size, kv = s.kv_heads * s.head_size;
  // Normed inputs, q, k, v, mixed values, gate, up and their product; the stream twice in float32.
  const uint64_t features = 2 * s.hidden_size + 2 * q + 2 * kv + 3 * s.ffn_size;
  const uint64_t blocks =
      s.blocks.size() * tokens * (features * element + 2 * s.hidden_size * sizeof(float));
  const uint64_t head = s.vocab_size * s.hidden_size * sizeof(float);
  // Panels of logits are bounded; of small vocabularies they are smaller than this.
  constexpr uint64_t kPanelBytes = uint64_t{8} << 20;
  return blocks + head + kPanelBytes;
}

}  // namespace

RunEstimate estimate(const TrainingRun& run, size_t threads) {
  const uint64_t params = run.spec.total_params(), quantized = quantized_weights(run);
  const auto total = static_cast<double>(params);
  const auto tokens = static_cast<double>(run.total_steps() * run.tokens_per_step());
  const auto attention = 6.0 * static_cast<double>(run.spec.blocks.size() * run.spec.heads *
                                                   run.spec.head_size * run.context);
  RunEstimate cost;
  cost.flops = tokens * (6 * total + attention);
  constexpr uint64_t kCopies = 3;  // weights, two moments
  cost.state_bytes = kCopies * sizeof(float) * params;
  if (run.distillation) {
    cost.flops += tokens * run.qat_share * (2 * total + attention / 3);
    cost.state_bytes += sizeof(float) * params;
  }
  const size_t shards = std::min(run.shards, run.sequences);
  cost.working_bytes = GradientStep::buffer_bytes({shards, run.dtype}, params, quantized) +
                       std::min(shards, threads) * pass_bytes(run);
  cost.packed_bytes = static_cast<uint64_t>(run.quantizers.plan.mean_bits(run.spec) *
                                            static_cast<double>(quantized) / 8);
  return cost;
}

double timed_step(const TrainingRun& run) {
  constexpr size_t kSteps = 3;
  TrainingRun timed = run;
  if (!timed.quantizers.plan.empty()) timed.qat_share = 1;
  if (timed.distillation && timed.distillation->teacher.empty() && timed.init.empty()) {
    // The teacher would be what the float phase ends with; any model of that size takes as long.
    timed.qat_share = 0.5;
    timed.total_tokens = 2 * timed.tokens_per_step();
  }
  RandomStream random(0, "timed step");
  std::vector<int32_t> tokens(timed.tokens_per_step() + 1);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(run.spec.vocab_size));
  Trainer trainer(timed, tokens);
  (void)trainer.update();  // Allocates.
  std::vector<double> seconds;
  for (size_t i = 0; i < kSteps; ++i) {
    const Stopwatch clock;
    (void)trainer.update(0.0);
    seconds.push_back(clock.seconds());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kSteps / 2];
}

}  // namespace fewbit
