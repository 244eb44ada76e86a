// Row-wise operations: norms, rotation, activations.
#include <utility>

#include "fewbit/base/threads.h"
#include "fewbit/network/ops.h"
#include "fewbit/network/ops_generic.h"
#include "fewbit/network/ops_node.h"
#include "fewbit/network/row_kernels.h"

namespace fewbit::ops {
namespace {

using torch::autograd::variable_list;

const float* floats(const at::Tensor& x) { return x.data_ptr<float>(); }
float* floats_out(const at::Tensor& x) { return x.data_ptr<float>(); }

// Runs body(first, last, sums) over chunks of rows; `sums` [width] of each chunk are added to
// `outputs` in chunk order, so that threads leave no trace.
template <class Body>
void sum_over_chunks(size_t rows, size_t width, std::span<const at::Tensor> outputs, Body&& body) {
  const size_t chunks = (rows + kElementwiseRows - 1) / kElementwiseRows;
  const size_t sums = outputs.size();
  const at::Tensor partial =
      at::zeros({static_cast<int64_t>(chunks), static_cast<int64_t>(sums * width)}, at::kFloat);
  float* values = floats_out(partial);
  parallel_for_chunks(rows, kElementwiseRows, [&](size_t first, size_t last) {
    body(first, last, values + first / kElementwiseRows * sums * width);
  });
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    for (size_t i = 0; i < sums; ++i) {
      kernels::add_column_sums(values + (chunk * sums + i) * width, 1, width,
                               floats_out(outputs[i]));
    }
  }
}

// Where a parameter's gradient goes: straight into the leaf, or into a new tensor.
at::Tensor gradient_target(const at::Tensor& direct, size_t width) {
  return direct.defined() ? direct : at::zeros({static_cast<int64_t>(width)}, at::kFloat);
}

// Inputs: x, weight.
class RmsNormBackward : public FusedNode {
 public:
  std::string name() const override { return "rms_norm"; }
  at::Tensor x, weight, inverse, direct;
  bool plus_one = false;

 protected:
  variable_list backward(const variable_list& gradients) override {
    if (!gradients[0].defined()) return variable_list(2);
    const at::Tensor dy = gradients[0].contiguous();
    const auto cols = static_cast<size_t>(x.size(-1));
    at::Tensor dx = at::empty(x.sizes(), at::kFloat);
    const at::Tensor dweight = gradient_target(direct, cols);
    sum_over_chunks(rows_of(x), cols, std::span(&dweight, 1),
                    [&](size_t first, size_t last, float* sums) {
                      const size_t at = first * cols;
                      kernels::rms_norm_backward(floats(x) + at, {floats(weight), plus_one, 0},
                                                 floats(inverse) + first, floats(dy) + at, nullptr,
                                                 last - first, cols, floats_out(dx) + at, sums);
                    });
    return {dx, direct.defined() ? at::Tensor() : dweight};
  }
  void release() override {
    x.reset();
    inverse.reset();
  }
};

// Inputs: x, weight, bias.
class LayerNormBackward : public FusedNode {
 public:
  std::string name() const override { return "layer_norm"; }
  at::Tensor x, weight, mean, inverse, direct_weight, direct_bias;

