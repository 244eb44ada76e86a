#include "fewbit/network/fused_block.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "fewbit/base/threads.h"
#include "fewbit/network/attention.h"
#include "fewbit/network/gemm.h"
#include "fewbit/network/ops_node.h"
#include "fewbit/network/row_kernels.h"

namespace fewbit {
namespace {

using ops::MatmulDtype;
using torch::autograd::variable_list;

// Rows of activations, and rows of a weight's gradient, that one task takes.
constexpr size_t kRowChunk = 512;

// Order of the inputs after x.
enum WeightIndex { kAttnNorm, kQ, kK, kV, kO, kMlpNorm, kGate, kUp, kDown, kWeights };

std::array<at::Tensor, kWeights> as_array(const FusedBlockWeights& w) {
  return {w.attn_norm, w.q, w.k, w.v, w.o, w.mlp_norm, w.gate, w.up, w.down};
}

struct Sizes {
  size_t rows, hidden, q_width, kv_width, ffn;
  AttentionShape attention;
  ops::AttentionOptions options;
  Activation activation;
  float epsilon;
  bool plus_one;
};

Sizes sizes_of(const ModelSpec& spec, size_t block, const at::Tensor& x) {
  const auto batch = static_cast<size_t>(x.size(0)), length = static_cast<size_t>(x.size(1));
  return {batch * length,
          spec.hidden_size,
          spec.heads * spec.head_size,
          spec.kv_heads * spec.head_size,
          spec.ffn_size,
          {batch, length, length, spec.heads, spec.kv_heads, spec.head_size},
          {spec.attention_scale_or_default(), spec.attention_softcap, spec.blocks[block].window},
          spec.activation,
          static_cast<float>(spec.norm_epsilon),
          spec.norm_plus_one};
}

// Arrays cut from one allocation, each at a cache line.
class Arena {
 public:
  template <class T>
  void claim(T*& pointer, size_t count) {
    constexpr size_t kLine = 64;
    claims_.push_back({reinterpret_cast<void**>(&pointer), bytes_});
    bytes_ += (count * sizeof(T) + kLine - 1) / kLine * kLine;
  }
  at::Tensor allocate() {
    at::Tensor memory = at::empty({static_cast<int64_t>(bytes_)}, at::kByte);
    auto* base = memory.data_ptr<uint8_t>();
    for (const Claim& claim : claims_) *claim.pointer = base + claim.offset;
    return memory;
  }

 private:
  struct Claim {
    void** pointer;
    size_t offset;
  };
  std::vector<Claim> claims_;
  size_t bytes_ = 0;
};

// What a forward pass leaves for the backward pass. T is the type of the factors of products.
template <class T>
struct Activations {
  at::Tensor memory;
  T *attn_in, *q, *k, *v, *mixed, *mlp_in, *gate, *up, *inner;
  float *attn_inverse, *mlp_inverse, *log_sums, *middle;  // middle: the stream between the halves.

