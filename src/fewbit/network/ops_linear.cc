#include <algorithm>
#include <utility>

#include "fewbit/base/threads.h"
#include "fewbit/network/gemm.h"
#include "fewbit/network/ops.h"
#include "fewbit/network/ops_generic.h"
#include "fewbit/network/ops_node.h"
#include "fewbit/network/row_kernels.h"

namespace fewbit::ops {
namespace {

using torch::autograd::variable_list;

// Rows of activations, and rows of a weight's gradient, that one task takes.
constexpr size_t kRowChunk = 512;

thread_local const Bf16Copies* current_copies = nullptr;
thread_local bool accumulate_into_leaves = false;

const float* floats(const at::Tensor& x) { return x.data_ptr<float>(); }
Bf16* bf16_bits(const at::Tensor& x) { return reinterpret_cast<Bf16*>(x.data_ptr<at::BFloat16>()); }

// A weight as the products take it.
struct Factor {
  at::Tensor kept;  // Owns the memory.
  const void* data = nullptr;
};

Factor weight_factor(const at::Tensor& weight, MatmulDtype dtype) {
  if (dtype == MatmulDtype::f32) return {weight, floats(weight)};
  if (const uint16_t* copy = bf16_copy(weight)) return {weight, copy};
  const at::Tensor copy = to_bf16(weight);
  return {copy, bf16_bits(copy)};
}

void product(const GemmShape& shape, MatmulDtype dtype, const void* a, const void* b, float* c) {
  if (dtype == MatmulDtype::f32) {
    gemm(shape, static_cast<const float*>(a), static_cast<const float*>(b), c);
  } else {
    gemm(shape, static_cast<const Bf16*>(a), static_cast<const Bf16*>(b), c);
  }
}

const void* row_at(const void* data, MatmulDtype dtype, size_t elements) {
  const size_t size = dtype == MatmulDtype::f32 ? sizeof(float) : sizeof(Bf16);
  return static_cast<const char*>(data) + elements * size;
}

at::Tensor factor_of(const at::Tensor& x, MatmulDtype dtype) {
  return dtype == MatmulDtype::f32 ? x : to_bf16(x);
}
const void* factor_data(const at::Tensor& x) { return x.data_ptr(); }

// Inputs: x, weights.., biases...
class LinearsBackward : public FusedNode {
 public:
  std::string name() const override { return "linear"; }

  MatmulDtype dtype = MatmulDtype::f32;
  at::Tensor x;  // As a factor: float32 or bfloat16.
  std::vector<int64_t> x_shape;
  size_t rows = 0;
  std::vector<Factor> weights;
  std::vector<std::vector<int64_t>> weight_shapes;
  std::vector<at::Tensor> weight_gradients, bias_gradients;  // Direct ones, or undefined.
  bool biases = false;

 protected:
  variable_list backward(const variable_list& gradients) override;
  void release() override {
    x.reset();
    weights.clear();
  }

