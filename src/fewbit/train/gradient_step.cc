#include "fewbit/train/gradient_step.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/base/memory.h"
#include "fewbit/base/threads.h"
#include "fewbit/network/gemm.h"
#include "fewbit/network/row_kernels.h"

namespace fewbit {
namespace {

// Tokens of one forward and backward pass. Fewer keep the activations in the caches, more let each
// operation and each pass over the weights' gradients count for less.
constexpr size_t kPassTokens = 1024;

// Gradients start at multiples of this many floats: a cache line.
constexpr size_t kAlignment = 16;

size_t aligned(size_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

GradientStep::GradientStep(const Decoder& decoder, const GradientOptions& options,
                           std::vector<TrainedTensor>& tensors)
    : decoder_(decoder), options_(options), tensors_(tensors) {
  require(options.shards > 0, "at least one shard is needed");
  keep_freed_memory();
  if (options_.dtype == ops::MatmulDtype::bf16) {
    for (TrainedTensor& tensor : tensors_) {
      if (tensor.value.dim() != 2) continue;
      tensor.bf16_copy = at::empty(tensor.value.sizes(), at::kBFloat16);
      copies_.set(tensor.value.data_ptr<float>(),
                  reinterpret_cast<const Bf16*>(tensor.bf16_copy.data_ptr<at::BFloat16>()));
    }
    refresh();
  }
}

void GradientStep::refresh() {
  parallel_for(tensors_.size(), [&](size_t t) {
    TrainedTensor& tensor = tensors_[t];
    if (!tensor.bf16_copy.defined()) return;
    kernels::to_bf16(tensor.value.data_ptr<float>(), static_cast<size_t>(tensor.value.numel()),
                     reinterpret_cast<Bf16*>(tensor.bf16_copy.data_ptr<at::BFloat16>()));
  });
}

uint64_t GradientStep::buffer_bytes(const GradientOptions& options, uint64_t params) {
  const uint64_t copies = options.dtype == ops::MatmulDtype::bf16 ? sizeof(Bf16) * params : 0;
  return options.shards * sizeof(float) * params + copies;
}

void GradientStep::make_shard(Shard& shard) const {
  size_t count = 0;
  for (const TrainedTensor& tensor : tensors_) {
    count += aligned(static_cast<size_t>(tensor.value.numel()));
  }
  shard.memory = at::empty({static_cast<int64_t>(count)}, at::kFloat);
  int64_t first = 0;
  for (const TrainedTensor& tensor : tensors_) {
    at::Tensor gradient =
        shard.memory.narrow(0, first, tensor.value.numel()).view(tensor.value.sizes());
    first += static_cast<int64_t>(aligned(static_cast<size_t>(tensor.value.numel())));
    at::Tensor leaf = tensor.value.detach().requires_grad_(true);  // Shares the values.
    leaf.mutable_grad() = gradient;
    shard.gradients.push_back(gradient);
    shard.parameters[tensor.name] = leaf;
  }
}

double GradientStep::run(const TrainingBatch& batch) {
  const int64_t sequences = batch.inputs.size(0);
  const size_t shards = std::min(options_.shards, static_cast<size_t>(sequences));
  require(shards > 0, "an empty batch");
  while (shards_.size() < shards) make_shard(shards_.emplace_back());
  const double scale = 1.0 / static_cast<double>(batch.inputs.numel());
  parallel_for(shards, [&](size_t s) {
    const int64_t first = sequences * static_cast<int64_t>(s) / static_cast<int64_t>(shards);
    const int64_t last = sequences * static_cast<int64_t>(s + 1) / static_cast<int64_t>(shards);
    run_shard(shards_[s], batch.inputs.narrow(0, first, last - first),
              batch.targets.narrow(0, first, last - first), scale);
  });
  std::vector<std::vector<at::Tensor>> parts;
  double loss = 0;
  for (size_t s = 0; s < shards; ++s) {
    parts.push_back(shards_[s].gradients);
    loss += shards_[s].loss;
  }
  norm_ = reduce_gradients(parts);
  return loss * scale;
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
  const int64_t context = inputs.size(1);
  const int64_t pass = std::max<int64_t>(1, static_cast<int64_t>(kPassTokens) / context);
  for (int64_t first = 0; first < inputs.size(0); first += pass) {
    const int64_t count = std::min(pass, inputs.size(0) - first);
    const at::Tensor hidden =
        decoder_.hidden_states(inputs.narrow(0, first, count), shard.parameters);
    const at::Tensor loss = decoder_.loss_sum(
        hidden.flatten(0, 1), targets.narrow(0, first, count).flatten(), shard.parameters);
    loss.backward(at::scalar_tensor(scale, at::kFloat));
    shard.loss += loss.item<double>();
  }
  ops::set_matmul_dtype(before);
}

}  // namespace fewbit
