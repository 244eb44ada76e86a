// Loss and gradients of one batch, on all threads.
//
// The batch is cut into a fixed number of shards of whole sequences. Each shard runs on one thread,
// a few sequences at a time so that its activations stay in the caches, and adds the gradients of
// those into buffers of its own; at the end the shards' buffers are added in shard order. So the
// result is the same bits for any number of threads.
//
// Weights under a fake quantizer are quantized once per step; the network of every shard runs with
// what comes out, and the sum of the shards' gradients goes back through the quantizer.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <list>
#include <vector>

#include "fewbit/network/decoder.h"
#include "fewbit/network/ops.h"
#include "fewbit/train/adamw.h"
#include "fewbit/train/data_order.h"
#include "fewbit/train/network_quantizers.h"
#include "fewbit/train/teacher.h"

namespace fewbit {

// Tokens of one forward and backward pass, unless asked for otherwise. Fewer keep the activations
// in the caches, more let each operation and each pass over the weights' gradients count for less.
inline constexpr size_t kPassTokens = 1024;

struct GradientOptions {
  size_t shards = 4;  // At most the batch's sequences are used.
  ops::MatmulDtype dtype = ops::MatmulDtype::f32;
  // Activations exist for so many tokens of a shard at a time, whole sequences and at least one;
  // the gradients of these passes are accumulated.
  size_t pass_tokens = kPassTokens;
};

class GradientStep {
 public:
  // `tensors` are the decoder's parameters by name, and those of `quantizers`, which may be null;
  // all are borrowed. With bf16 products every matrix gets a bf16_copy, which adamw_step() keeps up
  // to date; whoever changes a value otherwise calls refresh().
  GradientStep(const Decoder& decoder, const GradientOptions& options,
               std::vector<TrainedTensor>& tensors, NetworkQuantizers* quantizers = nullptr);

  // From now on the loss is that of distilled_loss_sum(). Borrowed.
  void set_teacher(const Teacher* teacher) { teacher_ = teacher; }

  // Mean loss in nats per token over the batch.
  double run(const TrainingBatch& batch);
  // Of the last run, in the order of the tensors; overwritten by the next. Undefined for constants.
  const std::vector<at::Tensor>& gradients() const { return gradients_; }
  double norm() const { return norm_; }

  void refresh();

  // Sets the parameters of activation quantizers that start from values: runs the first pass of
  // `batch` without gradients.
  void start_activations(const TrainingBatch& batch);

  // Bytes of gradients and copies for a model of `params` parameters, `quantized` of them under a
  // quantizer.
  static uint64_t buffer_bytes(const GradientOptions& options, uint64_t params,
                               uint64_t quantized = 0);

 private:
  struct Shard {
    ParameterMap parameters;  // Leaves that share the values; their grad() is `gradients`.
    std::vector<at::Tensor> gradients;  // By tensor; undefined where the network has no leaf.
    at::Tensor memory;                  // Of all gradients.
    ActivationSites sites;
    BlockHooks hooks;
    double loss = 0;
  };
  void make_shard(Shard& shard) const;
  void quantize_weights();
  at::Tensor loss_sum(const Shard& shard, const at::Tensor& inputs,
                      const at::Tensor& targets) const;
  void run_shard(Shard& shard, const at::Tensor& inputs, const at::Tensor& targets, double scale);
  void through_quantizers();
  int64_t pass_sequences(int64_t context) const;

  const Decoder& decoder_;
  GradientOptions options_;
  std::vector<TrainedTensor>& tensors_;
  NetworkQuantizers* quantizers_;
  const Teacher* teacher_ = nullptr;
  // By tensor: the layer whose latent weight it is, or none.
  std::vector<QuantizedLayer*> layer_of_;
  // By layer: the weight of this step with the graph that leads to it, and its bf16 copy.
  std::vector<at::Tensor> effective_, effective_bf16_;
  ops::Bf16Copies copies_;
  std::list<Shard> shards_;  // Hooks hold addresses.
  std::vector<at::Tensor> gradients_;
  double norm_ = 0;
};

}  // namespace fewbit