  explicit Activations(const Sizes& s) {
    Arena arena;
    arena.claim(attn_in, s.rows * s.hidden);
    arena.claim(q, s.rows * s.q_width);
    arena.claim(k, s.rows * s.kv_width);
    arena.claim(v, s.rows * s.kv_width);
    arena.claim(mixed, s.rows * s.q_width);
    arena.claim(mlp_in, s.rows * s.hidden);
    arena.claim(gate, s.rows * s.ffn);
    arena.claim(up, s.rows * s.ffn);
    arena.claim(inner, s.rows * s.ffn);
    arena.claim(attn_inverse, s.rows);
    arena.claim(mlp_inverse, s.rows);
    arena.claim(log_sums, s.rows * s.attention.heads);
    arena.claim(middle, s.rows * s.hidden);
    memory = arena.allocate();
  }
};

// A matrix as products take it.
template <class T>
struct Weight {
  at::Tensor kept;
  const T* data = nullptr;
  size_t out = 0, in = 0;
};

template <class T>
Weight<T> weight_of(const at::Tensor& stored) {
  Weight<T> weight;
  weight.kept = stored.detach().contiguous();
  weight.out = static_cast<size_t>(stored.size(0));
  weight.in = static_cast<size_t>(stored.size(1));
  if constexpr (std::is_same_v<T, float>) {
    weight.data = weight.kept.template data_ptr<float>();
  } else {
    weight.data = ops::bf16_copy(weight.kept);
    if (!weight.data) {
      weight.kept = ops::to_bf16(weight.kept);
      weight.data = reinterpret_cast<const Bf16*>(weight.kept.template data_ptr<at::BFloat16>());
    }
  }
  return weight;
}

// y [rows, out] = x W^T.
template <class T, class Y>
void apply(const Weight<T>& w, const T* x, size_t rows, Y* y) {
  gemm({.m = rows,
        .n = w.out,
        .k = w.in,
        .transpose_b = true,
        .stride_a = w.in,
        .stride_b = w.in,
        .stride_c = w.out},
       x, w.data, y);
}

// dx [rows, in] (+)= dy W.
template <class T, class X>
void apply_transposed(const Weight<T>& w, const T* dy, size_t rows, X* dx, bool accumulate) {
  gemm({.m = rows,
        .n = w.in,
        .k = w.out,
        .stride_a = w.out,
        .stride_b = w.in,
        .stride_c = w.in,
        .accumulate = accumulate},
       dy, w.data, dx);
}

template <class T>
struct BlockWeights {
  at::Tensor attn_norm, mlp_norm;
  Weight<T> q, k, v, o, gate, up, down;

  explicit BlockWeights(const FusedBlockWeights& w)
      : attn_norm(w.attn_norm.detach().contiguous()),
        mlp_norm(w.mlp_norm.detach().contiguous()),
        q(weight_of<T>(w.q)),
        k(weight_of<T>(w.k)),
        v(weight_of<T>(w.v)),
        o(weight_of<T>(w.o)),
        gate(weight_of<T>(w.gate)),
        up(weight_of<T>(w.up)),
        down(weight_of<T>(w.down)) {}

  kernels::RmsWeight norm(const at::Tensor& weight, const Sizes& s) const {
    return {weight.data_ptr<float>(), s.plus_one, s.epsilon};
  }
};

template <class T>
void forward(const Sizes& s, const BlockWeights<T>& w, const RotaryAngles& rotary, const float* x,
             const Activations<T>& a, float* out) {
  parallel_for_chunks(s.rows, kRowChunk, [&](size_t first, size_t last) {
    const size_t rows = last - first;
    T* in = a.attn_in + first * s.hidden;
    kernels::rms_norm(x + first * s.hidden, w.norm(w.attn_norm, s), rows, s.hidden, in,
                      a.attn_inverse + first);
    T *q = a.q + first * s.q_width, *k = a.k + first * s.kv_width;
    apply(w.q, in, rows, q);
    apply(w.k, in, rows, k);
    apply(w.v, in, rows, a.v + first * s.kv_width);
    for (size_t row = 0; row < rows; ++row) {
      const size_t angles = (first + row) % s.attention.length * rotary.half;
      const float *cosine = rotary.cosine + angles, *sine = rotary.sine + angles;
      T *q_row = q + row * s.q_width, *k_row = k + row * s.kv_width;
      kernels::rotate(q_row, cosine, sine, 1.0f, s.attention.heads, s.attention.head_size,
                      rotary.half, q_row);
      kernels::rotate(k_row, cosine, sine, 1.0f, s.attention.kv_heads, s.attention.head_size,
                      rotary.half, k_row);
    }
  });
  attention(s.attention, s.options, a.q, a.k, a.v, a.mixed, a.log_sums);
  parallel_for_chunks(s.rows, kRowChunk, [&](size_t first, size_t last) {
    const size_t rows = last - first, at = first * s.hidden, wide = first * s.ffn;
    float* middle = a.middle + at;
    apply(w.o, a.mixed + first * s.q_width, rows, middle);
    kernels::add_rms_norm(x + at, middle, w.norm(w.mlp_norm, s), rows, s.hidden, middle,
                          a.mlp_in + at, a.mlp_inverse + first);
    apply(w.gate, a.mlp_in + at, rows, a.gate + wide);
    apply(w.up, a.mlp_in + at, rows, a.up + wide);
    kernels::gated(s.activation, a.gate + wide, a.up + wide, rows * s.ffn, a.inner + wide);
    apply(w.down, a.inner + wide, rows, out + at);
    kernels::add(out + at, middle, rows * s.hidden, out + at);
  });
}

// The gradients that flow back, and what they leave behind for the gradients of the weights.
template <class T>
struct Gradients {
  at::Tensor memory;
  T *out, *mixed, *q, *k, *v, *middle, *gate, *up;  // Of the outputs of the linears.
  float *in, *stream;                               // Of a half's normed input and of the stream.