 protected:
  variable_list backward(const variable_list& gradients) override {
    if (!gradients[0].defined()) return variable_list(3);
    const at::Tensor dy = gradients[0].contiguous();
    const auto cols = static_cast<size_t>(x.size(-1));
    at::Tensor dx = at::empty(x.sizes(), at::kFloat);
    const at::Tensor outputs[] = {gradient_target(direct_weight, cols),
                                  gradient_target(direct_bias, cols)};
    sum_over_chunks(rows_of(x), cols, outputs, [&](size_t first, size_t last, float* sums) {
      const size_t at = first * cols;
      kernels::layer_norm_backward(floats(x) + at, floats(weight), floats(mean) + first,
                                   floats(inverse) + first, floats(dy) + at, last - first, cols,
                                   floats_out(dx) + at, sums, sums + cols);
    });
    return {dx, direct_weight.defined() ? at::Tensor() : outputs[0],
            direct_bias.defined() || !wanted(2) ? at::Tensor() : outputs[1]};
  }
  void release() override {
    x.reset();
    mean.reset();
    inverse.reset();
  }
};

at::Tensor rotated(const at::Tensor& x, const RotaryTable& table, float direction) {
  at::Tensor out = at::empty(x.sizes(), at::kFloat);
  const auto length = static_cast<size_t>(x.size(1)), heads = static_cast<size_t>(x.size(2));
  const auto head_size = static_cast<size_t>(x.size(3));
  const auto half = static_cast<size_t>(table.cosine.size(1));
  const size_t width = heads * head_size;
  parallel_for_chunks(static_cast<size_t>(x.size(0)) * length, kElementwiseRows,
                      [&](size_t first, size_t last) {
                        for (size_t row = first; row < last; ++row) {
                          const size_t angles = row % length * half;
                          kernels::rotate(floats(x) + row * width, floats(table.cosine) + angles,
                                          floats(table.sine) + angles, direction, heads, head_size,
                                          half, floats_out(out) + row * width);
                        }
                      });
  return out;
}

class RotateBackward : public FusedNode {
 public:
  std::string name() const override { return "rotate"; }
  RotaryTable table;

 protected:
  variable_list backward(const variable_list& gradients) override {
    if (!gradients[0].defined()) return variable_list(1);
    return {rotated(gradients[0].contiguous(), table, -1.0f)};
  }
  void release() override {}
};

// Runs body(first, last) over chunks of the elements of `x`.
template <class Body>
void over_elements(const at::Tensor& x, Body&& body) {
  constexpr size_t kChunk = size_t{1} << 15;
  parallel_for_chunks(static_cast<size_t>(x.numel()), kChunk, body);
}

class ActivateBackward : public FusedNode {
 public:
  std::string name() const override { return "activate"; }
  at::Tensor x;
  Activation activation{};

 protected:
  variable_list backward(const variable_list& gradients) override {
    if (!gradients[0].defined()) return variable_list(1);
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dx = at::empty(x.sizes(), at::kFloat);
    over_elements(x, [&](size_t first, size_t last) {
      kernels::activate_backward(activation, floats(x) + first, floats(dy) + first, last - first,
                                 floats_out(dx) + first);
    });
    return {dx};
  }
  void release() override { x.reset(); }
};

// Inputs: gate, up.
class GatedBackward : public FusedNode {
 public:
  std::string name() const override { return "gated_activation"; }
  at::Tensor gate, up;
  Activation activation{};

