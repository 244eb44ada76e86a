#include "fewbit/methods/autoround.h"

#include <algorithm>
#include <numeric>

#include "fewbit/base/error.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/random.h"
#include "fewbit/methods/affine_layers.h"

namespace fewbit {
namespace {

class AutoRoundPass : public Pass {
 public:
  AutoRoundPass(const OptionValues& options, GridChoice grid)
      : grid_(std::move(grid)),
        selection_(options.text("layers")),
        steps_(static_cast<size_t>(options.integer("steps"))),
        batch_(static_cast<size_t>(options.integer("batch"))),
        rate_(options.real("rate")),
        seed_(static_cast<uint64_t>(options.integer("seed"))),
        keep_best_(options.text("keep") == "best") {}

  std::string_view name() const override { return "autoround"; }
  PassKind kind() const override { return PassKind::quantize; }
  bool needs_calibration() const override { return true; }
  bool needs_exact_stream() const override { return true; }

  void check(const ModelSpec& spec) const override {
    check_affine_layout(spec, selection_, grid_, name());
  }

  void apply(BlockContext& block) const override {
    const Stopwatch clock;
    const std::vector<AffineLayer> layers =
        affine_layers(block, selection_, grid_, make_sign_rounding);
    if (layers.empty()) return;
    // The schedule's own unit is one code; 1 / steps is the authors' rate.
    const double peak = rate_ > 0 ? rate_ : 1.0 / static_cast<double>(std::max<size_t>(1, steps_));
    std::vector<TrainedLeaf> leaves;
    std::vector<at::Tensor> factors;
    for (const AffineLayer& layer : layers) {
      for (const auto& [key, tensor] : layer.quantizer->parameters()) {
        leaves.push_back({tensor, peak});
        if (key != "rounding") factors.push_back(tensor);
      }
    }
    const BlockSamples samples(block, /*on_quantized=*/false);
    RandomStream random(seed_, block.info().name);
    const ReconstructReport report = reconstruct(
        block, samples, leaves, [&] { return quantized_parameters(block.parameters, layers); },
        {.steps = steps_,
         .update = ReconstructOptions::Update::sign,
         .samples = [&](size_t) { return draw(random, samples.size()); },
         .rate_factor =
             [&](size_t step) {
               return 1 - static_cast<double>(step) / static_cast<double>(steps_);
             },
         .constrain =
             [&] {
               const at::NoGradGuard no_gradient;
               for (at::Tensor& factor : factors) factor.clamp_(0, 1);
             },
         .keep_best_step = keep_best_});
    store_affine_layers(block, layers, name());
    report_reconstruction(block, name(), report, clock.seconds());
  }

 private:
  // Some of `count` sequences, without replacement, in ascending order.
  std::vector<size_t> draw(RandomStream& random, size_t count) const {
    std::vector<size_t> all(count);
    std::iota(all.begin(), all.end(), size_t{0});
    const size_t wanted = std::min(batch_, count);
    for (size_t i = 0; i < wanted; ++i) std::swap(all[i], all[i + random.below(count - i)]);
    all.resize(wanted);
    std::ranges::sort(all);
    return all;
  }

  GridChoice grid_;
  LayerSelection selection_;
  size_t steps_, batch_;
  double rate_;
  uint64_t seed_;
  bool keep_best_;
};

}  // namespace

MethodInfo autoround_method() {
  return {.name = "autoround",
          .kind = PassKind::quantize,
          .summary = "learns the rounding of every weight by signs of gradients, block by block",
          .source = "SignRound, arXiv 2309.05516",
          .options = {OptionSpec::make_integer("steps", 200, 0, 1000000, "updates of a block"),
                      OptionSpec::make_integer("batch", 8, 1, 4096, "sequences of one update"),
                      OptionSpec::make_real("rate", 0, 0, 1,
                                            "first rate, in codes, falling to 0; 0: 1 / steps"),
                      OptionSpec::make_integer("seed", 42, 0, int64_t{1} << 62,
                                               "of the sequences drawn"),
                      OptionSpec::make_choice(
                          "keep", "best", {"best", "last"},
                          "what stays: the step of the smallest loss, or the last")},
          .default_format = "uniform",
          .choose_format = false,
          .make = [](const OptionValues& options, GridChoice grid) {
            return std::make_unique<AutoRoundPass>(options, std::move(grid));
          }};
}

}  // namespace fewbit
