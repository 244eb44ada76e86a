#include "fewbit/methods/omniquant.h"

#include <algorithm>
#include <array>

#include "fewbit/base/error.h"
#include "fewbit/base/progress.h"
#include "fewbit/methods/affine_layers.h"
#include "fewbit/methods/fold_pass.h"
#include "fewbit/methods/layer_quantizer.h"
#include "fewbit/methods/smoothquant.h"

namespace fewbit {
namespace {

// sigmoid(4) = 0.982: nearly the whole range.
constexpr double kStartLogit = 4;
// Scales stay away from zero.
constexpr double kSmallestFactor = 1e-2;

// Norms before linears, and v before o. What comes through a gate or ReLU is left alone: its sparse
// features give unstable gradients (the paper's reason for sparing down).
bool takes_transform(const FoldGroup& group) {
  return group.fold == FoldKind::norm ||
         (group.fold == FoldKind::rows && group.partner.ends_with(".attn.v"));
}

at::Tensor vector_of(std::span<const float> values, const at::Tensor& like) {
  const at::Tensor host = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
  std::ranges::copy(values, host.data_ptr<float>());
  return host.to(like.device());
}

class OmniQuantPass : public Pass {
 public:
  OmniQuantPass(const OptionValues& options, GridChoice grid)
      : grid_(std::move(grid)),
        selection_(options.text("layers")),
        clip_(options.boolean("lwc")),
        transform_(options.boolean("let")),
        augmented_(options.boolean("aug_loss")),
        epochs_(static_cast<size_t>(options.integer("epochs"))),
        batch_(static_cast<size_t>(options.integer("batch"))),
        clip_rate_(options.real("lwc_rate")),
        transform_rate_(options.real("let_rate")),
        alpha_(options.real("alpha")) {
    require(clip_ || transform_, "options 'lwc' and 'let': nothing is left to learn");
  }

  std::string_view name() const override { return "omniquant"; }
  PassKind kind() const override { return PassKind::quantize; }
  bool needs_calibration() const override { return true; }
  bool needs_exact_stream() const override { return true; }
  bool changes_tensors() const override { return transform_; }

  void check(const ModelSpec& spec) const override {
    check_affine_layout(spec, selection_, grid_, name());
    constexpr std::array kKinds = {FoldKind::norm, FoldKind::rows};
    if (transform_) check_foldable(spec, selection_, kKinds, false);
  }

  void apply(BlockContext& block) const override {
    const Stopwatch clock;
    std::vector<EquivalentTransform> transforms = start_transforms(block);
    const std::vector<AffineLayer> layers = affine_layers(
        block, selection_, grid_, [](const AffineQuantizer& quantizer, const at::Tensor& weight) {
          return make_learnable_clipping(quantizer, weight, kStartLogit);
        });
    if (layers.empty()) return;

    std::vector<TrainedLeaf> leaves;
    for (const AffineLayer& layer : layers) {
      for (const auto& [key, tensor] : layer.quantizer->parameters()) {
        if (clip_) leaves.push_back({tensor, clip_rate_});
      }
    }
    for (const EquivalentTransform& transform : transforms) {
      leaves.push_back({transform.scale, transform_rate_});
      if (transform.shift.defined()) leaves.push_back({transform.shift, transform_rate_});
    }
    const BlockSamples samples(block, augmented_);
    const size_t per_epoch = (samples.size() + batch_ - 1) / batch_;
    const ReconstructReport report = reconstruct(
        block, samples, leaves,
        [&] {
          return quantized_parameters(transformed(block.spec(), transforms, block.parameters),
                                      layers);
        },
        {.steps = epochs_ * per_epoch,
         .update = ReconstructOptions::Update::adamw,
         .samples = [&](size_t step) { return batch_of(step % per_epoch, samples.size()); },
         .constrain =
             [&] {
               const at::NoGradGuard no_gradient;
               for (EquivalentTransform& transform : transforms) {
                 transform.scale.clamp_min_(kSmallestFactor);
               }
             }});
    fold(block, transforms);
    store_affine_layers(block, layers, name());
    report_reconstruction(block, name(), report, clock.seconds());
  }

 private:
  std::vector<size_t> batch_of(size_t index, size_t count) const {
    std::vector<size_t> samples;
    for (size_t s = index * batch_; s < std::min((index + 1) * batch_, count); ++s) {
      samples.push_back(s);
    }
    return samples;
  }

