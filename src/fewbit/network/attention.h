// Causal attention and its gradient on float32 in memory, one head and one tile of queries at a
// time: no [length, keys] matrix outlives its tile.
//
// Forward, per head: S = Q K^T, P = softmax(mask(score(S))), O = P V, and the logarithm of each
// row's sum is kept. Backward makes S and P again and then, with delta = rowsum(dO o O),
//   dV = P^T dO,  dP = dO V^T,  dS = P o (dP - delta) o score'(S),  dQ = dS K,  dK = dS^T Q.
#pragma once

#include <cstddef>
#include <optional>

#include "fewbit/network/ops.h"

namespace fewbit {

struct AttentionShape {
  size_t batch = 0, length = 0, keys = 0, heads = 0, kv_heads = 0, head_size = 0;
};

// Layouts as in ops::attend, dense. `log_sums` [batch, heads, length] may be null.
void attention(const AttentionShape& shape, const ops::AttentionOptions& options,
               ops::MatmulDtype dtype, const float* q, const float* k, const float* v, float* out,
               float* log_sums);

// dq is written; dk and dv, zero at the start, receive sums.
void attention_backward(const AttentionShape& shape, const ops::AttentionOptions& options,
                        ops::MatmulDtype dtype, const float* q, const float* k, const float* v,
                        const float* out, const float* log_sums, const float* dout, float* dq,
                        float* dk, float* dv);

}  // namespace fewbit
