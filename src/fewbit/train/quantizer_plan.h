// Which quantizer trains which layer: the `quantizer` line of a model in a suite.
//
//   paretoq:bits=2
//   paretoq:bits=2 | lsq:bits=4,layers=blocks.*.mlp.down | lsq:bits=8,layers=embed
//
// Each part is a quantizer of quantizer_registry.h with its options, and `layers` as in a recipe
// (default: blocks). A later part takes layers from earlier ones; `float:layers=...` leaves layers
// in full precision.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/model/layer_selection.h"
#include "fewbit/model/model_spec.h"

namespace fewbit {

struct QuantizerChoice {
  std::string name;
  std::map<std::string, std::string> options;
  LayerSelection layers;
  double bits = 0;  // Nominal, per weight; 1.58 for ternary.
};

class QuantizerPlan {
 public:
  // No layer is quantized.
  QuantizerPlan() = default;
  // Checks names, options and values; errors say what is known.
  static QuantizerPlan parse(std::string_view line);

  bool empty() const { return choices_.empty(); }
  // Canonical; parse(text()) is the same plan.
  const std::string& text() const { return text_; }
  // Null if the layer stays in full precision.
  const QuantizerChoice* choice(std::string_view layer) const;
  // Quantized layers: the embedding, linears in execution order, the head. Error if a part of the
  // line selects none of `spec`.
  std::vector<std::string> layers(const ModelSpec& spec) const;
  // Mean of the nominal bits over the quantized weights; 0 without any.
  double mean_bits(const ModelSpec& spec) const;

 private:
  std::string text_;
  std::vector<QuantizerChoice> choices_;
};

}  // namespace fewbit
