// LanguageModel: tokens in, logits out, whatever computes them. The LibTorch decoder (network/) and
// the packed runtime implement it; perplexity, tasks, trust measures and generation know only this.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "fewbit/base/matrix.h"
#include "fewbit/model/model_spec.h"

namespace fewbit {

// The outcome of one forward pass over a batch; logits are made a panel of rows at a time, so that
// batch * length * vocabulary floats never exist at once.
class ForwardResult {
 public:
  virtual ~ForwardResult() = default;
  // batch * length; row b * length + t belongs to position t of sequence b.
  virtual size_t rows() const = 0;
  // Logits [count, vocab_size] of rows [first, first + count) into `out`, in host memory.
  virtual void logits(size_t first, MatrixView<float> out) = 0;
};

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual const ModelSpec& spec() const = 0;
  // Runs `tokens` [batch, length], every sequence from position 0, without a cache. Errors: a token
  // outside the vocabulary, a length beyond what learned positions allow. Not thread-safe.
  virtual std::unique_ptr<ForwardResult> forward(MatrixView<const int32_t> tokens) = 0;
};

}  // namespace fewbit
