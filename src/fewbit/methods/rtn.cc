#include "fewbit/methods/rtn.h"

#include "fewbit/methods/layer_quantizer.h"

namespace fewbit {
namespace {

class RtnPass : public Pass {
 public:
  RtnPass(std::string name, const OptionValues& options, GridChoice grid)
      : name_(std::move(name)), grid_(std::move(grid)), selection_(options.text("layers")) {}

  std::string_view name() const override { return name_; }
  PassKind kind() const override { return PassKind::quantize; }
  bool needs_calibration() const override { return false; }
  void check(const ModelSpec& spec) const override { check_selection(spec, selection_); }

  void apply(BlockContext& block) const override {
    for (const std::string& layer : selected_layers(block, selection_)) {
      quantize_layer(block, layer, name_, [&](MatrixView<const float> weights) {
        const auto grid = grid_.grid(settings_of(block, layer));
        return LayerOutcome{quantize_to_nearest(*grid, weights), {}, {}};
      });
    }
  }

 private:
  std::string name_;
  GridChoice grid_;
  LayerSelection selection_;
};

MethodInfo nearest_on(std::string name, std::string format, bool choose_format, std::string summary,
                      std::string source) {
  return {.name = name,
          .kind = PassKind::quantize,
          .summary = std::move(summary),
          .source = std::move(source),
          .options = {},
          .default_format = std::move(format),
          .choose_format = choose_format,
          .make = [name](const OptionValues& options, GridChoice grid) {
            return std::make_unique<RtnPass>(name, options, std::move(grid));
          }};
}

}  // namespace

MethodInfo rtn_method() {
  return nearest_on("rtn", "uniform", true, "round to nearest, from the weights alone",
                    "baseline of GPTQ, arXiv 2210.17323");
}

MethodInfo nf4_method() {
  return nearest_on("nf4", "nf4", false, "nearest level of the 4-bit NormalFloat codebook",
                    "QLoRA, arXiv 2305.14314");
}

MethodInfo fp4_method() {
  return nearest_on("fp4", "fp4", false, "nearest level of the 4-bit float codebook",
                    "bitsandbytes; QLoRA, arXiv 2305.14314");
}

MethodInfo hqq_method() {
  return nearest_on("hqq", "hqq", false,
                    "zero points fitted to a norm below 1 of the error, without data",
                    "Half-Quadratic Quantization (mobiusml/hqq, 2023)");
}

}  // namespace fewbit
