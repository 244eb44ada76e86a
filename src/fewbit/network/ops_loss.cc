#include <algorithm>
#include <numeric>
#include <type_traits>

#include "fewbit/base/threads.h"
#include "fewbit/network/gemm.h"
#include "fewbit/network/ops.h"
#include "fewbit/network/ops_generic.h"
#include "fewbit/network/ops_node.h"
#include "fewbit/network/row_kernels.h"

namespace fewbit::ops {
namespace {

using torch::autograd::variable_list;

// Logits that exist at once, and the bounds of the rows of such a panel: few rows make the products
// with the head's weight slow.
constexpr size_t kPanelElements = size_t{1} << 20;
constexpr size_t kMinPanelRows = 128, kMaxPanelRows = 1024;
// What one task takes of a panel.
constexpr size_t kTaskVocab = 1024, kTaskRows = 64;

size_t panel_rows(size_t vocab) {
  const size_t rows = kPanelElements / std::max<size_t>(vocab, 1) / kTaskRows * kTaskRows;
  return std::clamp(rows, kMinPanelRows, kMaxPanelRows);
}

// Inputs: hidden, weight. Both gradients are made in the forward pass, while the logits are there.
class CrossEntropyBackward : public FusedNode {
 public:
  std::string name() const override { return "cross_entropy_sum"; }
  at::Tensor dhidden, dweight, direct;