 private:
  void add_weight_gradient(const at::Tensor& dy, size_t index, at::Tensor& out, bool accumulate);
};

variable_list LinearsBackward::backward(const variable_list& gradients) {
  const size_t count = weight_shapes.size();
  variable_list result(1 + count * (biases ? 2 : 1));
  const auto in = static_cast<size_t>(x_shape.back());
  std::vector<at::Tensor> dys(count), factors(count);
  for (size_t i = 0; i < count; ++i) {
    if (!gradients[i].defined()) continue;
    dys[i] = gradients[i].contiguous();
    factors[i] = factor_of(dys[i], dtype);
  }
  if (wanted(0)) {
    at::Tensor dx = at::empty(x_shape, at::kFloat);
    float* out = dx.data_ptr<float>();
    parallel_for_chunks(rows, kRowChunk, [&](size_t first, size_t last) {
      bool accumulate = false;
      for (size_t i = 0; i < count; ++i) {
        if (!factors[i].defined()) continue;
        const auto width = static_cast<size_t>(weight_shapes[i][0]);
        product({.m = last - first,
                 .n = in,
                 .k = width,
                 .stride_a = width,
                 .stride_b = in,
                 .stride_c = in,
                 .accumulate = accumulate},
                dtype, row_at(factor_data(factors[i]), dtype, first * width), weights[i].data,
                out + first * in);
        accumulate = true;
      }
      if (!accumulate) std::fill(out + first * in, out + last * in, 0.0f);
    });
    result[0] = dx;
  }
  for (size_t i = 0; i < count; ++i) {
    if (!factors[i].defined()) continue;
    if (weight_gradients[i].defined()) {
      add_weight_gradient(factors[i], i, weight_gradients[i], /*accumulate=*/true);
    } else if (wanted(1 + i)) {
      at::Tensor dw = at::empty(weight_shapes[i], at::kFloat);
      add_weight_gradient(factors[i], i, dw, /*accumulate=*/false);
      result[1 + i] = dw;
    }
    if (!biases || (!bias_gradients[i].defined() && !wanted(1 + count + i))) continue;
    const auto width = static_cast<size_t>(weight_shapes[i][0]);
    at::Tensor db = bias_gradients[i].defined() ? bias_gradients[i]
                                                : at::zeros({weight_shapes[i][0]}, at::kFloat);
    kernels::add_column_sums(floats(dys[i]), rows, width, db.data_ptr<float>());
    if (!bias_gradients[i].defined()) result[1 + count + i] = db;
  }
  return result;
}

void LinearsBackward::add_weight_gradient(const at::Tensor& dy, size_t index, at::Tensor& out,
                                          bool accumulate) {
  const auto width = static_cast<size_t>(weight_shapes[index][0]);
  const auto in = static_cast<size_t>(x_shape.back());
  float* gradient = out.data_ptr<float>();
  parallel_for_chunks(width, kRowChunk, [&](size_t first, size_t last) {
    product({.m = last - first,
             .n = in,
             .k = rows,
             .transpose_a = true,
             .stride_a = width,
             .stride_b = in,
             .stride_c = in,
             .accumulate = accumulate},
            dtype, row_at(factor_data(dy), dtype, first), factor_data(x), gradient + first * in);
  });
}

void add_bias(float* y, const at::Tensor& bias, size_t rows, size_t width) {
  const float* values = floats(bias);
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = 0; i < width; ++i) y[row * width + i] += values[i];
  }
}

std::vector<at::Tensor> fused_linears(const at::Tensor& input, at::TensorList weights,
                                      at::TensorList biases) {
  const MatmulDtype dtype = matmul_dtype();
  const size_t count = weights.size();
  const at::Tensor x = factor_of(input.contiguous(), dtype);
  const size_t rows = rows_of(x);
  const auto in = static_cast<size_t>(x.size(-1));
  std::vector<at::Tensor> outputs(count), dense(count);
  std::vector<Factor> factors(count);
  std::vector<int64_t> shape = input.sizes().vec();
  for (size_t i = 0; i < count; ++i) {
    dense[i] = weights[i].detach().contiguous();
    factors[i] = weight_factor(dense[i], dtype);
    shape.back() = weights[i].size(0);
    outputs[i] = at::empty(shape, at::kFloat);
  }
  parallel_for_chunks(rows, kRowChunk, [&](size_t first, size_t last) {
    for (size_t i = 0; i < count; ++i) {
      const auto width = static_cast<size_t>(weights[i].size(0));
      float* y = outputs[i].data_ptr<float>() + first * width;
      product({.m = last - first,
               .n = width,
               .k = in,
               .transpose_b = true,
               .stride_a = in,
               .stride_b = in,
               .stride_c = width},
              dtype, row_at(factor_data(x), dtype, first * in), factors[i].data, y);
      if (!biases.empty() && biases[i].defined()) add_bias(y, biases[i], last - first, width);
    }
  });

  std::vector<at::Tensor> inputs{input};
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  inputs.insert(inputs.end(), biases.begin(), biases.end());
  if (!wants_gradient(inputs)) return outputs;
  const auto node = make_node<LinearsBackward>(inputs);
  node->dtype = dtype;
  if (wants_gradient(weights)) node->x = x.detach();
  node->rows = rows;
  node->x_shape = input.sizes().vec();
  node->weights = std::move(factors);
  node->biases = !biases.empty();
  for (size_t i = 0; i < count; ++i) {
    node->weight_shapes.push_back(weights[i].sizes().vec());
    node->weight_gradients.push_back(direct_gradient(weights[i]));
    node->bias_gradients.push_back(biases.empty() ? at::Tensor() : direct_gradient(biases[i]));
  }
  for (at::Tensor& output : outputs) attach(output, node);
  return outputs;
}

