// TorchLanguageModel: a Decoder behind the LanguageModel interface of evaluation.
#pragma once

#include <memory>
#include <utility>

#include "fewbit/model/language_model.h"
#include "fewbit/network/decoder.h"

namespace fewbit {

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
  // The block's tensors that are not resident yet.
  ParameterMap read_block(size_t block) const;

  std::shared_ptr<const Decoder> decoder_;
  Residency residency_ = Residency::resident;
  ParameterMap parameters_;
  BlockHooks hooks_;
};

}  // namespace fewbit
