#include "fewbit/train/fake_quant.h"

#include <torch/torch.h>

#include "fewbit/base/error.h"
#include "fewbit/train/fake_quant_function.h"

namespace fewbit {
namespace {

class FrozenCodes : public FakeQuant {
 public:
  FrozenCodes(QuantizedTensor start, std::string origin)
      : tensor_(std::move(start)),
        scale_(make_parameter(tensor_.scales)),
        origin_(std::move(origin)) {}

  at::Tensor forward(const at::Tensor& weight) const override {
    require(weight.dim() == 2 && weight.size(0) == tensor_.groups.rows() &&
                weight.size(1) == tensor_.groups.cols(),
            "frozen codes [{}, {}] were given a weight of another shape", tensor_.groups.rows(),
            tensor_.groups.cols());
    const at::Tensor scale =
        straight_through(scale_, round_to_stored(scale_.detach(), tensor_.scale_dtype));
    return tensor_.groups.join(tensor_.groups.split(tensor_.integers()) * scale);
  }
  std::vector<QuantizerTensor> parameters() const override { return {{"scale", scale_}}; }
  std::vector<QuantizerTensor> buffers() const override {
    std::vector<QuantizerTensor> buffers = {{"codes", tensor_.codes}};
    if (tensor_.zeros.defined()) buffers.push_back({"zero_point", tensor_.zeros});
    return buffers;
  }
  bool trains_weight() const override { return false; }
  QuantizedTensor quantize(const at::Tensor&) const override {
    QuantizedTensor now = tensor_;
    now.codes = tensor_.codes.clone();
    now.scales = round_to_stored(scale_.detach(), tensor_.scale_dtype).clone();
    return now;
  }
  std::string describe() const override { return origin_ + ", codes frozen"; }

 private:
  QuantizedTensor tensor_;
  at::Tensor scale_;
  std::string origin_;
};

}  // namespace

at::Tensor make_parameter(const at::Tensor& value) {
  return value.detach().clone(at::MemoryFormat::Contiguous).set_requires_grad(true);
}

std::unique_ptr<FakeQuant> freeze_codes(const FakeQuant& quantizer, const at::Tensor& weight) {
  return std::make_unique<FrozenCodes>(quantizer.quantize(weight), quantizer.describe());
}

}  // namespace fewbit
