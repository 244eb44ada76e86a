#include "fewbit/train/block_training.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/network/gemm.h"
#include "fewbit/train/schedule.h"

namespace fewbit {
namespace {

// Sequences of one forward pass where no gradient is wanted.
constexpr int64_t kPassSequences = 8;

// One block's tensors and what is trained in it.
struct Block {
  size_t index = 0;
  ParameterMap full;  // As they were before.
  std::vector<QuantizedLayer*> layers;
  std::vector<TrainedTensor> trained;  // Latent weights and what their quantizers learn.
  std::vector<at::Tensor> leaves;      // In the same order.
};

ParameterMap quantized_parameters(const Block& block) {
  ParameterMap parameters = block.full;
  for (const QuantizedLayer* layer : block.layers) {
    parameters[layer->name + ".weight"] = layer->quantizer->forward(layer->latent);
  }
  return parameters;
}

at::Tensor run_all(const Decoder& decoder, size_t block, const at::Tensor& inputs,
                   const ParameterMap& parameters, const BlockHooks& hooks) {
  const at::NoGradGuard no_gradient;
  std::vector<at::Tensor> outputs;
  for (int64_t first = 0; first < inputs.size(0); first += kPassSequences) {
    const int64_t count = std::min(kPassSequences, inputs.size(0) - first);
    outputs.push_back(
        decoder.run(block, {inputs.narrow(0, first, count), {}}, parameters, hooks).value);
  }
  return at::cat(outputs);
}

double mean_square(const at::Tensor& a, const at::Tensor& b) {
  double sum = 0;
  for (int64_t s = 0; s < a.size(0); ++s) {
    sum += (a[s] - b[s]).square().sum(at::kDouble).item<double>();
  }
  return sum / static_cast<double>(a.numel());
}

Block make_block(const Decoder& decoder, size_t index, const BlockPhase& phase,
                 NetworkQuantizers& quantizers, const std::vector<TrainedTensor>& tensors) {
  Block block;
  block.index = index;
  const auto value_of = [&](const std::string& name) {
    return std::find_if(tensors.begin(), tensors.end(),
                        [&](const TrainedTensor& tensor) { return tensor.name == name; })
        ->value;
  };
  for (const TensorSpec& tensor : decoder.blocks()[index].parameters) {
    block.full[tensor.name] = value_of(tensor.name).detach();
  }
  const std::string prefix = decoder.blocks()[index].name + ".";
  const auto add = [&](const std::string& name, const at::Tensor& leaf, double rate_factor) {
    TrainedTensor trained = trained_tensor(name, leaf.detach());
    trained.decay = false;
    trained.rate_factor = rate_factor;
    block.trained.push_back(std::move(trained));
    block.leaves.push_back(leaf);
  };
  for (QuantizedLayer& layer : quantizers.layers) {
    if (!layer.name.starts_with(prefix)) continue;
    block.layers.push_back(&layer);
    // Training changes the latent weights; the float stream needs them as they were.
    block.full[layer.name + ".weight"] = layer.latent.detach().clone();
    if (layer.quantizer->trains_weight()) {
      add(layer.name, layer.latent, phase.weight_rate / phase.rate);
    }
    for (const QuantizerTensor& parameter : layer.quantizer->parameters()) {
      add(layer.name + "." + parameter.name, parameter.tensor, 1);
    }
  }
  return block;
}

void train_block(const Decoder& decoder, const BlockPhase& phase, const at::Tensor& inputs,
                 const at::Tensor& targets, const BlockHooks& hooks, Block& block) {
  const int64_t sequences = inputs.size(0);
  const auto batch = static_cast<int64_t>(phase.batch);
  const int64_t batches = (sequences + batch - 1) / batch;
  const uint64_t total = phase.epochs * static_cast<uint64_t>(batches);
  constexpr double kFloor = 1.0 / 20;
  const Schedule schedule{ScheduleKind::cosine, phase.rate, 0, kFloor};
  const AdamWOptions optimizer{
      .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0, .clip_norm = 0};
  for (uint64_t step = 0; step < total; ++step) {
    const int64_t first = static_cast<int64_t>(step) % batches * batch;
    const int64_t count = std::min(batch, sequences - first);
    const at::Tensor out = decoder
                               .run(block.index, {inputs.narrow(0, first, count), {}},
                                    quantized_parameters(block), hooks)
                               .value;
    at::mse_loss(out, targets.narrow(0, first, count)).backward();
    std::vector<at::Tensor> gradients;
    for (at::Tensor& leaf : block.leaves) {
      at::Tensor gradient = std::exchange(leaf.mutable_grad(), at::Tensor());
      gradients.push_back(gradient.defined() ? gradient.contiguous() : at::zeros_like(leaf));
    }
    const double norm = global_norm(gradients);
    require(std::isfinite(norm), "{}: step {}: the gradient is not finite; lower the rate",
            decoder.blocks()[block.index].name, step);
    adamw_step(block.trained, gradients, norm, learning_rate(schedule, step, total), step,
               optimizer);
  }
}

}  // namespace

std::vector<BlockOutcome> train_blocks(const Decoder& decoder, const BlockPhase& phase,
                                       const at::Tensor& inputs, NetworkQuantizers& quantizers,
                                       std::vector<TrainedTensor>& tensors) {
  const SerialLibraries serial;
  const BlockHooks hooks = quantizers.sites.hooks();
  std::vector<BlockOutcome> outcomes;
  at::Tensor full, quantized;
  for (size_t index = 0; index + 1 < decoder.blocks().size(); ++index) {
    if (interrupted()) throw Interrupted();
    Block block = make_block(decoder, index, phase, quantizers, tensors);
    if (index == 0) {
      full = run_all(decoder, index, inputs, block.full, {});
      quantized = full;
      for (QuantizedLayer& layer : quantizers.layers) {
        if (layer.name != "embed") continue;
        block.layers = {&layer};
        quantized = run_all(decoder, index, inputs, quantized_parameters(block), {});
      }
      continue;
    }
    const at::Tensor targets = run_all(decoder, index, full, block.full, {});
    const auto loss = [&] {
      const at::NoGradGuard no_gradient;
      return mean_square(run_all(decoder, index, quantized, quantized_parameters(block), hooks),
                         targets);
    };
    BlockOutcome outcome{decoder.blocks()[index].name, loss(), 0};
    if (!block.trained.empty()) {
      train_block(decoder, phase, quantized, targets, hooks, block);
    }
    const at::NoGradGuard no_gradient;
    full = targets;
    quantized = run_all(decoder, index, quantized, quantized_parameters(block), hooks);
    outcome.after = mean_square(quantized, targets);
    outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

void freeze_all_but_scales(const QuantizerOptions& options, NetworkQuantizers& quantizers,
                           std::vector<TrainedTensor>& tensors) {
  for (TrainedTensor& tensor : tensors) stop_training(tensor);
  // What the quantizers learned so far lives on in their frozen forms.
  std::erase_if(tensors,
                [](const TrainedTensor& tensor) { return is_quantizer_parameter(tensor.name); });
  require(quantizers.site_parameters.empty(),
          "trained activation quantizers do not go with frozen codes");
  for (QuantizedLayer& layer : quantizers.layers) {
    layer.quantizer = freeze_codes(*layer.quantizer, layer.latent.detach());
    layer.latent = layer.latent.detach();
    layer.parameters.clear();
    for (const QuantizerTensor& parameter : layer.quantizer->parameters()) {
      TrainedTensor trained = trained_tensor(
          fmt::format("quantizer.{}.{}", layer.name, parameter.name), parameter.tensor.detach());
      trained.decay = false;
      trained.rate_factor = options.rate_factor;
      tensors.push_back(std::move(trained));
      layer.parameters.push_back(tensors.size() - 1);
    }
  }
}

}  // namespace fewbit
