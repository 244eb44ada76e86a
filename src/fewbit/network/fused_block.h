// A whole decoder block as one autograd node, for the blocks that most models have: norms first and
// of RMS kind, attention and MLP one after the other, rotary positions, a gated MLP, no biases.
//
// It computes what the operations of decoder_order.h compute, without a node, an allocation and a
// pass over memory for each, and with bfloat16 products keeps everything but the residual stream in
// bfloat16 in between. Training from scratch spends its time here; whoever needs to look inside
// (hooks) runs the operations one by one.
#pragma once

#include <ATen/ATen.h>

#include "fewbit/model/model_spec.h"
#include "fewbit/network/ops.h"

namespace fewbit {

// Whether fused_block() computes blocks of this kind.
bool fused_block_fits(const ModelSpec& spec);

struct FusedBlockWeights {
  at::Tensor attn_norm, q, k, v, o, mlp_norm, gate, up, down;
};

// Whether it takes these tensors: dense float32 in host memory.
bool fused_block_takes(const at::Tensor& x, const FusedBlockWeights& weights);

// The residual stream [batch, length, hidden] behind block `block`. Differentiable in x and in all
// weights. `rotary`: of positions 0.. length - 1.
at::Tensor fused_block(const ModelSpec& spec, size_t block, const at::Tensor& x,
                       const FusedBlockWeights& weights, const ops::RotaryTable& rotary);

}  // namespace fewbit
