#include "fewbit/methods/fold_pass.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/methods/layer_quantizer.h"

namespace fewbit {
namespace {

bool holds_any(const FoldGroup& group, const auto& selected) {
  return std::ranges::any_of(
      group.steps, [&](const Step& step) { return std::ranges::any_of(step.linears, selected); });
}

// Whether a pass that folds into `kinds` would scale the group but for an obstacle.
bool is_wanted(const FoldGroup& group, std::span<const FoldKind> kinds) {
  return group.fold == FoldKind::none || std::ranges::find(kinds, group.fold) != kinds.end();
}

}  // namespace

OptionSpec unfoldable_option() {
  return OptionSpec::make_choice(
      "unfoldable", "skip", {"skip", "refuse"},
      "inputs whose scale nothing can take, such as one behind GELU: leave them as they are, or "
      "refuse the model");
}

std::vector<FoldGroup> selected_groups(BlockContext& block, const LayerSelection& selection,
                                       std::span<const FoldKind> kinds, std::string_view method) {
  const std::vector<std::string> layers = selected_layers(block, selection);
  std::vector<FoldGroup> groups;
  for (FoldGroup& group : fold_groups(block.info().steps)) {
    const bool selected = holds_any(group, [&](const std::string& linear) {
      return std::ranges::find(layers, linear) != layers.end();
    });
    if (!selected || !is_wanted(group, kinds)) continue;
    const std::string obstacle = fold_obstacle(block.spec(), group);
    if (obstacle.empty()) {
      groups.push_back(std::move(group));
    } else {
      block.transforms.push_back({.where = group.site(),
                                  .method = std::string(method),
                                  .detail = "not scaled: " + obstacle});
    }
  }
  return groups;
}

void check_foldable(const ModelSpec& spec, const LayerSelection& selection,
                    std::span<const FoldKind> kinds, bool refuse) {
  check_selection(spec, selection);
  const Wiring wiring = wiring_of(spec);
  std::vector<Step> steps;
  for (const BlockWiring& block : wiring.blocks) {
    steps.insert(steps.end(), block.steps.begin(), block.steps.end());
  }
  if (!spec.tied_head) steps.push_back(wiring.head);
  bool any = false;
  std::string first_obstacle;
  for (const FoldGroup& group : fold_groups(steps)) {
    const bool selected =
        holds_any(group, [&](const std::string& linear) { return selection.contains(linear); });
    if (!selected || !is_wanted(group, kinds)) continue;
    const std::string obstacle = fold_obstacle(spec, group);
    any = any || obstacle.empty();
    if (obstacle.empty() || !first_obstacle.empty()) continue;
    first_obstacle = fmt::format("{}: no scale of it can be folded: {}", group.site(), obstacle);
  }
  require(first_obstacle.empty() || !refuse, "{} (unfoldable=skip leaves such inputs unscaled)",
          first_obstacle);
  require(any, "option 'layers': nothing that '{}' selects can be scaled; {}", selection.text(),
          first_obstacle.empty() ? "the embedding is a look-up" : first_obstacle);
}

}  // namespace fewbit
