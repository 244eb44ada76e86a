// Causal attention and its gradient on memory, one head and one tile of queries at a time: no
// [length, keys] matrix outlives its tile.
//
// Forward, per head: S = Q K^T, P = softmax(mask(score(S))), O = P V, and the logarithm of each
// row's sum is kept. Backward makes S and P again and then, with delta = rowsum(dO o O),
//   dV = P^T dO,  dP = dO V^T,  dS = P o (dP - delta) o score'(S),  dQ = dS K,  dK = dS^T Q.
//
// Factor is the type of the factors of products, Value that of outputs and gradients. There are
// (float, float), (Bf16, float) and (Bf16, Bf16).
#pragma once

#include <cstddef>
#include <optional>

#include "fewbit/network/gemm.h"
#include "fewbit/network/ops.h"

namespace fewbit {

struct AttentionShape {
  size_t batch = 0, length = 0, keys = 0, heads = 0, kv_heads = 0, head_size = 0;
};

// Tables [keys, half], as ops::RotaryTable has them.
struct RotaryAngles {
  const float* cosine = nullptr;
  const float* sine = nullptr;
  size_t half = 0;
};

// Layouts as in ops::attend, dense. `log_sums` [batch, heads, length] may be null.
template <class Factor, class Value>
void attention(const AttentionShape& shape, const ops::AttentionOptions& options, const Factor* q,
               const Factor* k, const Factor* v, Value* out, float* log_sums);

// `rotary`: q and k were rotated by these angles (length equals keys), and dq and dk are to be
// those of the unrotated ones; may be null.
template <class Factor, class Value>
void attention_backward(const AttentionShape& shape, const ops::AttentionOptions& options,
                        const Factor* q, const Factor* k, const Factor* v, const Value* out,
                        const float* log_sums, const Value* dout, const RotaryAngles* rotary,
                        Value* dq, Value* dk, Value* dv);

}  // namespace fewbit
