#include "fewbit/network/attention.h"
#include "fewbit/network/ops.h"
#include "fewbit/network/ops_generic.h"
#include "fewbit/network/ops_node.h"

namespace fewbit::ops {
namespace {

using torch::autograd::variable_list;

// As a factor of products.
at::Tensor factor_of(const at::Tensor& x, MatmulDtype dtype) {
  return dtype == MatmulDtype::f32 ? x.contiguous() : to_bf16(x.contiguous());
}
const Bf16* bf16_bits(const at::Tensor& x) {
  return reinterpret_cast<const Bf16*>(x.data_ptr<at::BFloat16>());
}

// Inputs: q, k, v.
class AttendBackward : public FusedNode {
 public:
  std::string name() const override { return "attend"; }
  AttentionShape shape;
  AttentionOptions options;
  MatmulDtype dtype = MatmulDtype::f32;
  at::Tensor q, k, v;  // As factors.
  at::Tensor out, log_sums;

 protected:
  variable_list backward(const variable_list& gradients) override {
    if (!gradients[0].defined()) return variable_list(3);
    const at::Tensor dout = gradients[0].contiguous();
    at::Tensor dq = at::empty(q.sizes(), at::kFloat);
    at::Tensor dk = at::empty(k.sizes(), at::kFloat), dv = at::empty(v.sizes(), at::kFloat);
    const auto run = [&](const auto* queries, const auto* keys, const auto* values) {
      attention_backward(shape, options, queries, keys, values, out.data_ptr<float>(),
                         log_sums.data_ptr<float>(), dout.data_ptr<float>(), nullptr,
                         dq.data_ptr<float>(), dk.data_ptr<float>(), dv.data_ptr<float>());
    };
    if (dtype == MatmulDtype::bf16) {
      run(bf16_bits(q), bf16_bits(k), bf16_bits(v));
    } else {
      run(q.data_ptr<float>(), k.data_ptr<float>(), v.data_ptr<float>());
    }
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
  const MatmulDtype dtype = matmul_dtype();
  const at::Tensor queries = factor_of(q, dtype), keys = factor_of(k, dtype);
  const at::Tensor values = factor_of(v, dtype);
  at::Tensor out = at::empty(q.sizes(), at::kFloat);
  const bool gradient = wants_gradient({q, k, v});
  at::Tensor log_sums;
  if (gradient) log_sums = at::empty({q.size(0), q.size(2), q.size(1)}, at::kFloat);
  float* sums = gradient ? log_sums.data_ptr<float>() : nullptr;
  if (dtype == MatmulDtype::bf16) {
    attention(shape, options, bf16_bits(queries), bf16_bits(keys), bf16_bits(values),
              out.data_ptr<float>(), sums);
  } else {
    attention(shape, options, queries.data_ptr<float>(), keys.data_ptr<float>(),
              values.data_ptr<float>(), out.data_ptr<float>(), sums);
  }
  if (gradient) {
    const auto node = make_node<AttendBackward>({q, k, v});
    node->shape = shape;
    node->options = options;
    node->dtype = dtype;
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
