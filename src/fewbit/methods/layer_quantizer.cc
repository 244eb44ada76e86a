#include "fewbit/methods/layer_quantizer.h"

#include "fewbit/base/error.h"
#include "fewbit/base/log.h"
#include "fewbit/base/progress.h"
#include "fewbit/model/wiring.h"

namespace fewbit {
namespace {

constexpr const char* kEmbedding = "embed";
constexpr const char* kHead = "head";

double relative_error(MatrixView<const float> weights, MatrixView<const float> decoded) {
  double error = 0, norm = 0;
  for (size_t r = 0; r < weights.rows(); ++r) {
    const auto w = weights.row(r), q = decoded.row(r);
    for (size_t c = 0; c < w.size(); ++c) {
      const double difference = static_cast<double>(w[c]) - q[c];
      error += difference * difference;
      norm += static_cast<double>(w[c]) * w[c];
    }
  }
  return norm > 0 ? error / norm : 0;
}

}  // namespace

std::vector<std::string> selected_layers(const BlockContext& block,
                                         const LayerSelection& selection) {
  std::vector<std::string> layers;
  for (const Step& step : block.info().steps) {
    for (const std::string& linear : step.linears) {
      if (linear != kHead && selection.contains(linear)) layers.push_back(linear);
    }
  }
  if (block.info().name == kEmbedding && selection.contains(kEmbedding))
    layers.push_back(kEmbedding);
  if (block.info().name == kHead && !block.spec().tied_head && selection.contains(kHead)) {
    layers.push_back(kHead);
  }
  return layers;
}

void quantize_layer(BlockContext& block, const std::string& layer, std::string_view method,
                    const std::function<LayerOutcome(MatrixView<const float>)>& quantize) {
  const std::string name = layer + ".weight";
  const auto found = block.parameters.find(name);
  require(found != block.parameters.end(), "{}: the block has no such tensor", name);
  require(!block.quantized.contains(layer),
          "{}: an earlier pass of the recipe has quantized it already", layer);
  const Stopwatch clock;
  const at::Tensor weight = found->second.detach().to(at::kCPU, at::kFloat).contiguous();
  const MatrixView<const float> view(weight.data_ptr<float>(), static_cast<size_t>(weight.size(0)),
                                     static_cast<size_t>(weight.size(1)));
  LayerOutcome outcome = with_context(layer, [&] { return quantize(view); });
  at::Tensor decoded = at::empty_like(weight);
  const MatrixView<float> decoded_view(decoded.data_ptr<float>(), view.rows(), view.cols());
  outcome.matrix.dequantize_rows(0, decoded_view);
  for (const std::string& warning : outcome.warnings) warn("{}: {}", layer, warning);
  block.reports.push_back({.layer = layer,
                           .method = std::string(method),
                           .bits_per_weight = outcome.matrix.bits_per_weight(),
                           .relative_error = relative_error(view, decoded_view),
                           .objective = outcome.objective,
                           .seconds = clock.seconds(),
                           .warnings = std::move(outcome.warnings)});
  block.exact.try_emplace(name, found->second);
  found->second = decoded.to(found->second.device());
  block.quantized[layer] = std::move(outcome.matrix);
}

LayerSettings settings_of(const BlockContext& block, const std::string& layer) {
  if (!block.plan) return {};
  const auto found = block.plan->find(layer);
  return found == block.plan->end() ? LayerSettings{} : found->second;
}

}  // namespace fewbit
