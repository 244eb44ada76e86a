#include "fewbit/network/attention.h"
#include "fewbit/network/ops.h"
#include "fewbit/network/ops_generic.h"
#include "fewbit/network/ops_node.h"

namespace fewbit::ops {
namespace {

using torch::autograd::variable_list;

// Inputs: q, k, v.
class AttendBackward : public FusedNode {
 public:
  std::string name() const override { return "attend"; }
  AttentionShape shape;
  AttentionOptions options;
  MatmulDtype dtype = MatmulDtype::f32;
  at::Tensor q, k, v, out, log_sums;

 protected:
  variable_list backward(const variable_list& gradients) override {
    if (!gradients[0].defined()) return variable_list(3);
    const at::Tensor dout = gradients[0].contiguous();
    at::Tensor dq = at::empty(q.sizes(), at::kFloat);
    at::Tensor dk = at::zeros(k.sizes(), at::kFloat), dv = at::zeros(v.sizes(), at::kFloat);
    attention_backward(shape, options, dtype, q.data_ptr<float>(), k.data_ptr<float>(),
                       v.data_ptr<float>(), out.data_ptr<float>(), log_sums.data_ptr<float>(),
                       dout.data_ptr<float>(), dq.data_ptr<float>(), dk.data_ptr<float>(),
                       dv.data_ptr<float>());
    return {dq, dk, dv};
  }
  void release() override {
    for (at::Tensor* saved : {&q, &k, &v, &out, &log_sums}) saved->reset();
  }
};

}  // namespace

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const AttentionOptions& options) {
  require(k.size(2) > 0 && q.size(2) % k.size(2) == 0, "attend: {} query heads over {} key heads",
          q.size(2), k.size(2));
  require(q.size(1) <= k.size(1), "attend: {} queries for {} keys", q.size(1), k.size(1));
  const bool fits = k.sizes() == v.sizes() && q.size(3) == k.size(3) && options.scale > 0;
  if (!fits || !kernels_take(q) || !kernels_take(k) || !kernels_take(v)) {
    return generic::attend(q, k, v, options);
  }
  const auto size = [](const at::Tensor& x, int64_t d) { return static_cast<size_t>(x.size(d)); };
  const AttentionShape shape{size(q, 0), size(q, 1), size(k, 1),
                             size(q, 2), size(k, 2), size(q, 3)};
  const at::Tensor queries = q.contiguous(), keys = k.contiguous(), values = v.contiguous();
  at::Tensor out = at::empty(q.sizes(), at::kFloat);
  const bool gradient = wants_gradient({q, k, v});
  at::Tensor log_sums;
  if (gradient) log_sums = at::empty({q.size(0), q.size(2), q.size(1)}, at::kFloat);
  attention(shape, options, matmul_dtype(), queries.data_ptr<float>(), keys.data_ptr<float>(),
            values.data_ptr<float>(), out.data_ptr<float>(),
            gradient ? log_sums.data_ptr<float>() : nullptr);
  if (gradient) {
    const auto node = make_node<AttendBackward>({q, k, v});
    node->shape = shape;
    node->options = options;
    node->dtype = matmul_dtype();
    node->q = queries.detach();
    node->k = keys.detach();
    node->v = values.detach();
    node->out = out.detach();
    node->log_sums = log_sums;
    attach(out, node);
  }
  return out;
}

}  // namespace fewbit::ops