class EmbedBackward : public FusedNode {
 public:
  std::string name() const override { return "embed"; }
  at::Tensor tokens, direct;
  std::vector<int64_t> weight_shape;

 protected:
  variable_list backward(const variable_list& gradients) override {
    if (!gradients[0].defined()) return {at::Tensor()};
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor out = direct.defined() ? direct : at::zeros(weight_shape, at::kFloat);
    const auto width = static_cast<size_t>(weight_shape[1]);
    const int64_t* ids = tokens.data_ptr<int64_t>();
    // In the order of the tokens, on one thread: rows repeat.
    for (int64_t i = 0; i < tokens.numel(); ++i) {
      kernels::add_column_sums(floats(dy) + static_cast<size_t>(i) * width, 1, width,
                               out.data_ptr<float>() + static_cast<size_t>(ids[i]) * width);
    }
    return {direct.defined() ? at::Tensor() : out};
  }
  void release() override { tokens.reset(); }
};

}  // namespace

at::Tensor to_bf16(const at::Tensor& x) {
  at::Tensor out = at::empty(x.sizes(), at::kBFloat16);
  const auto count = static_cast<size_t>(x.numel());
  constexpr size_t kChunk = size_t{1} << 16;
  parallel_for_chunks(count, kChunk, [&](size_t first, size_t last) {
    kernels::to_bf16(floats(x) + first, last - first, bf16_bits(out) + first);
  });
  return out;
}

const uint16_t* bf16_copy(const at::Tensor& weight) {
  return current_copies ? current_copies->find(floats(weight)) : nullptr;
}

at::Tensor direct_gradient(const at::Tensor& weight) {
  if (!accumulate_into_leaves || !weight.defined() || !weight.is_leaf() ||
      !weight.requires_grad()) {
    return {};
  }
  const at::Tensor& gradient = weight.grad();
  return gradient.defined() && gradient.is_contiguous() ? gradient : at::Tensor();
}

AccumulateIntoLeaves::AccumulateIntoLeaves()
    : before_(std::exchange(accumulate_into_leaves, true)) {}
AccumulateIntoLeaves::~AccumulateIntoLeaves() { accumulate_into_leaves = before_; }

UseBf16Copies::UseBf16Copies(const Bf16Copies& copies)
    : before_(std::exchange(current_copies, &copies)) {}
UseBf16Copies::~UseBf16Copies() { current_copies = before_; }

std::vector<at::Tensor> linears(const at::Tensor& x, at::TensorList weights,
                                at::TensorList biases) {
  require(biases.empty() || biases.size() == weights.size(), "linears: {} biases for {} weights",
          biases.size(), weights.size());
  bool fused = kernels_take(x);
  for (const at::Tensor& weight : weights) {
    require(x.size(-1) == weight.size(1), "linear: {} input features for a weight of {} columns",
            x.size(-1), weight.size(1));
    fused = fused && kernels_take(weight);
  }
  if (fused) return fused_linears(x, weights, biases);
  std::vector<at::Tensor> outputs;
  for (size_t i = 0; i < weights.size(); ++i) {
    outputs.push_back(
        generic::linear(x, weights[i], biases.empty() ? at::Tensor() : biases[i], matmul_dtype()));
  }
  return outputs;
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (!bias.defined()) return linears(x, {weight})[0];
  return linears(x, {weight}, {bias})[0];
}

at::Tensor embed(const at::Tensor& weight, const at::Tensor& tokens) {
  if (!kernels_take(weight)) return at::embedding(weight, tokens);
  const at::Tensor ids = tokens.contiguous();
  at::Tensor rows = at::embedding(weight.detach(), ids);
  if (wants_gradient({weight})) {
    const auto node = make_node<EmbedBackward>({weight});
    node->tokens = ids;
    node->direct = direct_gradient(weight);
    node->weight_shape = weight.sizes().vec();
    attach(rows, node);
  }
  return rows;
}

}  // namespace fewbit::ops
