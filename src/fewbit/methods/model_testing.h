// Help for tests of methods on whole models: a small decoder with loud input channels, quantized by
// recipes.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/calibrate/quantize_model.h"
#include "fewbit/methods/registry.h"

namespace fewbit::testing {

class LoudModel {
 public:
  enum class Kind { plain, experts, biased };

  explicit LoudModel(Kind kind = Kind::plain) {
    ModelSpec& spec = checkpoint.spec;
    spec.architecture = "llama";
    spec.vocab_size = 96;
    spec.hidden_size = spec.embedding_size = 64;
    spec.heads = 4;
    spec.kv_heads = 2;
    spec.head_size = spec.rotary_size = 16;
    spec.ffn_size = 96;
    spec.context = 64;
    spec.blocks.resize(2);
    spec.tied_head = true;
    if (kind == Kind::experts) {
      spec.experts = 4;
      spec.experts_per_token = 2;
    }
    if (kind == Kind::biased) {  // Like OPT: biases everywhere, ReLU.
      spec.norm = NormKind::layer;
      spec.norm_bias = spec.qkv_bias = spec.attention_output_bias = spec.mlp_bias = true;
      spec.gated_mlp = false;
      spec.activation = Activation::relu;
    }
    const auto drawn = random_tensors(spec, 5, 0.1);
    std::vector<std::pair<std::string, MemoryTensorSource::Tensor>> tensors;
    for (const std::string& name : drawn->names()) {
      MemoryTensorSource::Tensor tensor{drawn->shape(name), drawn->load(name)};
      if (name.ends_with("norm.weight")) {
        for (size_t c = 0; c < tensor.values.size(); c += 16) tensor.values[c] = 12;
      }
      tensors.emplace_back(name, std::move(tensor));
    }
    checkpoint.tensors = std::make_shared<MemoryTensorSource>(std::move(tensors));
    std::vector<int64_t> ids(8 * 64);
    RandomStream random(3, "tokens");
    for (int64_t& id : ids) id = static_cast<int64_t>(random.below(spec.vocab_size));
    calibration.tokens = at::tensor(ids, at::kLong).view({8, 64});
  }

  std::vector<std::unique_ptr<Pass>> passes(const std::string& recipe) const {
    return build_passes(Recipe::parse(recipe), methods(), checkpoint.spec);
  }
  QuantizedModel quantized(const std::string& recipe) const {
    return quantize_model(checkpoint, passes(recipe), calibration, {.show_progress = false});
  }
  at::Tensor hidden(const QuantizedModel& model) const {
    const at::NoGradGuard no_gradient;
    const Decoder decoder(checkpoint.spec, checkpoint.tensors);
    const ParameterMap parameters = dequantized_parameters(decoder, model);
    BlockState state{calibration.tokens, {}};
    for (size_t b = 0; b + 1 < decoder.blocks().size(); ++b) {
      state = decoder.run(b, state, parameters);
    }
    return state.value;
  }
  // Mean squared change of the last hidden states over the calibration tokens.
  double error(const QuantizedModel& model) const {
    return (hidden(model) - hidden(QuantizedModel{})).square().mean(at::kDouble).item<double>();
  }
  at::Tensor hidden(const std::string& recipe) const { return hidden(quantized(recipe)); }
  double error(const std::string& recipe) const { return error(quantized(recipe)); }
  at::Tensor weight(const std::string& layer) const {
    const std::vector<size_t> shape = checkpoint.tensors->shape(layer + ".weight");
    const std::vector<float> values = checkpoint.tensors->load(layer + ".weight");
    return at::tensor(at::ArrayRef<float>(values))
        .view({static_cast<int64_t>(shape[0]), static_cast<int64_t>(shape[1])});
  }

  bool is_independent_of_threads(const std::string& recipe) const {
    const size_t threads = thread_count();
    set_thread_count(1);
    const QuantizedModel one = quantized(recipe);
    set_thread_count(3);
    const QuantizedModel three = quantized(recipe);
    set_thread_count(threads);
    return one.layers == three.layers;
  }

  Checkpoint checkpoint;
  CalibrationSet calibration;
};

}  // namespace fewbit::testing
