// Losses of a student against a teacher, per row of hidden states, as one autograd node; logits are
// made and dropped a panel of rows at a time.
//
// With student logits s, teacher logits t, p = softmax(t / tau), q = softmax(s / tau) and c the
// cross entropy of the target:
//
//   forward  tau^2 KL(p || q),  gradient tau (q - p)
//   reverse  tau^2 KL(q || p),  gradient tau q (log q - log p - KL(q || p))
//   loss     (1 - share) KL + share c
//
// Source: Hinton et al. (arXiv 1503.02531); LLM-QAT (2305.17888) trains on the forward one alone.
#pragma once

#include <ATen/ATen.h>

#include "fewbit/network/ops.h"

namespace fewbit::ops {

enum class Divergence { forward, reverse };

struct DistillationOptions {
  Divergence divergence = Divergence::forward;
  double temperature = 1;
  double cross_entropy_share = 0;
};

// What makes logits: the rows that the head multiplies, and the head.
struct LogitSource {
  at::Tensor hidden;  // [rows, features]
  at::Tensor weight;  // [vocab, features]
  HeadOptions head;
};

// Sum over rows; differentiable in the student's tensors. targets [rows] int64, none negative.
at::Tensor distillation_sum(const LogitSource& student, const LogitSource& teacher,
                            const at::Tensor& targets, const DistillationOptions& options);

}  // namespace fewbit::ops