  explicit Gradients(const Sizes& s) {
    Arena arena;
    if constexpr (!std::is_same_v<T, float>) {
      arena.claim(out, s.rows * s.hidden);
      arena.claim(middle, s.rows * s.hidden);
    }
    arena.claim(mixed, s.rows * s.q_width);
    arena.claim(q, s.rows * s.q_width);
    arena.claim(k, s.rows * s.kv_width);
    arena.claim(v, s.rows * s.kv_width);
    arena.claim(gate, s.rows * s.ffn);
    arena.claim(up, s.rows * s.ffn);
    arena.claim(in, s.rows * s.hidden);
    arena.claim(stream, s.rows * s.hidden);
    memory = arena.allocate();
  }
};

// Sums over the rows of one chunk, added up in chunk order.
class ChunkSums {
 public:
  ChunkSums(size_t rows, size_t width)
      : chunks_((rows + kRowChunk - 1) / kRowChunk), width_(width), values_(chunks_ * width) {}
  float* of(size_t first_row) { return values_.data() + first_row / kRowChunk * width_; }
  void add_to(float* out) const { kernels::add_column_sums(values_.data(), chunks_, width_, out); }

 private:
  size_t chunks_, width_;
  std::vector<float> values_;
};

// out [dy's width, x's width] (+)= dy^T x over all rows.
template <class T>
struct WeightGradient {
  const T *dy, *x;
  size_t out, in;
  float* gradient;
  bool accumulate;
};

template <class T>
void run_weight_gradients(const std::vector<WeightGradient<T>>& wanted, size_t rows) {
  struct Task {
    size_t index, first, last;
  };
  std::vector<Task> tasks;
  for (size_t i = 0; i < wanted.size(); ++i) {
    for (size_t first = 0; first < wanted[i].out; first += kRowChunk) {
      tasks.push_back({i, first, std::min(wanted[i].out, first + kRowChunk)});
    }
  }
  parallel_for(tasks.size(), [&](size_t t) {
    const auto& [index, first, last] = tasks[t];
    const WeightGradient<T>& g = wanted[index];
    gemm({.m = last - first,
          .n = g.in,
          .k = rows,
          .transpose_a = true,
          .stride_a = g.out,
          .stride_b = g.in,
          .stride_c = g.in,
          .accumulate = g.accumulate},
         g.dy + first, g.x, g.gradient + first * g.in);
  });
}

// Inputs: x, then the weights in the order of WeightIndex.
template <class T>
class FusedBlockBackward : public ops::FusedNode {
 public:
  std::string name() const override { return "fused_block"; }

  Sizes sizes{};
  ops::RotaryTable rotary;
  RotaryAngles angles;
  at::Tensor x;
  std::optional<BlockWeights<T>> weights;
  std::optional<Activations<T>> activations;
  std::array<at::Tensor, kWeights> direct;
  std::array<std::vector<int64_t>, kWeights> shapes;

