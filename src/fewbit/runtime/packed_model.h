// PackedModel: a decoder on packed weights, run token by token against key/value caches.
//
//   const PackedModel model(checkpoint, {});
//   KvCache cache = model.make_cache(2048);
//   Panel hidden = model.prefill(cache, prompt);             // many tokens
//   Matrix logits(1, model.spec().vocab_size);
//   model.logits(hidden.view(), logits.view());
//   hidden = model.run({{&cache, {&token, 1}}});             // one more
//
// Weights are immutable: several threads may run one model at a time, each on caches of its own. A
// step may hold tokens of several sequences (continuous batching); every sequence gets the same
// bits whatever runs beside it, and whatever the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "fewbit/kernels/packed_matrix.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/model/model_spec.h"
#include "fewbit/runtime/kv_cache.h"
#include "fewbit/runtime/packed_weights.h"
#include "fewbit/runtime/panel.h"

namespace fewbit {

struct PackedModelOptions {
  // What linears multiply their weights with: int8 is fast, f32 exact.
  Activations activations = Activations::int8;
  CacheType cache = CacheType::f16;
  // Most tokens of one sequence in one step: bounds the memory of activations.
  size_t chunk = 512;
};

// New tokens of one sequence, at the positions behind those that its cache holds.
struct SequenceRun {
  KvCache* cache = nullptr;
  std::span<const int32_t> tokens;
  // Which rows are wanted: that of the last token, or all.
  bool all_rows = false;
};

class PackedModel {
 public:
  // Packs the weights of `tensors`, which lives on in the model. Error as pack_weights().
  PackedModel(ModelSpec spec, std::shared_ptr<const TensorSource> tensors,
              PackedModelOptions options = {});
  // Error if the checkpoint was trained with quantized activations of its own kind.
  explicit PackedModel(const Checkpoint& checkpoint, PackedModelOptions options = {});

  const ModelSpec& spec() const { return spec_; }
  const PackedModelOptions& options() const { return options_; }
  const PackedWeights& weights() const { return weights_; }

  // A cache for one sequence of up to `capacity` tokens; 0: the model's context. Learned positions
  // bound it: Error beyond.
  KvCache make_cache(size_t capacity = 0) const;

  // One step: runs the tokens, appends their keys and values to the caches, and returns what the
  // head reads, the wanted rows of all runs in order. Error, before anything is changed: no tokens,
  // a token outside the vocabulary, more tokens than the cache's chunk or capacity allows, one
  // cache in two runs.
  Panel run(std::span<const SequenceRun> runs) const;
  Panel run(std::initializer_list<SequenceRun> runs) const {
    return run(std::span(runs.begin(), runs.size()));
  }
  // Any number of tokens, in steps of at most a chunk; returns the row of the last. Throws
  // Interrupted between steps.
  Panel prefill(KvCache& cache, std::span<const int32_t> tokens) const;

  // Logits [rows, vocab_size] of rows that run() returned.
  void logits(MatrixView<const float> hidden, MatrixView<float> out) const;

 private:
  class Step;
  void check(std::span<const SequenceRun> runs) const;

  ModelSpec spec_;
  std::shared_ptr<const TensorSource> tensors_;
  PackedModelOptions options_;
  PackedWeights weights_;
};

}  // namespace fewbit
