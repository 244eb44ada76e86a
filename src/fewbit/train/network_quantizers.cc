#include "fewbit/train/network_quantizers.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <mutex>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/network/gemm.h"
#include "fewbit/train/quantizer_registry.h"

namespace fewbit {
namespace {

size_t append_parameter(std::string name, const at::Tensor& leaf, double rate_factor,
                        std::vector<TrainedTensor>& tensors) {
  TrainedTensor tensor = trained_tensor(std::move(name), leaf.detach());  // Shares the values.
  tensor.decay = false;
  tensor.rate_factor = rate_factor;
  tensors.push_back(std::move(tensor));
  return tensors.size() - 1;
}

size_t place_of(const std::vector<TrainedTensor>& tensors, const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const TrainedTensor& tensor) { return tensor.name == name; });
  require(found != tensors.end(), "{}: the model has no such tensor", name);
  return static_cast<size_t>(found - tensors.begin());
}

// Inputs of the quantized linears. The embedding has none.
std::vector<std::string> quantized_sites(const QuantizerPlan& plan, const ModelSpec& spec) {
  std::vector<std::string> sites;
  const Wiring wiring = wiring_of(spec);
  const auto add = [&](const Step& step) {
    const bool quantized = std::any_of(step.linears.begin(), step.linears.end(),
                                       [&](const std::string& l) { return plan.choice(l); });
    if (quantized) sites.push_back(step.site);
  };
  for (const BlockWiring& block : wiring.blocks) {
    for (const Step& step : block.steps) add(step);
  }
  if (!spec.tied_head) add(wiring.head);
  return sites;
}

}  // namespace

bool is_quantizer_parameter(std::string_view name) {
  return name.starts_with("quantizer.") || name.starts_with("activation.");
}

std::vector<QuantizerTensor> NetworkQuantizers::buffers() const {
  std::vector<QuantizerTensor> all;
  for (const QuantizedLayer& layer : layers) {
    for (const QuantizerTensor& buffer : layer.quantizer->buffers()) {
      all.push_back({fmt::format("quantizer.{}.{}", layer.name, buffer.name), buffer.tensor});
    }
  }
  return all;
}

std::vector<at::Tensor> NetworkQuantizers::fake_quantized() const {
  std::vector<at::Tensor> weights(layers.size());
  parallel_for(layers.size(), [&](size_t l) {
    const SerialLibraries serial;
    const at::NoGradGuard no_gradient;
    weights[l] = layers[l].quantizer->forward(layers[l].latent);
  });
  return weights;
}

std::map<std::string, QuantizedMatrix, std::less<>> NetworkQuantizers::bake() const {
  std::map<std::string, QuantizedMatrix, std::less<>> baked;
  std::mutex mutex;
  parallel_for(layers.size(), [&](size_t l) {
    const QuantizedLayer& layer = layers[l];
    if (!layer.quantizer->packs()) return;
    const SerialLibraries serial;
    QuantizedMatrix matrix =
        with_context(layer.name, [&] { return layer.quantizer->bake(layer.latent.detach()); });
    const std::lock_guard lock(mutex);
    baked.emplace(layer.name, std::move(matrix));
  });
  return baked;
}

NetworkQuantizers make_quantizers(const QuantizerOptions& options, const ModelSpec& spec,
                                  std::vector<TrainedTensor>& tensors) {
  NetworkQuantizers quantizers;
  for (const std::string& name : options.plan.layers(spec)) {
    QuantizedLayer layer;
    layer.name = name;
    layer.weight = place_of(tensors, name + ".weight");
    quantizers.layers.push_back(std::move(layer));
  }
  parallel_for(quantizers.layers.size(), [&](size_t l) {
    const SerialLibraries serial;
    QuantizedLayer& layer = quantizers.layers[l];
    const QuantizerChoice& choice = *options.plan.choice(layer.name);
    layer.latent = tensors[layer.weight].value.detach();
    layer.quantizer = with_context(
        layer.name, [&] { return make_fake_quant(choice.name, choice.options, layer.latent); });
    layer.latent.set_requires_grad(layer.quantizer->trains_weight());
  });
  for (QuantizedLayer& layer : quantizers.layers) {
    if (!layer.quantizer->trains_weight()) stop_training(tensors[layer.weight]);
    for (const QuantizerTensor& parameter : layer.quantizer->parameters()) {
      layer.parameters.push_back(
          append_parameter(fmt::format("quantizer.{}.{}", layer.name, parameter.name),
                           parameter.tensor, options.rate_factor, tensors));
    }
  }
  if (!options.activations.empty()) {
    quantizers.sites = ActivationSites(options.activations, quantized_sites(options.plan, spec));
    for (const QuantizerTensor& parameter : quantizers.sites.parameters()) {
      quantizers.site_parameters.push_back(append_parameter(
          "activation." + parameter.name, parameter.tensor, options.rate_factor, tensors));
    }
  }
  return quantizers;
}

}  // namespace fewbit
