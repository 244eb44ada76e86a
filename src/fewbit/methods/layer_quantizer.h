// What all passes that choose the codes of single layers share: which layers of a block they work
// on, how a layer's weight is taken out and its dequantized form put back, what is reported.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/calibrate/pass.h"

namespace fewbit {

// One quantized layer and what is to be said of it.
struct LayerOutcome {
  QuantizedMatrix matrix;
  std::optional<double> objective;
  std::vector<std::string> warnings;
};

// Layers of this block that `selection` holds: linears of steps, "embed" in the embedding block,
// "head" in the head block if the head is not tied.
std::vector<std::string> selected_layers(const BlockContext& block,
                                         const LayerSelection& selection);

// Runs `quantize` on the layer's weight [out, in], stores the result, replaces the parameter by the
// dequantized weight and adds a report.
void quantize_layer(BlockContext& block, const std::string& layer, std::string_view method,
                    const std::function<LayerOutcome(MatrixView<const float>)>& quantize);

// The plan's settings for a layer, or none.
LayerSettings settings_of(const BlockContext& block, const std::string& layer);

}  // namespace fewbit
