#include "fewbit/methods/gptq.h"

#include "fewbit/base/error.h"
#include "fewbit/formats/error_feedback.h"
#include "fewbit/methods/layer_quantizer.h"
#include "fewbit/model/wiring.h"

namespace fewbit {
namespace {

constexpr const char* kOrders[] = {"none", "dynamic", "static", "gar"};

HessianFactorOptions factor_options(const OptionValues& options) {
  HessianFactorOptions result;
  result.damping = options.real("damping");
  const std::string& order = options.text("act_order");
  if (order == "dynamic") result.order = ColumnOrder::dynamic;
  if (order == "static") result.order = ColumnOrder::fixed;
  if (order == "gar") result.order = ColumnOrder::gar;
  return result;
}

ErrorFeedbackOptions feedback_options(const OptionValues& options) {
  ErrorFeedbackOptions result;
  result.block_size = static_cast<size_t>(options.integer("block_size"));
  const std::string& grids = options.text("group_grids");
  result.group_grids = grids == "fresh"   ? GroupGrids::fresh
                       : grids == "stale" ? GroupGrids::stale
                                          : GroupGrids::beforehand;
  if (options.text("act_order") == "static") {
    require(!options.given("group_grids") || grids == "static",
            "option 'group_grids': act_order=static fits every grid beforehand; leave it out or "
            "write group_grids=static");
    result.group_grids = GroupGrids::beforehand;
  }
  return result;
}

// GPTQ, or GPTAQ if `alpha` is given.
class GptqPass : public Pass {
 public:
  GptqPass(const OptionValues& options, GridChoice grid, std::optional<double> alpha)
      : alpha_(alpha),
        grid_(std::move(grid)),
        selection_(options.text("layers")),
        factor_(factor_options(options)),
        feedback_(feedback_options(options)),
        true_sequential_(options.boolean("true_sequential")) {}

  std::string_view name() const override { return alpha_ ? "gptaq" : "gptq"; }
  PassKind kind() const override { return PassKind::quantize; }
  bool needs_calibration() const override { return true; }
  bool needs_exact_stream() const override { return alpha_.has_value(); }

  void check(const ModelSpec& spec) const override {
    check_selection(spec, selection_);
    require(!selection_.contains("embed"),
            "option 'layers': {} needs the inputs of a linear, and the embedding is a look-up; "
            "quantize embed with rtn",
            name());
    if (!alpha_) return check_head(spec);
    for (const std::string& layer : quantizable_linears(spec)) {
      require(layer.find(".experts.") == std::string::npos || !selection_.contains(layer),
              "option 'layers': gptaq compares the inputs of the same tokens in two networks, and "
              "{} sees those that the router sends it, others in each; use gptq for the experts",
              layer);
    }
    check_head(spec);
  }

  void apply(BlockContext& block) const override {
    const auto layers = selected_layers(block, selection_);
    std::vector<const Step*> wanted;
    for (const Step& step : block.info().steps) {
      for (const std::string& linear : step.linears) {
        if (std::find(layers.begin(), layers.end(), linear) == layers.end()) continue;
        wanted.push_back(&step);
        break;
      }
    }
    if (wanted.empty()) return;
    const StatsRequest request{.hessian = true, .drift = alpha_.has_value()};
    if (true_sequential_) {
      for (const Step* step : wanted) {
        const auto stats = block.collect({step}, request);
        quantize_step(block, *step, stats.front(), layers);
      }
    } else {
      const auto stats = block.collect(wanted, request);
      for (size_t i = 0; i < wanted.size(); ++i) {
        quantize_step(block, *wanted[i], stats[i], layers);
      }
    }
  }

 private:
  void check_head(const ModelSpec& spec) const {
    require(!selection_.contains("head") || !spec.tied_head,
            "option 'layers': the head of this model is its embedding; quantize embed with rtn");
  }

