// Loss and gradients of one batch, on all threads.
//
// The batch is cut into a fixed number of shards of whole sequences. Each shard runs on one thread,
// a few sequences at a time so that its activations stay in the caches, and adds the gradients of
// those into buffers of its own; at the end the shards' buffers are added in shard order. So the
// result is the same bits for any number of threads.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <vector>

#include "fewbit/network/decoder.h"
#include "fewbit/network/ops.h"
#include "fewbit/train/adamw.h"
#include "fewbit/train/data_order.h"

namespace fewbit {

struct GradientOptions {
  size_t shards = 4;  // At most the batch's sequences are used.
  ops::MatmulDtype dtype = ops::MatmulDtype::f32;
};

class GradientStep {
 public:
  // `tensors` are the decoder's parameters by name; both are borrowed. With bf16 products every
  // matrix gets a bf16_copy, which adamw_step() keeps up to date; whoever changes a value otherwise
  // calls refresh().
  GradientStep(const Decoder& decoder, const GradientOptions& options,
               std::vector<TrainedTensor>& tensors);

  // Mean loss in nats per token over the batch.
  double run(const TrainingBatch& batch);
  // Of the last run, in the order of the tensors; overwritten by the next.
  const std::vector<at::Tensor>& gradients() const { return shards_[0].gradients; }
  double norm() const { return norm_; }

  void refresh();

  // Bytes of gradients and copies for a model of `params` parameters.
  static uint64_t buffer_bytes(const GradientOptions& options, uint64_t params);

 private:
  struct Shard {
    ParameterMap parameters;  // Leaves that share the values; their grad() is `gradients`.
    std::vector<at::Tensor> gradients;
    at::Tensor memory;  // Of all gradients.
    double loss = 0;
  };
  void make_shard(Shard& shard) const;
  void run_shard(Shard& shard, const at::Tensor& inputs, const at::Tensor& targets, double scale);

  const Decoder& decoder_;
  GradientOptions options_;
  std::vector<TrainedTensor>& tensors_;
  ops::Bf16Copies copies_;
  std::vector<Shard> shards_;
  double norm_ = 0;
};

}  // namespace fewbit