 protected:
  variable_list backward(const variable_list& gradients) override;
  void release() override {
    x.reset();
    weights.reset();
    activations.reset();
  }
};

template <class T>
variable_list FusedBlockBackward<T>::backward(const variable_list& gradients) {
  variable_list result(1 + kWeights);
  if (!gradients[0].defined()) return result;
  const Sizes& s = sizes;
  const BlockWeights<T>& w = *weights;
  const Activations<T>& a = *activations;
  const at::Tensor dense = gradients[0].contiguous();
  const float* dout = dense.data_ptr<float>();
  const float* in = x.data_ptr<float>();
  Gradients<T> g(s);
  at::Tensor dx_tensor = at::empty(x.sizes(), at::kFloat);
  float* dx = dx_tensor.data_ptr<float>();
  ChunkSums attn_norm(s.rows, s.hidden), mlp_norm(s.rows, s.hidden);

  // As factors of products: the gradients of the stream, rounded where products are.
  const T *out_factor, *middle_factor;
  if constexpr (std::is_same_v<T, float>) {
    out_factor = dout;
    middle_factor = g.stream;
  } else {
    out_factor = g.out;
    middle_factor = g.middle;
  }
  parallel_for_chunks(s.rows, kRowChunk, [&](size_t first, size_t last) {
    const size_t rows = last - first, at = first * s.hidden, wide = first * s.ffn;
    if constexpr (!std::is_same_v<T, float>) {
      kernels::to_bf16(dout + at, rows * s.hidden, g.out + at);
    }
    apply_transposed(w.down, out_factor + at, rows, g.gate + wide, false);
    // The gradient of the inner activation gives way to that of the gate.
    kernels::gated_backward(s.activation, a.gate + wide, a.up + wide, g.gate + wide, rows * s.ffn,
                            g.gate + wide, g.up + wide);
    apply_transposed(w.gate, g.gate + wide, rows, g.in + at, false);
    apply_transposed(w.up, g.up + wide, rows, g.in + at, true);
    kernels::rms_norm_backward(a.middle + at, w.norm(w.mlp_norm, s), a.mlp_inverse + first,
                               g.in + at, dout + at, rows, s.hidden, g.stream + at,
                               mlp_norm.of(first));
    if constexpr (!std::is_same_v<T, float>) {
      kernels::to_bf16(g.stream + at, rows * s.hidden, g.middle + at);
    }
    apply_transposed(w.o, middle_factor + at, rows, g.mixed + first * s.q_width, false);
  });
  attention_backward(s.attention, s.options, a.q, a.k, a.v, a.mixed, a.log_sums, g.mixed, &angles,
                     g.q, g.k, g.v);
  parallel_for_chunks(s.rows, kRowChunk, [&](size_t first, size_t last) {
    const size_t rows = last - first, at = first * s.hidden;
    apply_transposed(w.q, g.q + first * s.q_width, rows, g.in + at, false);
    apply_transposed(w.k, g.k + first * s.kv_width, rows, g.in + at, true);
    apply_transposed(w.v, g.v + first * s.kv_width, rows, g.in + at, true);
    kernels::rms_norm_backward(in + at, w.norm(w.attn_norm, s), a.attn_inverse + first, g.in + at,
                               g.stream + at, rows, s.hidden, dx + at, attn_norm.of(first));
  });
  if (wanted(0)) result[0] = dx_tensor;

  // Null if no gradient is wanted; `accumulate` if it is to be added.
  const auto target = [&](size_t index, bool& accumulate) -> float* {
    accumulate = direct[index].defined();
    if (accumulate) return direct[index].template data_ptr<float>();
    if (!wanted(1 + index)) return nullptr;
    result[1 + index] = at::empty(shapes[index], at::kFloat);
    return result[1 + index].template data_ptr<float>();
  };
  std::vector<WeightGradient<T>> products;
  const auto linear = [&](size_t index, const T* dy, const T* input, const Weight<T>& weight) {
    bool accumulate = false;
    float* gradient = target(index, accumulate);
    if (gradient) products.push_back({dy, input, weight.out, weight.in, gradient, accumulate});
  };
  linear(kDown, out_factor, a.inner, w.down);
  linear(kGate, g.gate, a.mlp_in, w.gate);
  linear(kUp, g.up, a.mlp_in, w.up);
  linear(kO, middle_factor, a.mixed, w.o);
  linear(kQ, g.q, a.attn_in, w.q);
  linear(kK, g.k, a.attn_in, w.k);
  linear(kV, g.v, a.attn_in, w.v);
  run_weight_gradients(products, s.rows);
  const auto norm = [&](size_t index, const ChunkSums& sums) {
    bool accumulate = false;
    float* gradient = target(index, accumulate);
    if (!gradient) return;
    if (!accumulate) std::fill_n(gradient, s.hidden, 0.0f);
    sums.add_to(gradient);
  };
  norm(kAttnNorm, attn_norm);
  norm(kMlpNorm, mlp_norm);
  return result;
}

template <class T>
at::Tensor run_block(const ModelSpec& spec, size_t block, const at::Tensor& input,
                     const FusedBlockWeights& weights, const ops::RotaryTable& rotary) {
  const at::Tensor x = input.contiguous();
  const Sizes sizes = sizes_of(spec, block, x);
  const RotaryAngles angles{rotary.cosine.data_ptr<float>(), rotary.sine.data_ptr<float>(),
                            static_cast<size_t>(rotary.cosine.size(1))};
  const BlockWeights<T> factors(weights);
  Activations<T> activations(sizes);
  at::Tensor out = at::empty(x.sizes(), at::kFloat);
  forward(sizes, factors, angles, x.data_ptr<float>(), activations, out.data_ptr<float>());

  const auto parameters = as_array(weights);
  std::vector<at::Tensor> inputs{input};
  inputs.insert(inputs.end(), parameters.begin(), parameters.end());
  if (!ops::wants_gradient(inputs)) return out;
  const auto node = ops::make_node<FusedBlockBackward<T>>(inputs);
  node->sizes = sizes;
  node->rotary = rotary;
  node->angles = angles;
  node->x = x.detach();
  node->weights = factors;
  node->activations = std::move(activations);
  for (size_t i = 0; i < kWeights; ++i) {
    node->direct[i] = ops::direct_gradient(parameters[i]);
    node->shapes[i] = parameters[i].sizes().vec();
  }
  ops::attach(out, node);
  return out;
}

void check_shapes(const ModelSpec& spec, const FusedBlockWeights& weights) {
  const auto hidden = static_cast<int64_t>(spec.hidden_size);
  const auto q_width = static_cast<int64_t>(spec.heads * spec.head_size);
  const auto kv_width = static_cast<int64_t>(spec.kv_heads * spec.head_size);
  const auto ffn = static_cast<int64_t>(spec.ffn_size);
  const std::array<std::vector<int64_t>, kWeights> expected = {{{hidden},
                                                                {q_width, hidden},
                                                                {kv_width, hidden},
                                                                {kv_width, hidden},
                                                                {hidden, q_width},
                                                                {hidden},
                                                                {ffn, hidden},
                                                                {ffn, hidden},
                                                                {hidden, ffn}}};
  const auto given = as_array(weights);
  for (size_t i = 0; i < kWeights; ++i) {
    require(given[i].sizes() == at::IntArrayRef(expected[i]),
            "block weight {} has {} elements, not those of the model's shape", i, given[i].numel());
  }
}

}  // namespace

bool fused_block_fits(const ModelSpec& spec) {
  return spec.norm == NormKind::rms && spec.norm_first && !spec.post_norms &&
         !spec.parallel_residual && !spec.qkv_bias && !spec.attention_output_bias &&
         !spec.mlp_bias && !spec.qk_norm && !spec.attention_sub_norm && !spec.mlp_sub_norm &&
         spec.positions == Positions::rotary && spec.gated_mlp && spec.experts == 0 &&
         spec.attention_scale_or_default() > 0;
}

bool fused_block_takes(const at::Tensor& x, const FusedBlockWeights& weights) {
  if (!ops::kernels_take(x)) return false;
  for (const at::Tensor& weight : as_array(weights)) {
    if (!ops::kernels_take(weight)) return false;
  }
  return true;
}

at::Tensor fused_block(const ModelSpec& spec, size_t block, const at::Tensor& x,
                       const FusedBlockWeights& weights, const ops::RotaryTable& rotary) {
  check_shapes(spec, weights);
  require(x.dim() == 3 && x.size(2) == static_cast<int64_t>(spec.hidden_size),
          "a residual stream of {} features for a model of {}", x.size(-1), spec.hidden_size);
  require(rotary.cosine.size(0) == x.size(1), "{} positions for {} tokens", rotary.cosine.size(0),
          x.size(1));
  if (ops::matmul_dtype() == MatmulDtype::bf16) {
    return run_block<Bf16>(spec, block, x, weights, rotary);
  }
  return run_block<float>(spec, block, x, weights, rotary);
}

}  // namespace fewbit
