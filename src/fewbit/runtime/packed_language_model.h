// PackedLanguageModel: a PackedModel behind the LanguageModel interface of evaluation.
#pragma once

#include <memory>

#include "fewbit/model/language_model.h"
#include "fewbit/runtime/packed_model.h"

namespace fewbit {

class PackedLanguageModel : public LanguageModel {
 public:
  explicit PackedLanguageModel(std::shared_ptr<const PackedModel> model);

  const ModelSpec& spec() const override { return model_->spec(); }
  std::unique_ptr<ForwardResult> forward(MatrixView<const int32_t> tokens) override;

 private:
  std::shared_ptr<const PackedModel> model_;
  std::unique_ptr<KvCache> cache_;  // Of the length that was last asked for.
};

}  // namespace fewbit