 protected:
  variable_list backward(const variable_list& gradients) override {
    if (!gradients[0].defined()) return variable_list(2);
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dgate = at::empty(gate.sizes(), at::kFloat);
    at::Tensor dup = at::empty(gate.sizes(), at::kFloat);
    over_elements(gate, [&](size_t first, size_t last) {
      kernels::gated_backward(activation, floats(gate) + first, floats(up) + first,
                              floats(dy) + first, last - first, floats_out(dgate) + first,
                              floats_out(dup) + first);
    });
    return {dgate, dup};
  }
  void release() override {
    gate.reset();
    up.reset();
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double epsilon,
                    bool plus_one) {
  if (!kernels_take(input) || !kernels_take(weight)) {
    return generic::rms_norm(input, weight, epsilon, plus_one);
  }
  const at::Tensor x = input.contiguous(), w = weight.contiguous();
  const auto cols = static_cast<size_t>(x.size(-1));
  const size_t rows = rows_of(x);
  at::Tensor y = at::empty(x.sizes(), at::kFloat);
  const at::Tensor inverse = at::empty({static_cast<int64_t>(rows)}, at::kFloat);
  parallel_for_chunks(rows, kElementwiseRows, [&](size_t first, size_t last) {
    const size_t at = first * cols;
    kernels::rms_norm(floats(x) + at, {floats(w), plus_one, static_cast<float>(epsilon)},
                      last - first, cols, floats_out(y) + at, floats_out(inverse) + first);
  });
  if (wants_gradient({input, weight})) {
    const auto node = make_node<RmsNormBackward>({input, weight});
    node->x = x.detach();
    node->weight = w.detach();
    node->inverse = inverse;
    node->direct = direct_gradient(weight);
    node->plus_one = plus_one;
    attach(y, node);
  }
  return y;
}

at::Tensor layer_norm(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                      double epsilon) {
  if (!kernels_take(input) || !kernels_take(weight)) {
    return generic::layer_norm(input, weight, bias, epsilon);
  }
  const at::Tensor x = input.contiguous(), w = weight.contiguous();
  const at::Tensor b = bias.defined() ? bias.contiguous() : at::Tensor();
  const auto cols = static_cast<size_t>(x.size(-1));
  const size_t rows = rows_of(x);
  at::Tensor y = at::empty(x.sizes(), at::kFloat);
  const at::Tensor mean = at::empty({static_cast<int64_t>(rows)}, at::kFloat);
  const at::Tensor inverse = at::empty_like(mean);
  parallel_for_chunks(rows, kElementwiseRows, [&](size_t first, size_t last) {
    const size_t at = first * cols;
    kernels::layer_norm(floats(x) + at, floats(w), b.defined() ? floats(b) : nullptr,
                        static_cast<float>(epsilon), last - first, cols, floats_out(y) + at,
                        floats_out(mean) + first, floats_out(inverse) + first);
  });
  if (wants_gradient({input, weight, bias})) {
    const auto node = make_node<LayerNormBackward>({input, weight, bias});
    node->x = x.detach();
    node->weight = w.detach();
    node->mean = mean;
    node->inverse = inverse;
    node->direct_weight = direct_gradient(weight);
    node->direct_bias = direct_gradient(bias);
    attach(y, node);
  }
  return y;
}

at::Tensor rotate(const at::Tensor& x, const RotaryTable& table) {
  require(x.size(1) == table.cosine.size(0) && 2 * table.cosine.size(1) <= x.size(3),
          "rotate: a table of {} positions and {} angles does not fit heads [.., {}, .., {}]",
          table.cosine.size(0), table.cosine.size(1), x.size(1), x.size(3));
  if (!kernels_take(x) || !kernels_take(table.cosine)) return generic::rotate(x, table);
  at::Tensor out = rotated(x.contiguous(), table, 1.0f);
  if (wants_gradient({x})) {
    const auto node = make_node<RotateBackward>({x});
    node->table = table;
    attach(out, node);
  }
  return out;
}

at::Tensor activate(const at::Tensor& input, Activation activation) {
  if (!kernels_take(input)) return generic::activate(input, activation);
  const at::Tensor x = input.contiguous();
  at::Tensor y = at::empty(x.sizes(), at::kFloat);
  over_elements(x, [&](size_t first, size_t last) {
    kernels::activate(activation, floats(x) + first, last - first, floats_out(y) + first);
  });
  if (wants_gradient({input})) {
    const auto node = make_node<ActivateBackward>({input});
    node->x = x.detach();
    node->activation = activation;
    attach(y, node);
  }
  return y;
}

at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, Activation activation) {
  require(gate.sizes() == up.sizes(), "gated_activation: gate and up differ in shape");
  if (!kernels_take(gate) || !kernels_take(up)) return generic::activate(gate, activation) * up;
  const at::Tensor g = gate.contiguous(), u = up.contiguous();
  at::Tensor y = at::empty(g.sizes(), at::kFloat);
  over_elements(g, [&](size_t first, size_t last) {
    kernels::gated(activation, floats(g) + first, floats(u) + first, last - first,
                   floats_out(y) + first);
  });
  if (wants_gradient({gate, up})) {
    const auto node = make_node<GatedBackward>({gate, up});
    node->gate = g.detach();
    node->up = u.detach();
    node->activation = activation;
    attach(y, node);
  }
  return y;
}

}  // namespace fewbit::ops
