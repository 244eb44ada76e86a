// The fake quantizers of a network under training: of the weights of the layers that a
// QuantizerPlan names, and of the inputs of those linears.
//
// A weight under a quantizer stays in the list of trained tensors as its latent float32 values.
// What a quantizer learns joins that list as "quantizer.LAYER.NAME", without weight decay and with
// a learning rate of its own; what activation quantizers learn as "activation.SITE.NAME".
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fewbit/formats/quantized_matrix.h"
#include "fewbit/model/wiring.h"
#include "fewbit/train/activation_sites.h"
#include "fewbit/train/adamw.h"
#include "fewbit/train/fake_quant.h"
#include "fewbit/train/quantizer_plan.h"

namespace fewbit {

// Whether a trained tensor is one of those, rather than the network's own.
bool is_quantizer_parameter(std::string_view name);

struct QuantizedLayer {
  std::string name;                // "blocks.0.attn.q"
  size_t weight = 0;               // Place of the latent weight in the list of trained tensors,
  std::vector<size_t> parameters;  // and of what the quantizer learns.
  at::Tensor latent;               // Shares the values; a leaf if the quantizer trains it.
  std::unique_ptr<FakeQuant> quantizer;
};

struct NetworkQuantizers {
  std::vector<QuantizedLayer> layers;
  ActivationSites sites;
  std::vector<size_t> site_parameters;  // In the order of sites.parameters().

  bool empty() const { return layers.empty() && sites.empty(); }

  // Values that are not trained but belong to the state, named "quantizer.LAYER.NAME".
  std::vector<QuantizerTensor> buffers() const;
  // The weight that the network runs with, of every layer, all on all threads; no gradients.
  std::vector<at::Tensor> fake_quantized() const;
  // Codes by layer name. Layers without a packed form are absent.
  std::map<std::string, QuantizedMatrix, std::less<>> bake() const;
};

struct QuantizerOptions {
  QuantizerPlan plan;
  std::string activations;  // "absmax:bits=8"; empty: none.
  double rate_factor = 1;   // Learning rate of the quantizers' parameters over that of the step.
  // Codes are chosen when training starts, and of the whole model the scales alone are trained.
  bool scales_only = false;
};

// Quantizers that start from the weights in `tensors`, to which what they learn is appended. The
// parameters of activation quantizers are still unset. A weight that a quantizer does not train is
// marked so in `tensors`.
NetworkQuantizers make_quantizers(const QuantizerOptions& options, const ModelSpec& spec,
                                  std::vector<TrainedTensor>& tensors);

}  // namespace fewbit
