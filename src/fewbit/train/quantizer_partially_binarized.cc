#include "fewbit/train/quantizer_partially_binarized.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/train/fake_quant_function.h"

namespace fewbit {
namespace {

constexpr double kLargestCode = 255;
// A constant row has no range, and any scale that is not zero gives it code 0.
constexpr double kSmallestStep = 1e-7;

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Values with gradient scale * G where not masked.
struct ScaledSignNode : Function<ScaledSignNode> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& weight,
                            const at::Tensor& salient, const at::Tensor& values,
                            const at::Tensor& scale) {
    context->save_for_backward({salient, scale});
    const at::Tensor signs = (weight >= 0).to(weight.scalar_type()) * 2 - 1;
    return at::where(salient, values, scale * signs);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    return {(gradients[0] * saved[1]).masked_fill(saved[0], 0), {}, {}, {}};
  }
};

class PartiallyBinarized : public FakeQuant {
 public:
  PartiallyBinarized(double fraction, Dtype dtype, const at::Tensor& weight)
      : fraction_(fraction),
        scale_dtype_(dtype),
        salient_(magnitude_tails(weight, fraction)),
        values_(eight_bit_rows(weight, dtype).masked_fill(salient_.logical_not(), 0)) {}

  at::Tensor forward(const at::Tensor& weight) const override {
    require(weight.sizes() == salient_.sizes(),
            "a partially binarized weight was given one of another shape");
    return ScaledSignNode::apply(weight, salient_, values_, row_scales(weight.detach()));
  }
  std::vector<QuantizerTensor> buffers() const override {
    return {{"salient", salient_}, {"salient_values", values_}};
  }
  bool packs() const override { return false; }
  QuantizedTensor quantize(const at::Tensor&) const override {
    fail(
        "pb-llm: no format stores an element mask, so this weight can be evaluated but not packed");
  }
  // Of the binary part; 2 where salient.
  at::Tensor codes(const at::Tensor& weight) const override {
    return (weight.detach() >= 0).to(at::kByte).masked_fill(salient_, 2);
  }
  std::string describe() const override {
    return fmt::format("pb-llm: binary with {}% frozen at 8 bits, {} scale per row",
                       fraction_ * 100, word_of_float_dtype(scale_dtype_));
  }

 private:
  at::Tensor row_scales(const at::Tensor& weight) const {
    const at::Tensor others = salient_.logical_not().sum(1, true).clamp_min(1);
    const at::Tensor sums =
        weight.abs().masked_fill(salient_, 0).sum(1, true, at::ScalarType::Double);
    return round_to_stored((sums / others).to(weight.scalar_type()), scale_dtype_);
  }

  double fraction_;
  Dtype scale_dtype_;
  at::Tensor salient_, values_;
};

}  // namespace

at::Tensor magnitude_tails(const at::Tensor& weight, double fraction) {
  require(fraction >= 0 && fraction <= 1, "fraction={} is not allowed; allowed: 0 to 1", fraction);
  if (fraction == 0) return at::zeros_like(weight.detach(), at::kBool);
  if (fraction == 1) return at::ones_like(weight.detach(), at::kBool);
  const at::Tensor sorted = std::get<0>(weight.detach().reshape(-1).sort());
  const double count = static_cast<double>(sorted.numel());
  const int64_t low = std::max<int64_t>(1, static_cast<int64_t>(std::floor(count * fraction / 2)));
  const int64_t high =
      std::max<int64_t>(1, static_cast<int64_t>(std::floor(count * (1 - fraction / 2))));
  return weight.detach().lt(sorted[low - 1]).logical_or(weight.detach().gt(sorted[high - 1]));
}

at::Tensor eight_bit_rows(const at::Tensor& weight, Dtype dtype) {
  const at::Tensor w = weight.detach();
  const at::Tensor low = round_to_stored(w.amin(1, true), dtype);
  const at::Tensor scale =
      round_to_stored(((w.amax(1, true) - low) / kLargestCode).clamp_min(kSmallestStep), dtype);
  return ((w - low) / scale).round().clamp(0, kLargestCode) * scale + low;
}

std::unique_ptr<FakeQuant> make_partially_binarized(double fraction, Dtype scale_dtype,
                                                    const at::Tensor& weight) {
  return std::make_unique<PartiallyBinarized>(fraction, scale_dtype, weight);
}

}  // namespace fewbit
