// How the fused operations stand in autograd: one node each, with a hand-written backward. For the
// ops_*.cc files only.
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <utility>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/network/ops.h"

namespace fewbit::ops {

// Rows that one task of a row-wise operation takes; results do not depend on the threads that way.
inline constexpr size_t kElementwiseRows = 256;

// The kernels take dense float32 in host memory; everything else goes through ops_generic.h.
inline bool kernels_take(const at::Tensor& x) {
  return x.device().is_cpu() && x.scalar_type() == at::kFloat;
}

inline bool wants_gradient(at::TensorList inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor& input : inputs) {
    if (input.defined() && input.requires_grad()) return true;
  }
  return false;
}

class FusedNode : public torch::autograd::Node {
 public:
  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) final {
    require(!at::GradMode::is_enabled(), "{} has no second derivative", name());
    require(!released_, "{}: a second backward pass over a released graph", name());
    return backward(gradients);
  }
  void release_variables() final {
    released_ = true;
    release();
  }

 protected:
  // One gradient per input, in the order given to connect(); undefined where none is wanted.
  virtual torch::autograd::variable_list backward(
      const torch::autograd::variable_list& gradients) = 0;
  virtual void release() = 0;
  bool wanted(size_t input) const { return task_should_compute_output(input); }

 private:
  bool released_ = false;
};

template <class NodeType>
std::shared_ptr<NodeType> make_node(at::TensorList inputs) {
  std::shared_ptr<NodeType> node(new NodeType, torch::autograd::deleteNode);
  torch::autograd::edge_list edges;
  edges.reserve(inputs.size());
  for (const at::Tensor& input : inputs) {
    edges.push_back(input.defined() ? torch::autograd::impl::gradient_edge(input)
                                    : torch::autograd::Edge());
  }
  node->set_next_edges(std::move(edges));
  return node;
}

inline void attach(at::Tensor& output, const std::shared_ptr<FusedNode>& node) {
  torch::autograd::set_history(output, node);
}

// The gradient tensor into which a leaf's gradient is to be added at once, or an undefined one.
at::Tensor direct_gradient(const at::Tensor& weight);

// A dense float32 tensor rounded to bfloat16, and the copy that UseBf16Copies offers, or null.
at::Tensor to_bf16(const at::Tensor& x);
const uint16_t* bf16_copy(const at::Tensor& weight);

inline size_t rows_of(const at::Tensor& x) {
  const int64_t cols = x.size(-1);
  return cols == 0 ? 0 : static_cast<size_t>(x.numel() / cols);
}

}  // namespace fewbit::ops
