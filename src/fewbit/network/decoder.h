// Decoder: the one decoder-only language model on LibTorch, driven by a ModelSpec, as a BlockModel;
// and TorchLanguageModel, the same behind the LanguageModel interface of evaluation.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "fewbit/model/language_model.h"
#include "fewbit/model/tensor_source.h"
#include "fewbit/network/block_model.h"

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

  const std::vector<BlockInfo>& blocks() const override { return blocks_; }
  ParameterMap load_parameters(size_t block) const override;
  BlockState run(size_t block, const BlockState& state, const ParameterMap& parameters,
                 const BlockHooks& hooks = {}) const override;

  // Everything up to what the head multiplies: final norm and output projection applied.
  // tokens [batch, length] int64 -> [batch, length, embedding_size]. `parameters`: all blocks'.
  at::Tensor hidden_states(const at::Tensor& tokens, const ParameterMap& parameters,
                           const BlockHooks& hooks = {}) const;
  // The same for the head alone, from the last block's output.
  at::Tensor final_hidden(const at::Tensor& hidden, const ParameterMap& parameters) const;
  // Logits of rows of hidden_states(): [.., embedding_size] -> [.., vocab_size], soft cap included.
  at::Tensor logits(const at::Tensor& hidden, const ParameterMap& parameters) const;
  // Sum of the cross entropies (nats) of hidden_states() rows [rows, embedding_size] against
  // targets [rows] int64; differentiable, logits made a panel at a time.
  at::Tensor loss_sum(const at::Tensor& hidden, const at::Tensor& targets,
                      const ParameterMap& parameters) const;

 private:
  ModelSpec spec_;
  Wiring wiring_;
  std::shared_ptr<const TensorSource> tensors_;
  at::Device device_;
  std::vector<BlockInfo> blocks_;
};

// A parameter map filled from stored tensors: float32 on `device`, sharing the mapped file where it
// holds exactly that.
ParameterMap load_parameters(const std::vector<TensorSpec>& tensors,
                             const std::shared_ptr<const TensorSource>& source,
                             at::Device device = at::kCPU);

class TorchLanguageModel : public LanguageModel {
 public:
  enum class Residency {
    resident,  // All parameters are read once and stay in memory.
    streamed   // Every forward pass reads each block when it comes to it.
  };
  explicit TorchLanguageModel(std::shared_ptr<const Decoder> decoder,
                              Residency residency = Residency::resident);
  // Runs given parameters: a model in training, or one with replaced weights.
  TorchLanguageModel(std::shared_ptr<const Decoder> decoder, ParameterMap parameters);

  const ModelSpec& spec() const override { return decoder_->spec(); }
  std::unique_ptr<ForwardResult> forward(MatrixView<const int32_t> tokens) override;

  // Applied in every following forward pass (activation or cache quantization).
  void set_hooks(BlockHooks hooks) { hooks_ = std::move(hooks); }

 private:
  std::shared_ptr<const Decoder> decoder_;
  Residency residency_ = Residency::resident;
  ParameterMap parameters_;
  BlockHooks hooks_;
};

}  // namespace fewbit
