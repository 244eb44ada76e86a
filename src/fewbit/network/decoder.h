// Decoder: the one decoder-only language model on LibTorch, driven by a ModelSpec, as a BlockModel;
// and TorchLanguageModel (torch_language_model.h) is the same behind the interface of evaluation.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <mutex>
#include <vector>

#include "fewbit/model/tensor_source.h"
#include "fewbit/network/block_model.h"
#include "fewbit/network/ops.h"

namespace fewbit {

// State and sites: see BlockModel. Block 0 takes tokens [batch, length] int64 to hidden states
// [batch, length, hidden]; blocks 1..L are "blocks.0".. ; the last takes hidden states to logits.
// A tied head reads "embed.weight".
class Decoder : public BlockModel {
 public:
  // Checks that `tensors` holds what `spec` needs. `tensors` may be null for a model whose
  // parameters are always given.
  Decoder(ModelSpec spec, std::shared_ptr<const TensorSource> tensors,
          at::Device device = at::kCPU);

  const ModelSpec& spec() const { return spec_; }
  const Wiring& wiring() const { return wiring_; }
  const at::Device& device() const { return device_; }
  const std::shared_ptr<const TensorSource>& tensors() const { return tensors_; }

  const std::vector<BlockInfo>& blocks() const override { return blocks_; }
  ParameterMap load_parameters(size_t block) const override;
  BlockState run(size_t block, const BlockState& state, const ParameterMap& parameters,
                 const BlockHooks& hooks = {}) const override;

  // Everything up to what the head multiplies: final norm and output projection applied.
  // tokens [batch, length] int64 -> [batch, length, embedding_size]. `parameters`: all blocks'.
  at::Tensor hidden_states(const at::Tensor& tokens, const ParameterMap& parameters,
                           const BlockHooks& hooks = {}) const;
  // The last step of it: from the last block's output.
  at::Tensor final_hidden(const at::Tensor& hidden, const ParameterMap& parameters,
                          const BlockHooks& hooks = {}) const;
  // Logits of rows of hidden_states(): [.., embedding_size] -> [.., vocab_size], soft cap included.
  at::Tensor logits(const at::Tensor& hidden, const ParameterMap& parameters) const;
  // Sum of the cross entropies (nats) of hidden_states() rows [rows, embedding_size] against
  // targets [rows] int64; differentiable, logits made a panel at a time.
  at::Tensor loss_sum(const at::Tensor& hidden, const at::Tensor& targets,
                      const ParameterMap& parameters) const;

  // What the head multiplies by: head.weight, or the embedding when tied.
  const at::Tensor& head_weight(const ParameterMap& parameters) const;
  // head.bias (undefined if none) and the soft cap of the logits.
  ops::HeadOptions head_options(const ParameterMap& parameters) const;

 private:
  class Run;

  // Tables are kept between runs of equal length; thread-safe.
  ops::RotaryTable rotary(size_t block, size_t length) const;

  ModelSpec spec_;
  Wiring wiring_;
  std::shared_ptr<const TensorSource> tensors_;
  at::Device device_;
  std::vector<BlockInfo> blocks_;
  struct CachedTable {
    BlockSpec block;
    size_t length;
    ops::RotaryTable table;
  };
  mutable std::mutex tables_mutex_;
  mutable std::vector<CachedTable> tables_;
};

// Whether loaded parameters may be the read-only mapped file itself: quick and without memory of
// their own, but never to be written to.
enum class Sharing { copy, share };

// A parameter map filled from stored tensors, float32 on `device`.
ParameterMap load_parameters(const std::vector<TensorSpec>& tensors,
                             const std::shared_ptr<const TensorSource>& source,
                             at::Device device = at::kCPU, Sharing sharing = Sharing::copy);

}  // namespace fewbit
