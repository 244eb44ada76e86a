#include "fewbit/network/ops_generic.h"

#include <limits>

namespace fewbit::ops::generic {
namespace {

// Rows of logits that exist at once while a loss is computed.
constexpr int64_t kPanelRows = 1024;

at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                   MatmulDtype dtype) {
  const c10::optional<at::Tensor> maybe_bias =
      bias.defined() ? c10::optional<at::Tensor>(bias) : c10::nullopt;
  if (dtype == MatmulDtype::f32) return at::linear(x, weight, maybe_bias);
  at::Tensor y = at::linear(x.to(at::kBFloat16), weight.to(at::kBFloat16)).to(x.scalar_type());
  return bias.defined() ? y + bias : y;
}

// [length, keys]: true where the query at `i` (the last `length` of `keys` positions) may look.
at::Tensor visible(int64_t length, int64_t keys, size_t window, const at::Device& device) {
  const auto options = at::TensorOptions().dtype(at::kLong).device(device);
  const at::Tensor query = at::arange(keys - length, keys, options).unsqueeze(1);
  const at::Tensor key = at::arange(keys, options).unsqueeze(0);
  at::Tensor mask = key <= query;
  if (window > 0) mask = mask & (query - key < static_cast<int64_t>(window));
  return mask;
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  MatmulDtype dtype) {
  return product(x, weight, bias, dtype);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, bool plus_one) {
  const at::Tensor scale = at::rsqrt(x.square().mean(-1, /*keepdim=*/true) + epsilon);
  return x * scale * (plus_one ? weight + 1 : weight);
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      double epsilon) {
  return at::layer_norm(x, {x.size(-1)}, weight,
                        bias.defined() ? c10::optional<at::Tensor>(bias) : c10::nullopt, epsilon);
}

at::Tensor rotate(const at::Tensor& x, const RotaryTable& table) {
  const int64_t half = table.cosine.size(-1);
  const int64_t rest = x.size(-1) - 2 * half;
  const at::Tensor cosine = table.cosine.to(x.options()).unsqueeze(1);
  const at::Tensor sine = table.sine.to(x.options()).unsqueeze(1);
  const at::Tensor first = x.narrow(-1, 0, half);
  const at::Tensor second = x.narrow(-1, half, half);
  std::vector<at::Tensor> parts = {first * cosine - second * sine, second * cosine + first * sine};
  if (rest > 0) parts.push_back(x.narrow(-1, 2 * half, rest));
  return at::cat(parts, -1);
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const AttentionOptions& options) {
  const int64_t group = q.size(2) / k.size(2);
  const at::Tensor queries = q.transpose(1, 2);
  const at::Tensor keys = k.transpose(1, 2).repeat_interleave(group, 1);
  const at::Tensor values = v.transpose(1, 2).repeat_interleave(group, 1);
  at::Tensor scores = at::matmul(queries, keys.transpose(2, 3)) * options.scale;
  if (options.softcap) scores = at::tanh(scores / *options.softcap) * *options.softcap;
  const at::Tensor mask = visible(q.size(1), k.size(1), options.window, q.device());
  scores = scores.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity());
  return at::matmul(at::softmax(scores, -1), values).transpose(1, 2).contiguous();
}

at::Tensor activate(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::silu:
      return at::silu(x);
    case Activation::gelu:
      return at::gelu(x);
    case Activation::gelu_tanh:
      return at::gelu(x, "tanh");
    case Activation::relu:
      return at::relu(x);
    case Activation::relu_squared:
      return at::relu(x).square();
  }
  throw std::logic_error("activation");
}

at::Tensor cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                             const at::Tensor& targets, const HeadOptions& options,
                             MatmulDtype dtype) {
  at::Tensor total = at::zeros({}, hidden.options());
  for (int64_t first = 0; first < hidden.size(0); first += kPanelRows) {
    const int64_t rows = std::min(kPanelRows, hidden.size(0) - first);
    at::Tensor logits = product(hidden.narrow(0, first, rows), weight, options.bias, dtype);
    if (options.softcap) logits = at::tanh(logits / *options.softcap) * *options.softcap;
    const at::Tensor panel_targets = targets.narrow(0, first, rows);
    const at::Tensor counted = panel_targets >= 0;
    const at::Tensor losses =
        at::logsumexp(logits, -1) -
        logits.gather(-1, panel_targets.clamp_min(0).unsqueeze(-1)).squeeze(-1);
    total = total + losses.masked_fill(counted.logical_not(), 0).sum();
  }
  return total;
}

}  // namespace fewbit::ops::generic
