#include "fewbit/methods/smoothquant.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/log.h"
#include "fewbit/base/progress.h"
#include "fewbit/methods/fold_pass.h"

namespace fewbit {
namespace {

// The reference's guard of weight maxima and scales.
constexpr double kSmallest = 1e-5;

constexpr std::array kNorms = {FoldKind::norm};
constexpr std::array kNormsAndRows = {FoldKind::norm, FoldKind::rows};

class SmoothQuantPass : public Pass {
 public:
  explicit SmoothQuantPass(const OptionValues& options)
      : selection_(options.text("layers")),
        alpha_(options.real("alpha")),
        norms_only_(options.text("into") == "norms"),
        refuse_(options.text("unfoldable") == "refuse") {}

  std::string_view name() const override { return "smoothquant"; }
  PassKind kind() const override { return PassKind::transform; }
  bool needs_calibration() const override { return true; }
  void check(const ModelSpec& spec) const override {
    check_foldable(spec, selection_, kinds(), refuse_);
  }

  void apply(BlockContext& block) const override {
    const std::vector<FoldGroup> groups = selected_groups(block, selection_, kinds(), name());
    if (groups.empty()) return;
    std::vector<const Step*> steps;
    for (const FoldGroup& group : groups) {
      for (const Step& step : group.steps) steps.push_back(&step);
    }
    const std::vector<LayerStats> stats = block.collect(steps, {.max_absolute = true});
    std::vector<std::vector<float>> scales;
    size_t next = 0;
    for (const FoldGroup& group : groups) {
      LayerStats inputs = stats[next++];
      for (size_t s = 1; s < group.steps.size(); ++s) inputs.merge(stats[next++]);
      scales.push_back(scale_of(block, group, inputs));
    }
    for (size_t g = 0; g < groups.size(); ++g) {
      if (!scales[g].empty()) fold_scale(block, groups[g], scales[g]);
    }
  }

 private:
  std::span<const FoldKind> kinds() const {
    return norms_only_ ? std::span<const FoldKind>(kNorms) : kNormsAndRows;
  }

  std::vector<float> scale_of(BlockContext& block, const FoldGroup& group,
                              const LayerStats& inputs) const {
    const Stopwatch clock;
    TransformReport report{.where = group.site(), .method = std::string(name())};
    std::vector<float> scale;
    if (inputs.tokens() == 0) {
      require(group.site().find(".experts.") != std::string::npos,
              "{}: no calibration input reached it", group.site());
      report.detail = "not scaled";
      report.warnings = {"no calibration token reached this expert"};
      warn("{}: {}", group.site(), report.warnings.front());
    } else {
      scale = smoothing_scale_of(block, group, inputs, alpha_);
      std::vector<double> activations = inputs.max_absolute();
      report.objective_before = *std::ranges::max_element(activations);
      for (size_t c = 0; c < scale.size(); ++c) activations[c] /= scale[c];
      report.objective_after = *std::ranges::max_element(activations);
      report.detail = fmt::format("largest |x|, alpha {:.4g}", alpha_);
    }
    report.seconds = clock.seconds();
    block.transforms.push_back(std::move(report));
    return scale;
  }

  LayerSelection selection_;
  double alpha_;
  bool norms_only_, refuse_;
};

}  // namespace

std::vector<float> smoothing_scale(std::span<const double> activation_maximum,
                                   std::span<const double> weight_maximum, double alpha) {
  std::vector<float> scale(activation_maximum.size(), 1.0f);
  for (size_t c = 0; c < scale.size(); ++c) {
    if (activation_maximum[c] == 0) continue;
    const double weight = std::max(weight_maximum[c], kSmallest);
    scale[c] = static_cast<float>(
        std::max(std::pow(activation_maximum[c], alpha) / std::pow(weight, 1 - alpha), kSmallest));
  }
  return scale;
}

std::vector<float> smoothing_scale_of(const BlockContext& block, const FoldGroup& group,
                                      const LayerStats& inputs, double alpha) {
  std::vector<double> activations = inputs.max_absolute();
  share_columns(block.spec(), group, SharedColumns::maximum, activations);
  std::vector<double> weights(group.in_features, 0.0);
  for (const std::string& reader : group.readers) {
    const at::Tensor largest =
        block.parameters.at(reader + ".weight").abs().amax(0).to(at::kCPU).contiguous();
    for (size_t c = 0; c < weights.size(); ++c) {
      weights[c] = std::max<double>(weights[c], largest.data_ptr<float>()[c]);
    }
  }
  share_columns(block.spec(), group, SharedColumns::maximum, weights);
  return smoothing_scale(activations, weights, alpha);
}

MethodInfo smoothquant_method() {
  return {.name = "smoothquant",
          .kind = PassKind::transform,
          .summary = "moves the range of activations into the weights",
          .source = "SmoothQuant, arXiv 2211.10438",
          .options = {OptionSpec::make_real("alpha", 0.5, 0, 1,
                                            "share of the range that moves: 0.5 for OPT and BLOOM, "
                                            "0.8 to 0.9 for the LLaMA family"),
                      OptionSpec::make_choice("into", "norms", {"norms", "all"},
                                              "smooth the inputs behind norms, or also those of o "
                                              "and down through v and up"),
                      unfoldable_option()},
          .default_format = "",
          .make = [](const OptionValues& options, GridChoice) {
            return std::make_unique<SmoothQuantPass>(options);
          }};
}

}  // namespace fewbit
