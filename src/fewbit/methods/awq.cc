#include "fewbit/methods/awq.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/base/log.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/quadratic_form.h"
#include "fewbit/methods/fold_pass.h"
#include "fewbit/methods/layer_quantizer.h"

namespace fewbit {
namespace {

constexpr std::array kKinds = {FoldKind::norm, FoldKind::rows};

// Guards of the reference against powers and quotients of zero.
constexpr double kSmallestScale = 1e-4, kSmallestAbsmax = 1e-6;

MatrixView<const float> view_of(const at::Tensor& matrix) {
  return {matrix.data_ptr<float>(), static_cast<size_t>(matrix.size(0)),
          static_cast<size_t>(matrix.size(1))};
}

at::Tensor row_tensor(std::span<const float> values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
  std::copy(values.begin(), values.end(), tensor.data_ptr<float>());
  return tensor;
}

// The sum of (a - b)^2, in an order that does not depend on the number of threads.
double squared_distance(const at::Tensor& a, const at::Tensor& b) {
  constexpr size_t kChunk = 1 << 14;
  const at::Tensor left = a.to(at::kCPU).contiguous(), right = b.to(at::kCPU).contiguous();
  const float *x = left.data_ptr<float>(), *y = right.data_ptr<float>();
  const auto count = static_cast<size_t>(left.numel());
  std::vector<double> sums((count + kChunk - 1) / kChunk);
  parallel_for_chunks(count, kChunk, [&](size_t first, size_t last) {
    double sum = 0;
    for (size_t i = first; i < last; ++i) {
      const double difference = static_cast<double>(x[i]) - y[i];
      sum += difference * difference;
    }
    sums[first / kChunk] = sum;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

void normalise(std::vector<double>& scale) {
  const auto [low, high] = std::ranges::minmax(scale);
  const double middle = std::sqrt(low * high);
  for (double& s : scale) {
    s /= middle;
    if (!std::isfinite(s) || s <= 0) s = 1;
  }
}

// Linears of a group, each with its grid.
struct SearchedLinear {
  std::string layer;
  const Step* step;
  at::Tensor weight;  // [out, in], on the CPU.
  std::unique_ptr<Grid> grid;

  // Q(W diag(s)) diag(s)^-1.
  at::Tensor rounded(const at::Tensor& scale) const {
    const at::Tensor scaled = (weight * scale).contiguous();
    at::Tensor decoded = at::empty_like(scaled);
    round_to_grid(*grid, view_of(scaled), {},
                  {decoded.data_ptr<float>(), static_cast<size_t>(decoded.size(0)),
                   static_cast<size_t>(decoded.size(1))});
    return decoded.div_(scale);
  }
};

// w_j of duo scaling over the rows of all linears of a group.
std::vector<double> relative_magnitudes(std::span<const SearchedLinear> linears, size_t columns) {
  std::vector<double> sums(columns, 0.0);
  size_t rows = 0;
  for (const SearchedLinear& linear : linears) {
    const auto weight = view_of(linear.weight);
    const size_t group = linear.grid->begin(weight.rows(), columns)->shape().group_size;
    const size_t width = group == 0 ? columns : std::min(group, columns);
    rows += weight.rows();
    for (size_t r = 0; r < weight.rows(); ++r) {
      const auto row = weight.row(r);
      for (size_t first = 0; first < columns; first += width) {
        const size_t last = std::min(first + width, columns);
        double largest = 0;
        for (size_t c = first; c < last; ++c)
          largest = std::max<double>(largest, std::fabs(row[c]));
        for (size_t c = first; c < last; ++c) {
          sums[c] += std::fabs(row[c]) / (largest + kSmallestAbsmax);
        }
      }
    }
  }
  for (double& sum : sums) sum /= static_cast<double>(rows);
  return sums;
}

class AwqPass : public Pass {
 public:
  AwqPass(const OptionValues& options, GridChoice grid)
      : grid_(std::move(grid)),
        selection_(options.text("layers")),
        n_grid_(static_cast<int>(options.integer("n_grid"))),
        duo_scaling_(options.boolean("duo_scaling")),
        module_objective_(options.text("objective") == "module"),
        refuse_(options.text("unfoldable") == "refuse"),
        search_tokens_(static_cast<size_t>(options.integer("search_tokens"))) {}

  std::string_view name() const override { return "awq"; }
  PassKind kind() const override { return PassKind::transform; }
  bool needs_calibration() const override { return true; }

  void check(const ModelSpec& spec) const override {
    check_foldable(spec, selection_, kKinds, refuse_);
  }

  void apply(BlockContext& block) const override {
    const std::vector<FoldGroup> groups = selected_groups(block, selection_, kKinds, name());
    if (groups.empty()) return;
    const std::vector<GroupStats> stats = collect(block, groups);
    const ModuleOutputs outputs = reference_outputs(block, groups);
    std::vector<std::vector<float>> scales;
    for (size_t g = 0; g < groups.size(); ++g) {
      scales.push_back(search(block, groups[g], stats[g], outputs));
    }
    for (size_t g = 0; g < groups.size(); ++g) {
      if (!scales[g].empty()) fold_scale(block, groups[g], scales[g]);
    }
  }

 private:
  struct GroupStats {
    LayerStats inputs;                // Of all steps of the group together.
    std::vector<LayerStats> by_step;  // With a Hessian, if the objective needs one.
  };
  // Outputs of the modules on the unscaled block: [batch][site].
  using ModuleOutputs = std::vector<std::map<std::string, at::Tensor, std::less<>>>;

  bool by_module(const FoldGroup& group) const {
    return module_objective_ && !group.steps.front().module_output.empty();
  }

  std::vector<GroupStats> collect(BlockContext& block, const std::vector<FoldGroup>& groups) const {
    std::vector<GroupStats> result(groups.size());
    // A Hessian costs more than all else, so only the steps that need one take part in its run.
    for (const bool hessian : {false, true}) {
      std::vector<const Step*> steps;
      for (const FoldGroup& group : groups) {
        if (by_module(group) == hessian) continue;
        for (const Step& step : group.steps) steps.push_back(&step);
      }
      if (steps.empty()) continue;
      std::vector<LayerStats> stats =
          block.collect(steps, {.hessian = hessian, .mean_absolute = true});
      size_t next = 0;
      for (size_t g = 0; g < groups.size(); ++g) {
        if (by_module(groups[g]) == hessian) continue;
        for (size_t s = 0; s < groups[g].steps.size(); ++s) {
          LayerStats& one = stats[next++];
          if (s == 0) {
            result[g].inputs = one;
          } else {
            result[g].inputs.merge(one);
          }
          if (hessian) result[g].by_step.push_back(std::move(one));
        }
      }
    }
    return result;
  }

  ModuleOutputs reference_outputs(const BlockContext& block,
                                  const std::vector<FoldGroup>& groups) const {
    std::set<std::string, std::less<>> sites;
    for (const FoldGroup& group : groups) {
      if (by_module(group)) sites.insert(group.steps.front().module_output);
    }
    ModuleOutputs outputs;
    if (sites.empty()) return outputs;
    size_t tokens = 0;
    for (size_t b = 0; b < block.batches(); ++b) {
      if (search_tokens_ > 0 && tokens >= search_tokens_) break;
      tokens += block.batch_tokens(b);
      auto& here = outputs.emplace_back();
      BlockHooks hooks;
      hooks.at_site = [&](const std::string& site, const at::Tensor& value) {
        if (sites.contains(site)) here[site] = value;
        return value;
      };
      block.run(b, block.parameters, hooks);
    }
    return outputs;
  }

  std::vector<SearchedLinear> searched_linears(const BlockContext& block,
                                               const FoldGroup& group) const {
    const auto layers = selected_layers(block, selection_);
    std::vector<SearchedLinear> linears;
    for (const Step& step : group.steps) {
      for (const std::string& layer : step.linears) {
        if (std::ranges::find(layers, layer) == layers.end()) continue;
        linears.push_back(
            {layer, &step,
             block.parameters.at(layer + ".weight").detach().to(at::kCPU, at::kFloat).contiguous(),
             grid_.grid(settings_of(block, layer))});
      }
    }
    return linears;
  }

  // The best scale of a group; empty if nothing is known of its inputs.
  std::vector<float> search(BlockContext& block, const FoldGroup& group, const GroupStats& stats,
                            const ModuleOutputs& outputs) const {
    const Stopwatch clock;
    TransformReport report{.where = group.site(), .method = std::string(name())};
    if (stats.inputs.tokens() == 0) {
      require(group.site().find(".experts.") != std::string::npos,
              "{}: no calibration input reached it", group.site());
      report.detail = "not scaled";
      report.warnings = {"no calibration token reached this expert"};
      warn("{}: {}", group.site(), report.warnings.front());
      block.transforms.push_back(std::move(report));
      return {};
    }
    const std::vector<SearchedLinear> linears = searched_linears(block, group);
    std::vector<double> activations = stats.inputs.mean_absolute();
    share_columns(block.spec(), group, SharedColumns::mean, activations);
    std::vector<double> importance;
    if (duo_scaling_) {
      importance = relative_magnitudes(linears, group.in_features);
      share_columns(block.spec(), group, SharedColumns::mean, importance);
    }
    auto candidates = awq_candidates(activations, importance, n_grid_);
    const CandidateSearch found =
        by_module(group)
            ? search_module(block, group.steps.front().module_output, linears, candidates, outputs)
            : search_outputs(group, stats, linears, candidates);
    report.objective_before = found.losses.front();
    report.objective_after = found.losses[found.best];
    report.detail =
        found.best == 0 ? "not scaled" : fmt::format("ratio {:.4g}", ratio_of(found.best));
    report.losses = found.losses;
    report.seconds = clock.seconds();
    block.transforms.push_back(std::move(report));
    return std::move(candidates[found.best]);
  }

  double ratio_of(size_t candidate) const {
    return static_cast<double>(candidate - (duo_scaling_ ? 1 : 0)) / n_grid_;
  }

  // By the output of the module that the group opens.
  CandidateSearch search_module(const BlockContext& block, const std::string& site,
                                const std::vector<SearchedLinear>& linears,
                                const std::vector<std::vector<float>>& candidates,
                                const ModuleOutputs& outputs) const {
    double elements = 0;
    for (const auto& batch : outputs) elements += static_cast<double>(batch.at(site).numel());
    ParameterMap with = block.parameters;
    size_t current = candidates.size();
    return search_candidates(candidates.size(), outputs.size(), [&](size_t candidate, size_t b) {
      if (candidate != current) {
        for (const SearchedLinear& linear : linears) {
          at::Tensor& parameter = with[linear.layer + ".weight"];
          parameter = linear.rounded(row_tensor(candidates[candidate])).to(parameter.device());
        }
        current = candidate;
      }
      double loss = 0;
      BlockHooks hooks;
      hooks.stop_at = site;
      for (const auto& [other, value] : outputs[b]) {
        if (other != site && other != block.info().name + ".output") hooks.known[other] = value;
      }
      hooks.at_site = [&](const std::string& where, const at::Tensor& value) {
        if (where == site) loss = squared_distance(value, outputs[b].at(site)) / elements;
        return value;
      };
      block.run(b, with, hooks);
      return loss;
    });
  }

  // By the outputs of the group's own linears: mean ||(W - W') x||^2 = tr(D H D^T) / 2 over rows.
  CandidateSearch search_outputs(const FoldGroup& group, const GroupStats& stats,
                                 const std::vector<SearchedLinear>& linears,
                                 const std::vector<std::vector<float>>& candidates) const {
    std::vector<std::optional<QuadraticForm>> forms(group.steps.size());
    for (size_t s = 0; s < forms.size(); ++s) {
      if (stats.by_step[s].tokens() > 0) forms[s].emplace(stats.by_step[s].hessian().view());
    }
    double rows = 0;
    for (const SearchedLinear& linear : linears) rows += static_cast<double>(linear.weight.size(0));
    return search_candidates(candidates.size(), linears.size(), [&](size_t candidate, size_t l) {
      const SearchedLinear& linear = linears[l];
      const auto& form = forms[static_cast<size_t>(linear.step - group.steps.data())];
      if (!form) return 0.0;
      const at::Tensor difference =
          linear.rounded(row_tensor(candidates[candidate])).sub_(linear.weight);
      return form->total(view_of(difference)) / 2 / rows;
    });
  }

  GridChoice grid_;
  LayerSelection selection_;
  int n_grid_;
  bool duo_scaling_, module_objective_, refuse_;
  size_t search_tokens_;
};

}  // namespace

std::vector<std::vector<float>> awq_candidates(std::span<const double> mean_absolute,
                                               std::span<const double> importance, int n_grid) {
  std::vector<std::vector<float>> candidates;
  if (!importance.empty()) candidates.emplace_back(mean_absolute.size(), 1.0f);
  for (int i = 0; i < n_grid; ++i) {
    const double ratio = static_cast<double>(i) / n_grid;
    std::vector<double> scale(mean_absolute.size());
    for (size_t c = 0; c < scale.size(); ++c) {
      double value = std::pow(mean_absolute[c], ratio);
      if (!importance.empty()) value /= std::pow(importance[c], 1 - ratio) + kSmallestScale;
      scale[c] = std::max(value, kSmallestScale);
    }
    normalise(scale);
    candidates.emplace_back(scale.begin(), scale.end());
  }
  return candidates;
}

CandidateSearch search_candidates(size_t candidates, size_t batches,
                                  const std::function<double(size_t, size_t)>& loss) {
  CandidateSearch result;
  result.losses.assign(candidates, CandidateSearch::kGivenUp);
  if (batches == 0) return result;
  std::vector<double> partial(candidates);
  for (size_t c = 0; c < candidates; ++c) partial[c] = loss(c, 0);
  // Likely winners first: the sooner the smallest loss is known, the sooner others are given up.
  std::vector<size_t> order(candidates);
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t c) { return partial[c]; });
  double smallest = CandidateSearch::kGivenUp;
  for (const size_t c : order) {
    size_t b = 1;
    for (; b < batches && (c == 0 || partial[c] <= smallest); ++b) partial[c] += loss(c, b);
    if (b < batches) continue;
    result.losses[c] = partial[c];
    smallest = std::min(smallest, partial[c]);
  }
  result.best =
      static_cast<size_t>(std::ranges::min_element(result.losses) - result.losses.begin());
  return result;
}

MethodInfo awq_method() {
  return {
      .name = "awq",
      .kind = PassKind::transform,
      .summary = "scales input columns by a power of their activations, searched on the outputs",
      .source = "AWQ, arXiv 2306.00978",
      .options =
          {OptionSpec::make_integer("n_grid", 20, 1, 1000, "candidates of the search"),
           OptionSpec::make_boolean("duo_scaling", false,
                                    "divide by a power of the weights' magnitude too (AutoAWQ)"),
           OptionSpec::make_choice("objective", "module", {"module", "linears"},
                                   "output that is compared: of attention and MLP, or of the "
                                   "scaled linears (quicker)"),
           OptionSpec::make_integer("search_tokens", 16384, 0, int64_t{1} << 40,
                                    "calibration tokens on which modules are compared, in whole "
                                    "batches; 0: all"),
           unfoldable_option()},
      .default_format = "uniform",
      .choose_format = true,
      .grid_of_next = true,
      .make = [](const OptionValues& options, GridChoice grid) {
        return std::make_unique<AwqPass>(options, std::move(grid));
      }};
}

}  // namespace fewbit
