// Differentiable operations of the decoder on at::Tensor: the few that carry the time of training
// and evaluation. On float32 in host memory each is one autograd node with a hand-written backward
// (no second derivatives), fused so that an activation is read and written as few times as
// possible; other devices and types go through ops_generic.h. All are safe to run from several
// threads at once, each thread on its own tensors, and use parallel_for; results do not depend on
// the threads.
//
// Activations are [.., features]; statistics, softmax and losses are float32.
// `MatmulDtype::bf16` rounds both factors of every matrix product to bfloat16 and accumulates in
// float32; weights stay float32 masters.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <unordered_map>
#include <vector>

#include "fewbit/model/model_spec.h"

namespace fewbit::ops {

enum class MatmulDtype { f32, bf16 };

// Per-thread setting for the products of linear() and the fused loss.
void set_matmul_dtype(MatmulDtype dtype);
MatmulDtype matmul_dtype();

// For training loops that keep one gradient buffer per thread of work. While it lives, backward
// passes of graphs recorded on this thread add gradients of leaf weights straight into their
// grad(), where that is defined, and hand autograd none.
class AccumulateIntoLeaves {
 public:
  AccumulateIntoLeaves();
  ~AccumulateIntoLeaves();
  AccumulateIntoLeaves(const AccumulateIntoLeaves&) = delete;
  AccumulateIntoLeaves& operator=(const AccumulateIntoLeaves&) = delete;

 private:
  bool before_;
};

// bfloat16 copies of weights that their owner keeps up to date. While a UseBf16Copies lives on a
// thread, its bf16 products of those weights (known by their address) use them.
class Bf16Copies {
 public:
  // `copy`: as many values as `weight`, both outlive this.
  void set(const float* weight, const uint16_t* copy) { copies_[weight] = copy; }
  const uint16_t* find(const float* weight) const {
    const auto found = copies_.find(weight);
    return found == copies_.end() ? nullptr : found->second;
  }

 private:
  std::unordered_map<const float*, const uint16_t*> copies_;
};

class UseBf16Copies {
 public:
  explicit UseBf16Copies(const Bf16Copies& copies);
  ~UseBf16Copies();
  UseBf16Copies(const UseBf16Copies&) = delete;
  UseBf16Copies& operator=(const UseBf16Copies&) = delete;

 private:
  const Bf16Copies* before_;
};

// y = x W^T + b. x [.., in], weight [out, in], bias [out] or undefined.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
// Several linears of one input (q, k and v; gate and up): what they share is done once. `biases`:
// as many as weights, or none.
std::vector<at::Tensor> linears(const at::Tensor& x, at::TensorList weights,
                                at::TensorList biases = {});
// Rows of `weight` [vocab, features] at `tokens` [..] int64: [.., features].
at::Tensor embed(const at::Tensor& weight, const at::Tensor& tokens);

// x * rsqrt(mean(x^2) + epsilon) * w, w = weight or 1 + weight; over the last dimension.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, bool plus_one);
// (x - mean) * rsqrt(variance + epsilon) * weight + bias; bias may be undefined.
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      double epsilon);

// Cosine and sine tables [length, rotary_size / 2] of one block, positions first..first+length-1.
struct RotaryTable {
  at::Tensor cosine, sine;
};
RotaryTable rotary_table(const BlockSpec& block, size_t rotary_size, size_t first, size_t length);
// Rotates pairs (i, i + rotary_size / 2) of the leading rotary_size dimensions of every head.
// x [batch, length, heads, head_size].
at::Tensor rotate(const at::Tensor& x, const RotaryTable& table);

struct AttentionOptions {
  double scale = 1;
  std::optional<double> softcap;  // c * tanh(score / c) before the mask.
  size_t window = 0;              // 0: none.
};
// Causal attention. q [batch, length, heads, head_size], k and v [batch, keys, kv_heads,
// head_size], keys >= length: the queries stand at the last `length` positions of the keys; returns
// [batch, length, heads, head_size]. Query head h reads key head h / (heads / kv_heads). No
// [length, length] matrix per head outlives its head.
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const AttentionOptions& options);

at::Tensor activate(const at::Tensor& x, Activation activation);
// activate(gate) * up.
at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, Activation activation);

struct HeadOptions {
  at::Tensor bias;                // [vocab] or undefined.
  std::optional<double> softcap;  // c * tanh(logit / c).
};
// Sum over rows of -log softmax(logits)[target], logits = softcap(hidden W^T + bias) made and
// dropped a panel at a time. hidden [rows, in], weight [vocab, in], targets [rows] int64, of which
// negative ones are left out; returns a scalar.
at::Tensor cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                             const at::Tensor& targets, const HeadOptions& options = {});

}  // namespace fewbit::ops
