#include "fewbit/train/gradient_step.h"

#include <algorithm>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/memory.h"
#include "fewbit/base/threads.h"
#include "fewbit/network/gemm.h"
#include "fewbit/network/row_kernels.h"

namespace fewbit {
namespace {

// Gradients start at multiples of this many floats: a cache line.
constexpr size_t kAlignment = 16;

void round_into(const at::Tensor& from, at::Tensor& to) {
  kernels::to_bf16(from.data_ptr<float>(), static_cast<size_t>(from.numel()),
                   reinterpret_cast<Bf16*>(to.data_ptr<at::BFloat16>()));
}

size_t aligned(size_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

GradientStep::GradientStep(const Decoder& decoder, const GradientOptions& options,
                           std::vector<TrainedTensor>& tensors, NetworkQuantizers* quantizers)
    : decoder_(decoder),
      options_(options),
      tensors_(tensors),
      quantizers_(quantizers && !quantizers->empty() ? quantizers : nullptr),
      layer_of_(tensors.size()) {
  require(options.shards > 0, "at least one shard is needed");
  keep_freed_memory();
  if (quantizers_) {
    for (QuantizedLayer& layer : quantizers_->layers) layer_of_[layer.weight] = &layer;
    effective_.resize(quantizers_->layers.size());
  }
  if (options_.dtype == ops::MatmulDtype::bf16) {
    for (size_t t = 0; t < tensors_.size(); ++t) {
      TrainedTensor& tensor = tensors_[t];
      tensor.bf16_copy = at::Tensor();
      if (tensor.value.dim() != 2 || layer_of_[t] || is_quantizer_parameter(tensor.name)) continue;
      tensor.bf16_copy = at::empty(tensor.value.sizes(), at::kBFloat16);
    }
    effective_bf16_.resize(effective_.size());
    refresh();
  }
}

void GradientStep::refresh() {
  parallel_for(tensors_.size(), [&](size_t t) {
    TrainedTensor& tensor = tensors_[t];
    if (tensor.bf16_copy.defined()) round_into(tensor.value, tensor.bf16_copy);
  });
}

uint64_t GradientStep::buffer_bytes(const GradientOptions& options, uint64_t params,
                                    uint64_t quantized) {
  const uint64_t copies = options.dtype == ops::MatmulDtype::bf16 ? sizeof(Bf16) * params : 0;
  // What the quantizers make of the weights, and the gradient behind them.
  const uint64_t fake = 2 * sizeof(float) * quantized;
  return options.shards * sizeof(float) * params + copies + fake;
}

void GradientStep::make_shard(Shard& shard) const {
  // Constants have no gradient, unless the quantizer of a constant weight learns something.
  const auto wants_gradient = [&](size_t t) {
    if (is_quantizer_parameter(tensors_[t].name)) return false;
    return tensors_[t].trained || (layer_of_[t] && !layer_of_[t]->parameters.empty());
  };
  if (quantizers_) shard.sites = quantizers_->sites.replica();
  shard.hooks = shard.sites.hooks();
  size_t count = 0;
  for (size_t t = 0; t < tensors_.size(); ++t) {
    if (wants_gradient(t)) count += aligned(static_cast<size_t>(tensors_[t].value.numel()));
  }
  const auto site_parameters = shard.sites.parameters();
  count += aligned(1) * site_parameters.size();
  shard.memory = at::empty({static_cast<int64_t>(count)}, at::kFloat);
  shard.gradients.resize(tensors_.size());
  int64_t first = 0;
  const auto cut = [&](const at::Tensor& like) {
    at::Tensor gradient = shard.memory.narrow(0, first, like.numel()).view(like.sizes());
    first += static_cast<int64_t>(aligned(static_cast<size_t>(like.numel())));
    return gradient;
  };
  for (size_t t = 0; t < tensors_.size(); ++t) {
    const TrainedTensor& tensor = tensors_[t];
    if (is_quantizer_parameter(tensor.name)) continue;
    at::Tensor leaf = tensor.value.detach();  // Shares the values.
    if (wants_gradient(t)) {
      leaf.set_requires_grad(true);
      leaf.mutable_grad() = shard.gradients[t] = cut(tensor.value);
    }
    shard.parameters[tensor.name] = leaf;
  }
  for (size_t i = 0; i < site_parameters.size(); ++i) {
    at::Tensor leaf = site_parameters[i].tensor;
    leaf.mutable_grad() = shard.gradients[quantizers_->site_parameters[i]] = cut(leaf);
  }
}

void GradientStep::quantize_weights() {
  const bool bf16 = options_.dtype == ops::MatmulDtype::bf16;
  if (quantizers_) {
    parallel_for(effective_.size(), [&](size_t l) {
      const SerialLibraries serial;
      const QuantizedLayer& layer = quantizers_->layers[l];
      effective_[l] = layer.quantizer->forward(layer.latent);
      if (!bf16) return;
      if (!effective_bf16_[l].defined()) {
        effective_bf16_[l] = at::empty(effective_[l].sizes(), at::kBFloat16);
      }
      effective_[l] = effective_[l].contiguous();
      round_into(effective_[l], effective_bf16_[l]);
    });
  }
  if (!bf16) return;
  copies_ = {};
  const auto offer = [&](const at::Tensor& weight, const at::Tensor& copy) {
    copies_.set(weight.data_ptr<float>(),
                reinterpret_cast<const Bf16*>(copy.data_ptr<at::BFloat16>()));
  };
  for (const TrainedTensor& tensor : tensors_) {
    if (tensor.bf16_copy.defined()) offer(tensor.value, tensor.bf16_copy);
  }
  for (size_t l = 0; l < effective_.size(); ++l) offer(effective_[l], effective_bf16_[l]);
}

double GradientStep::run(const TrainingBatch& batch) {
  const int64_t sequences = batch.inputs.size(0);
  const size_t shards = std::min(options_.shards, static_cast<size_t>(sequences));
  require(shards > 0, "an empty batch");
  while (shards_.size() < shards) make_shard(shards_.emplace_back());
  quantize_weights();
  std::vector<Shard*> used;
  for (Shard& shard : shards_) {
    if (used.size() < shards) used.push_back(&shard);
  }
  const double scale = 1.0 / static_cast<double>(batch.inputs.numel());
  parallel_for(shards, [&](size_t s) {
    const int64_t first = sequences * static_cast<int64_t>(s) / static_cast<int64_t>(shards);
    const int64_t last = sequences * static_cast<int64_t>(s + 1) / static_cast<int64_t>(shards);
    run_shard(*used[s], batch.inputs.narrow(0, first, last - first),
              batch.targets.narrow(0, first, last - first), scale);
  });
  std::vector<std::vector<at::Tensor>> parts;
  double loss = 0;
  for (const Shard* shard : used) {
    parts.push_back(shard->gradients);
    loss += shard->loss;
  }
  norm_ = reduce_gradients(parts);
  gradients_ = parts[0];
  if (quantizers_) through_quantizers();
  return loss * scale;
}

void GradientStep::through_quantizers() {
  parallel_for(effective_.size(), [&](size_t l) {
    const SerialLibraries serial;
    QuantizedLayer& layer = quantizers_->layers[l];
    at::Tensor& gradient = gradients_[layer.weight];
    if (effective_[l].requires_grad()) effective_[l].backward(gradient);
    effective_[l].reset();  // With its graph.
    gradient = std::exchange(layer.latent.mutable_grad(), at::Tensor());
    const auto learned = layer.quantizer->parameters();
    for (size_t i = 0; i < learned.size(); ++i) {
      at::Tensor leaf = learned[i].tensor;
      gradients_[layer.parameters[i]] = std::exchange(leaf.mutable_grad(), at::Tensor());
    }
  });
  // Some quantizers give no gradient at all to what they could train.
  for (size_t t = 0; t < tensors_.size(); ++t) {
    if (!tensors_[t].trained) {
      gradients_[t] = at::Tensor();
    } else if (!gradients_[t].defined()) {
      gradients_[t] = at::zeros_like(tensors_[t].value);
    } else {
      gradients_[t] = gradients_[t].contiguous();
    }
  }
  norm_ = global_norm(gradients_);
}

int64_t GradientStep::pass_sequences(int64_t context) const {
  return std::max<int64_t>(1, static_cast<int64_t>(options_.pass_tokens) / context);
}

at::Tensor GradientStep::loss_sum(const Shard& shard, const at::Tensor& inputs,
                                  const at::Tensor& targets) const {
  if (teacher_) {
    return distilled_loss_sum(*teacher_, decoder_, shard.parameters, shard.hooks, inputs, targets);
  }
  const at::Tensor hidden = decoder_.hidden_states(inputs, shard.parameters, shard.hooks);
  return decoder_.loss_sum(hidden.flatten(0, 1), targets.flatten(), shard.parameters);
}

void GradientStep::run_shard(Shard& shard, const at::Tensor& inputs, const at::Tensor& targets,
                             double scale) {
  const SerialLibraries serial;
  const ops::AccumulateIntoLeaves direct;
  const ops::UseBf16Copies copies(copies_);
  const ops::MatmulDtype before = ops::matmul_dtype();
  ops::set_matmul_dtype(options_.dtype);
  shard.memory.zero_();
  shard.loss = 0;
  for (size_t l = 0; l < effective_.size(); ++l) {
    const size_t t = quantizers_->layers[l].weight;
    at::Tensor leaf = effective_[l].detach();
    if (shard.gradients[t].defined()) {
      leaf.set_requires_grad(true);
      leaf.mutable_grad() = shard.gradients[t];
    }
    shard.parameters[tensors_[t].name] = leaf;
  }
  const int64_t pass = pass_sequences(inputs.size(1));
  for (int64_t first = 0; first < inputs.size(0); first += pass) {
    const int64_t count = std::min(pass, inputs.size(0) - first);
    const at::Tensor loss =
        loss_sum(shard, inputs.narrow(0, first, count), targets.narrow(0, first, count));
    if (loss.requires_grad()) loss.backward(at::scalar_tensor(scale, at::kFloat));
    shard.loss += loss.item<double>();
  }
  ops::set_matmul_dtype(before);
}

void GradientStep::start_activations(const TrainingBatch& batch) {
  if (!quantizers_ || quantizers_->site_parameters.empty()) return;
  const at::NoGradGuard no_gradient;
  const SerialLibraries serial;
  ParameterMap parameters;
  for (const TrainedTensor& tensor : tensors_) parameters[tensor.name] = tensor.value;
  const auto weights = quantizers_->fake_quantized();
  for (size_t l = 0; l < weights.size(); ++l) {
    parameters[tensors_[quantizers_->layers[l].weight].name] = weights[l];
  }
  const int64_t count = std::min(pass_sequences(batch.inputs.size(1)), batch.inputs.size(0));
  (void)decoder_.hidden_states(batch.inputs.narrow(0, 0, count), parameters,
                               quantizers_->sites.starting_hooks());
}

}  // namespace fewbit
