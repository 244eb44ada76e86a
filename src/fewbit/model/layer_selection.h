// Layers by pattern: what `layers=` of a recipe or of a quantizer line selects.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "fewbit/model/model_spec.h"

namespace fewbit {

// "blocks" (every linear of the blocks, the default), "embed",
// "head", or patterns over canonical names with '*', joined by '+': "blocks.*.mlp.*+head".
class LayerSelection {
 public:
  LayerSelection() : LayerSelection("blocks") {}
  // Error if a part of the text is empty.
  explicit LayerSelection(std::string text);
  bool contains(std::string_view layer) const;
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::vector<std::string> patterns_;
};

// Error that names what there is unless the selection meets a linear of the blocks, the embedding
// or an untied head of `spec`.
void check_selection(const ModelSpec& spec, const LayerSelection& selection);

}  // namespace fewbit