 protected:
  variable_list backward(const variable_list& gradients) override {
    if (!gradients[0].defined()) return variable_list(2);
    const double factor = gradients[0].item<double>();
    variable_list result(2);
    if (wanted(0)) result[0] = dhidden.mul_(factor);
    if (direct.defined()) {
      direct.add_(dweight, factor);
    } else if (wanted(1)) {
      result[1] = dweight.mul_(factor);
    }
    return result;
  }
  void release() override {
    dhidden.reset();
    dweight.reset();
  }
};

struct Head {
  size_t rows, width, vocab;
  const float* hidden;
  const float* weight;
  const int64_t* targets;
  const Bf16* weight_copy;  // Or null.
};

// T: the type of the products' factors. Gradients may be null, both or none.
template <class T>
double loss_and_gradients(const Head& head, float* dhidden, float* dweight) {
  const auto as_factor = [](const float* x, size_t count, std::vector<T>& own) -> const T* {
    if constexpr (std::is_same_v<T, float>) {
      return x;
    } else {
      own.resize(count);
      kernels::to_bf16(x, count, own.data());
      return own.data();
    }
  };
  std::vector<T> own_hidden, own_weight;
  const T* hidden = as_factor(head.hidden, head.rows * head.width, own_hidden);
  const T* weight = nullptr;
  if constexpr (std::is_same_v<T, Bf16>) weight = head.weight_copy;
  if (!weight) weight = as_factor(head.weight, head.vocab * head.width, own_weight);

  const size_t panel = std::min(panel_rows(head.vocab), std::max<size_t>(head.rows, 1));
  const at::Tensor logits_memory =
      at::empty({static_cast<int64_t>(panel), static_cast<int64_t>(head.vocab)}, at::kFloat);
  float* logits = logits_memory.data_ptr<float>();
  std::vector<Bf16> own_gradient;
  double total = 0;
  for (size_t first = 0; first < head.rows; first += panel) {
    const size_t rows = std::min(panel, head.rows - first);
    parallel_for_chunks(head.vocab, kTaskVocab, [&](size_t begin, size_t end) {
      gemm({.m = rows,
            .n = end - begin,
            .k = head.width,
            .transpose_b = true,
            .stride_a = head.width,
            .stride_b = head.width,
            .stride_c = head.vocab},
           hidden + first * head.width, weight + begin * head.width, logits + begin);
    });
    T* gradient;
    if constexpr (std::is_same_v<T, float>) {
      gradient = logits;
    } else {
      if (dhidden) own_gradient.resize(panel * head.vocab);
      gradient = own_gradient.data();
    }
    std::vector<double> losses((rows + kTaskRows - 1) / kTaskRows);
    parallel_for_chunks(rows, kTaskRows, [&](size_t begin, size_t end) {
      const int64_t* targets = head.targets + first + begin;
      float* tile = logits + begin * head.vocab;
      double& loss = losses[begin / kTaskRows];
      if (!dhidden) {
        loss = kernels::cross_entropy(tile, targets, end - begin, head.vocab);
        return;
      }
      T* dlogits = gradient + begin * head.vocab;
      loss = kernels::cross_entropy_gradient(tile, targets, end - begin, head.vocab, dlogits);
      gemm({.m = end - begin,
            .n = head.width,
            .k = head.vocab,
            .stride_a = head.vocab,
            .stride_b = head.width,
            .stride_c = head.width},
           dlogits, weight, dhidden + (first + begin) * head.width);
    });
    total = std::accumulate(losses.begin(), losses.end(), total);
    if (!dhidden) continue;
    parallel_for_chunks(head.vocab, kTaskVocab, [&](size_t begin, size_t end) {
      gemm({.m = end - begin,
            .n = head.width,
            .k = rows,
            .transpose_a = true,
            .stride_a = head.vocab,
            .stride_b = head.width,
            .stride_c = head.width,
            .accumulate = first > 0},
           gradient + begin, hidden + first * head.width, dweight + begin * head.width);
    });
  }
  return total;
}

}  // namespace

at::Tensor cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                             const at::Tensor& targets, const HeadOptions& options) {
  require(hidden.dim() == 2 && targets.dim() == 1 && hidden.size(0) == targets.size(0),
          "cross_entropy_sum: {} rows for {} targets", hidden.size(0), targets.numel());
  require(hidden.size(1) == weight.size(1),
          "cross_entropy_sum: {} features for a head of {} columns", hidden.size(1),
          weight.size(1));
  const MatmulDtype dtype = matmul_dtype();
  if (!kernels_take(hidden) || !kernels_take(weight) || options.bias.defined() || options.softcap) {
    return generic::cross_entropy_sum(hidden, weight, targets, options, dtype);
  }
  const at::Tensor h = hidden.contiguous(), w = weight.contiguous(), t = targets.contiguous();
  const Head head{static_cast<size_t>(h.size(0)),
                  static_cast<size_t>(h.size(1)),
                  static_cast<size_t>(w.size(0)),
                  h.data_ptr<float>(),
                  w.data_ptr<float>(),
                  t.data_ptr<int64_t>()};
  for (size_t row = 0; row < head.rows; ++row) {
    require(head.targets[row] < static_cast<int64_t>(head.vocab),
            "cross_entropy_sum: target {} of row {} is not within 0 to {}", head.targets[row], row,
            head.vocab - 1);
  }
  const bool gradient = wants_gradient({hidden, weight});
  at::Tensor dhidden, dweight;
  if (gradient) {
    dhidden = at::empty(h.sizes(), at::kFloat);
    dweight = head.rows > 0 ? at::empty(w.sizes(), at::kFloat) : at::zeros(w.sizes(), at::kFloat);
  }
  const auto body =
      dtype == MatmulDtype::bf16 ? &loss_and_gradients<Bf16> : &loss_and_gradients<float>;
  const double loss = body(head, gradient ? dhidden.data_ptr<float>() : nullptr,
                           gradient ? dweight.data_ptr<float>() : nullptr);
  at::Tensor out = at::scalar_tensor(loss, at::kFloat);
  if (gradient) {
    const auto node = make_node<CrossEntropyBackward>({hidden, weight});
    node->dhidden = dhidden;
    node->dweight = dweight;
    node->direct = direct_gradient(weight);
    attach(out, node);
  }
  return out;
}

}  // namespace fewbit::ops
