#include "fewbit/network/ops.h"

#include <cmath>
#include <numbers>

#include "fewbit/base/error.h"
#include "fewbit/network/ops_generic.h"

namespace fewbit::ops {
namespace {

thread_local MatmulDtype current_matmul_dtype = MatmulDtype::f32;

// Angular frequency of pair `index` after the block's scaling.
double frequency(const BlockSpec& block, size_t rotary_size, size_t index) {
  const double plain = std::pow(
      block.rope_base, -2.0 * static_cast<double>(index) / static_cast<double>(rotary_size));
  const RopeScaling& scaling = block.rope_scaling;
  switch (scaling.kind) {
    case RopeScaling::Kind::none:
      return plain;
    case RopeScaling::Kind::linear:
      return plain / scaling.factor;
    case RopeScaling::Kind::llama3: {
      // Turns within the original context: few of them are interpolated, many are kept.
      const double turns = scaling.original_context * plain / (2 * std::numbers::pi);
      if (turns < scaling.low_frequency_factor) return plain / scaling.factor;
      if (turns > scaling.high_frequency_factor) return plain;
      const double kept = (turns - scaling.low_frequency_factor) /
                          (scaling.high_frequency_factor - scaling.low_frequency_factor);
      return (1 - kept) * plain / scaling.factor + kept * plain;
    }
  }
  throw std::logic_error("rope scaling");
}

}  // namespace

void set_matmul_dtype(MatmulDtype dtype) { current_matmul_dtype = dtype; }
MatmulDtype matmul_dtype() { return current_matmul_dtype; }

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  require(x.size(-1) == weight.size(1), "linear: {} input features for a weight of {} columns",
          x.size(-1), weight.size(1));
  return generic::linear(x, weight, bias, current_matmul_dtype);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, bool plus_one) {
  return generic::rms_norm(x, weight, epsilon, plus_one);
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      double epsilon) {
  return generic::layer_norm(x, weight, bias, epsilon);
}

RotaryTable rotary_table(const BlockSpec& block, size_t rotary_size, size_t first, size_t length) {
  const size_t half = rotary_size / 2;
  const auto shape = {static_cast<int64_t>(length), static_cast<int64_t>(half)};
  RotaryTable table{at::empty(shape, at::kFloat), at::empty(shape, at::kFloat)};
  float* cosine = table.cosine.data_ptr<float>();
  float* sine = table.sine.data_ptr<float>();
  for (size_t i = 0; i < half; ++i) {
    const double step = frequency(block, rotary_size, i);
    for (size_t t = 0; t < length; ++t) {
      const double angle = step * static_cast<double>(first + t);
      cosine[t * half + i] = static_cast<float>(std::cos(angle));
      sine[t * half + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

at::Tensor rotate(const at::Tensor& x, const RotaryTable& table) {
  require(x.size(1) == table.cosine.size(0) && 2 * table.cosine.size(1) <= x.size(3),
          "rotate: a table of {} positions and {} angles does not fit heads [.., {}, .., {}]",
          table.cosine.size(0), table.cosine.size(1), x.size(1), x.size(3));
  return generic::rotate(x, table);
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const AttentionOptions& options) {
  require(k.size(2) > 0 && q.size(2) % k.size(2) == 0, "attend: {} query heads over {} key heads",
          q.size(2), k.size(2));
  require(q.size(1) <= k.size(1), "attend: {} queries for {} keys", q.size(1), k.size(1));
  return generic::attend(q, k, v, options);
}

at::Tensor activate(const at::Tensor& x, Activation activation) {
  return generic::activate(x, activation);
}

at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, Activation activation) {
  return generic::activate(gate, activation) * up;
}

at::Tensor cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                             const at::Tensor& targets, const HeadOptions& options) {
  require(hidden.dim() == 2 && targets.dim() == 1 && hidden.size(0) == targets.size(0),
          "cross_entropy_sum: {} rows for {} targets", hidden.size(0), targets.numel());
  return generic::cross_entropy_sum(hidden, weight, targets, options, current_matmul_dtype);
}

}  // namespace fewbit::ops