  std::vector<EquivalentTransform> start_transforms(BlockContext& block) const {
    std::vector<EquivalentTransform> transforms;
    if (!transform_) return transforms;
    const std::vector<std::string> layers = selected_layers(block, selection_);
    std::vector<const Step*> steps;
    std::vector<FoldGroup> groups;
    for (FoldGroup& group : fold_groups(block.info().steps)) {
      const bool selected = std::ranges::any_of(group.steps, [&](const Step& step) {
        return std::ranges::any_of(step.linears, [&](const std::string& linear) {
          return std::ranges::find(layers, linear) != layers.end();
        });
      });
      if (!selected || !takes_transform(group) || !fold_obstacle(block.spec(), group).empty()) {
        continue;
      }
      groups.push_back(std::move(group));
    }
    for (const FoldGroup& group : groups) {
      require_unquantized(block, group);
      for (const Step& step : group.steps) steps.push_back(&step);
    }
    if (steps.empty()) return transforms;
    const std::vector<LayerStats> stats = block.collect(steps, {.max_absolute = true});
    size_t next = 0;
    for (FoldGroup& group : groups) {
      LayerStats inputs = stats[next++];
      for (size_t s = 1; s < group.steps.size(); ++s) inputs.merge(stats[next++]);
      if (inputs.tokens() > 0)
        transforms.push_back(start_transform(block, std::move(group), inputs));
    }
    return transforms;
  }

  EquivalentTransform start_transform(const BlockContext& block, FoldGroup group,
                                      const LayerStats& inputs) const {
    const std::vector<float> columns = smoothing_scale_of(block, group, inputs, alpha_);
    // Shared columns have one scale, so any of them tells the row's.
    std::vector<float> rows(partner_rows(block.spec(), group));
    for (size_t c = 0; c < columns.size(); ++c) {
      const size_t row =
          group.fold == FoldKind::norm ? c : partner_row(block.spec(), group.steps.front(), c);
      rows[row] = std::max<float>(columns[c], kSmallestFactor);
    }
    const at::Tensor& like = block.parameters.at(group.partner + ".weight");
    EquivalentTransform result{
        .group = std::move(group), .scale = make_parameter(vector_of(rows, like)), .shift = {}};
    if (takes_shift(result.group, block.parameters)) {
      result.shift = make_parameter(at::zeros_like(result.scale.detach()));
    }
    return result;
  }

  // Puts the learned transforms into the block's parameters for good.
  static void fold(BlockContext& block, const std::vector<EquivalentTransform>& transforms) {
    const at::NoGradGuard no_gradient;
    if (transforms.empty()) return;
    const ParameterMap exact = transformed(block.spec(), transforms, block.exact_parameters());
    block.parameters = transformed(block.spec(), transforms, block.parameters);
    for (auto& [name, tensor] : block.exact) tensor = exact.at(name);
  }

  GridChoice grid_;
  LayerSelection selection_;
  bool clip_, transform_, augmented_;
  size_t epochs_, batch_;
  double clip_rate_, transform_rate_, alpha_;
};

}  // namespace

ParameterMap transformed(const ModelSpec& spec, std::span<const EquivalentTransform> transforms,
                         ParameterMap parameters) {
  for (const EquivalentTransform& transform : transforms) {
    if (transform.shift.defined()) {
      fold_shift(spec, transform.group, transform.shift, parameters);
    }
    fold_scale(spec, transform.group, transform.scale, parameters);
  }
  return parameters;
}

MethodInfo omniquant_method() {
  return {
      .name = "omniquant",
      .kind = PassKind::quantize,
      .summary = "learns clipping and equivalent transforms on the output of each block",
      .source = "OmniQuant, arXiv 2308.13137",
      .options = {OptionSpec::make_boolean("lwc", true,
                                           "learn how far each group's range is pulled in"),
                  OptionSpec::make_boolean(
                      "let", false, "learn scales (and shifts, where there are biases) of inputs"),
                  OptionSpec::make_integer("epochs", 20, 0, 100000,
                                           "passes over the calibration text"),
                  OptionSpec::make_integer("batch", 1, 1, 4096, "sequences of one step"),
                  OptionSpec::make_real("lwc_rate", 1e-2, 0, 10, "learning rate of the clipping"),
                  OptionSpec::make_real("let_rate", 5e-3, 0, 10, "learning rate of the transforms"),
                  OptionSpec::make_real("alpha", 0.5, 0, 1,
                                        "scales start from max |x|^alpha / max |W|^(1 - alpha)"),
                  OptionSpec::make_boolean("aug_loss", false,
                                           "also compare with the exact block on the same inputs; "
                                           "advised at 2 bits")},
      .default_format = "uniform",
      .choose_format = false,
      .make = [](const OptionValues& options, GridChoice grid) {
        return std::make_unique<OmniQuantPass>(options, std::move(grid));
      }};
}

}  // namespace fewbit