  void quantize_step(BlockContext& block, const Step& step, const LayerStats& stats,
                     const std::vector<std::string>& layers) const {
    // An expert that no token was routed to has no Hessian; anything else without inputs means
    // that the walk is broken, and must not turn into silent rounding.
    const bool unreached_expert =
        stats.tokens() == 0 && step.site.find(".experts.") != std::string::npos;
    require(stats.tokens() > 0 || unreached_expert, "{}: no calibration input reached it",
            step.site);
    const DoubleMatrix hessian = unreached_expert ? DoubleMatrix() : stats.hessian();
    // The linears of a step share H, and its factor unless they visit the columns by other groups.
    std::optional<HessianFactor> factor;
    std::optional<InputDrift> drift;
    for (const std::string& layer : step.linears) {
      if (std::find(layers.begin(), layers.end(), layer) == layers.end()) continue;
      quantize_layer(block, layer, name(), [&](MatrixView<const float> weights) {
        const auto grid = grid_.grid(settings_of(block, layer));
        if (unreached_expert) {
          return LayerOutcome{quantize_to_nearest(*grid, weights),
                              {},
                              {"no calibration token reached this expert: round to nearest"}};
        }
        const size_t group_size = grid->begin(weights.rows(), weights.cols())->shape().group_size;
        if (!factor || factor->group_size != group_size) {
          factor = factorize_hessian(hessian.view(), group_size, factor_);
          drift.reset();
          if (alpha_ && factor->outcome != FactorOutcome::not_factorised) {
            drift = input_drift(stats.drift().view(), *factor, *alpha_);
          }
        }
        auto result =
            quantize_with_feedback(*grid, weights, *factor, feedback_, drift ? &*drift : nullptr);
        LayerOutcome outcome{std::move(result.matrix), {}, {}};
        if (!drift) outcome.objective = 2 * result.loss;
        if (!factor->message.empty()) outcome.warnings.push_back(factor->message);
        return outcome;
      });
    }
  }

  std::optional<double> alpha_;
  GridChoice grid_;
  LayerSelection selection_;
  HessianFactorOptions factor_;
  ErrorFeedbackOptions feedback_;
  bool true_sequential_;
};

std::vector<OptionSpec> common_options() {
  return {
      OptionSpec::make_real("damping", 0.01, 0, 1, "added to the diagonal of H, times its mean"),
      OptionSpec::make_choice("act_order", "none", {std::begin(kOrders), std::end(kOrders)},
                              "order of the columns: as stored, by falling diag(H) with "
                              "groups along that order (dynamic) or as stored (static), "
                              "or group-aware (gar)"),
      OptionSpec::make_choice("group_grids", "fresh", {"fresh", "stale", "static"},
                              "fit a group's grid when it is entered, as the reference "
                              "does within a lazy block, or before the first column"),
      OptionSpec::make_integer("block_size", 128, 1, 4096, "columns of one lazy update"),
      OptionSpec::make_boolean("true_sequential", true,
                               "recompute inputs after every step of a block")};
}

}  // namespace

MethodInfo gptq_method() {
  return {.name = "gptq",
          .kind = PassKind::quantize,
          .summary = "column by column with error feedback through the Hessian of the inputs",
          .source = "GPTQ, arXiv 2210.17323",
          .options = common_options(),
          .default_format = "uniform",
          .choose_format = true,
          .make = [](const OptionValues& options, GridChoice grid) {
            return std::make_unique<GptqPass>(options, std::move(grid), std::nullopt);
          }};
}

MethodInfo gptaq_method() {
  std::vector<OptionSpec> options = {OptionSpec::make_real(
      "alpha", 0.25, 0, 1,
      "share of the earlier layers' errors that is made up for; 1 in theory, 0 is gptq")};
  for (OptionSpec& option : common_options()) options.push_back(std::move(option));
  return {.name = "gptaq",
          .kind = PassKind::quantize,
          .summary = "gptq that aims at the outputs of the full-precision network",
          .source = "GPTAQ, arXiv 2504.02692",
          .options = std::move(options),
          .default_format = "uniform",
          .choose_format = true,
          .make = [](const OptionValues& values, GridChoice grid) {
            return std::make_unique<GptqPass>(values, std::move(grid), values.real("alpha"));
          }};
}

}  // namespace fewbit
