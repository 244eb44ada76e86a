#include "fewbit/methods/clip.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>

#include "fewbit/base/error.h"
#include "fewbit/base/log.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/panel_codes.h"
#include "fewbit/formats/quadratic_form.h"
#include "fewbit/methods/layer_quantizer.h"

namespace fewbit {
namespace {

// Bounds of a candidate, as fractions of the largest |w|.
struct Bounds {
  float low = 1, high = 1;
};

// How much one end is drawn in to move the ideal zero point off the middle of two integers: more
// than the rounding of a stored f16 scale (2^-11) can undo, far less than a step of the search.
constexpr float kTieBreak = 1.0f / 256;

std::vector<Bounds> candidate_bounds(double max_shrink, int n_grid, bool both_zero_points) {
  std::vector<Bounds> candidates;
  const int steps = std::max(1, static_cast<int>(max_shrink * n_grid));
  for (int i = 0; i < steps; ++i) {
    const auto bound = static_cast<float>(1 - static_cast<double>(i) / n_grid);
    candidates.push_back({bound, bound});
    if (both_zero_points && i > 0) {
      candidates.push_back({bound * (1 - kTieBreak), bound});
      candidates.push_back({bound, bound * (1 - kTieBreak)});
    }
  }
  return candidates;
}

// The search over the groups of one panel of rows.
class PanelSearch {
 public:
  PanelSearch(size_t columns, std::span<const Bounds> candidates)
      : candidates_(candidates),
        weights_(columns * kPanelRows),
        clamped_(columns * kPanelRows),
        decoded_(columns * kPanelRows) {}

  // Clamps `panel` (columns of one group) to the best bounds in place. Returns the sums of E over
  // its rows before and after.
  std::pair<double, double> run(GridEncoder& encoder, size_t group, size_t first_column,
                                const QuadraticForm& form, Panel<float> panel) {
    std::array<float, kPanelRows> largest{};
    for (size_t c = 0; c < panel.cols; ++c) {
      for (size_t r = 0; r < kPanelRows; ++r) {
        largest[r] = std::max(largest[r], std::fabs(panel.column(c)[r]));
      }
    }
    std::array<double, kPanelRows> unclipped{}, best{}, errors{};
    std::array<Bounds, kPanelRows> chosen{};
    const Panel<float> clamped{clamped_.data(), panel.cols, panel.rows, panel.first_row};
    const Panel<float> decoded{decoded_.data(), panel.cols, panel.rows, panel.first_row};
    for (size_t i = 0; i < candidates_.size(); ++i) {
      const Bounds bounds = candidates_[i];
      for (size_t c = 0; c < panel.cols; ++c) {
        clamp_column(panel.column(c), largest, bounds, clamped.column(c));
      }
      encoder.fit(group, clamped, {});
      encoder.assign(first_column, clamped, decoded);
      for (size_t c = 0; c < panel.cols; ++c) {
        for (size_t r = 0; r < kPanelRows; ++r) decoded.column(c)[r] -= panel.column(c)[r];
      }
      form.panel_errors(decoded, errors);
      if (i == 0) unclipped = best = errors;
      for (size_t r = 0; r < kPanelRows; ++r) {
        if (errors[r] >= best[r]) continue;
        best[r] = errors[r];
        chosen[r] = bounds;
      }
    }
    for (size_t c = 0; c < panel.cols; ++c) {
      for (size_t r = 0; r < panel.rows; ++r) {
        float& w = panel.column(c)[r];
        w = std::clamp(w, -largest[r] * chosen[r].low, largest[r] * chosen[r].high);
      }
    }
    const auto sum = [&](const auto& values) {
      return std::accumulate(values.begin(), values.begin() + static_cast<ptrdiff_t>(panel.rows),
                             0.0);
    };
    return {sum(unclipped), sum(best)};
  }

  Panel<float> weights(size_t columns, size_t rows, size_t first_row) {
    return {weights_.data(), columns, rows, first_row};
  }

 private:
  static void clamp_column(const float* from, const std::array<float, kPanelRows>& largest,
                           Bounds bounds, float* to) {
    for (size_t r = 0; r < kPanelRows; ++r) {
      const float low = -largest[r] * bounds.low, high = largest[r] * bounds.high;
      to[r] = from[r] < low ? low : from[r] > high ? high : from[r];
    }
  }

  std::span<const Bounds> candidates_;
  AlignedFloats weights_, clamped_, decoded_;
};

class ClipPass : public Pass {
 public:
  ClipPass(const OptionValues& options, GridChoice grid)
      : grid_(std::move(grid)),
        selection_(options.text("layers")),
        queries_and_keys_(options.boolean("queries_and_keys")),
        candidates_(candidate_bounds(options.real("max_shrink"),
                                     static_cast<int>(options.integer("n_grid")),
                                     options.text("zero_points") == "both")) {}

  std::string_view name() const override { return "clip"; }
  PassKind kind() const override { return PassKind::transform; }
  bool needs_calibration() const override { return true; }

  void check(const ModelSpec& spec) const override {
    check_selection(spec, selection_);
    require(!selection_.contains("embed"),
            "option 'layers': clip needs the inputs of a linear, and the embedding is a look-up");
    // The scope does not depend on the shape; this one suits every grid's tiles.
    constexpr size_t kProbe = 256;
    require(grid_.grid()->begin(kPanelRows, kProbe)->shape().scope != FitScope::matrix,
            "option 'format': clip searches row by row, and {} is fitted to a whole matrix",
            grid_.format());
  }

  void apply(BlockContext& block) const override {
    // Steps by the columns of their groups: their Hessians differ only in the size of the blocks.
    std::map<size_t, std::vector<const Step*>> by_width;
    for (const Step& step : block.info().steps) {
      std::vector<std::string> layers = clipped_layers(block, step);
      if (layers.empty()) continue;
      const size_t width = group_width(block, layers.front(), step.in_features);
      for (const std::string& layer : layers) {
        require(group_width(block, layer, step.in_features) == width,
                "{}: its plan has another group_size than that of {}, which reads the same input; "
                "clip needs one",
                layer, layers.front());
      }
      by_width[width].push_back(&step);
    }
    for (const auto& [width, steps] : by_width) {
      const std::vector<LayerStats> stats = block.collect(steps, {.hessian_block = width});
      for (size_t s = 0; s < steps.size(); ++s) clip_step(block, *steps[s], stats[s]);
    }
  }

 private:
  std::vector<std::string> clipped_layers(const BlockContext& block, const Step& step) const {
    std::vector<std::string> layers;
    for (const std::string& layer : selected_layers(block, selection_)) {
      const bool wanted =
          queries_and_keys_ || !(layer.ends_with(".attn.q") || layer.ends_with(".attn.k"));
      const bool here = std::ranges::find(step.linears, layer) != step.linears.end();
      if (wanted && here) layers.push_back(layer);
    }
    return layers;
  }

  size_t group_width(const BlockContext& block, const std::string& layer, size_t columns) const {
    const auto grid = grid_.grid(settings_of(block, layer));
    return grid->begin(kPanelRows, columns)->shape().group_size;
  }

  void clip_step(BlockContext& block, const Step& step, const LayerStats& stats) const {
    const std::vector<std::string> layers = clipped_layers(block, step);
    if (stats.tokens() == 0) {
      require(step.site.find(".experts.") != std::string::npos,
              "{}: no calibration input reached it", step.site);
      for (const std::string& layer : layers) {
        warn("{}: no calibration token reached this expert: not clipped", layer);
        block.transforms.push_back({.where = layer,
                                    .method = std::string(name()),
                                    .detail = "not clipped",
                                    .warnings = {"no calibration token reached this expert"}});
      }
      return;
    }
    const size_t width = group_width(block, layers.front(), step.in_features);
    std::vector<QuadraticForm> forms;
    for (size_t first = 0; first < step.in_features; first += width) {
      forms.emplace_back(stats.hessian_block(forms.size()).view());
    }
    for (const std::string& layer : layers) clip_layer(block, layer, width, forms);
  }

  void clip_layer(BlockContext& block, const std::string& layer, size_t width,
                  const std::vector<QuadraticForm>& forms) const {
    const Stopwatch clock;
    require(!block.quantized.contains(layer), "{}: an earlier pass has quantized it already",
            layer);
    at::Tensor& parameter = block.parameters.at(layer + ".weight");
    const at::Tensor weight = parameter.detach().to(at::kCPU, at::kFloat).contiguous();
    at::Tensor clipped = at::empty_like(weight);
    const auto rows = static_cast<size_t>(weight.size(0)),
               columns = static_cast<size_t>(weight.size(1));
    const MatrixView<const float> from(weight.data_ptr<float>(), rows, columns);
    const MatrixView<float> to(clipped.data_ptr<float>(), rows, columns);
    const auto grid = grid_.grid(settings_of(block, layer));
    const auto encoder = grid->begin(rows, columns);
    const size_t panels = (rows + kPanelRows - 1) / kPanelRows;
    std::vector<std::pair<double, double>> errors(panels);
    parallel_for(panels, [&](size_t index) {
      PanelSearch search(width, candidates_);
      const size_t first_row = index * kPanelRows;
      for (size_t group = 0; group < forms.size(); ++group) {
        const size_t first = group * width;
        const Panel<float> panel = search.weights(
            std::min(width, columns - first), std::min(kPanelRows, rows - first_row), first_row);
        load_panel(from, first, panel);
        const auto [before, after] = search.run(*encoder, group, first, forms[group], panel);
        errors[index].first += before;
        errors[index].second += after;
        store_panel(panel, first, to);
      }
    });
    double before = 0, after = 0;
    for (const auto& [unclipped, best] : errors) {
      before += unclipped;
      after += best;
    }
    const auto changed = (clipped != weight).sum().item<int64_t>();
    block.exact.try_emplace(layer + ".weight", parameter);
    parameter = clipped.to(parameter.device());
    block.transforms.push_back({.where = layer,
                                .method = std::string(name()),
                                .detail = fmt::format("{:.2f} % of the weights clamped",
                                                      100.0 * changed / (rows * columns)),
                                .objective_before = before / 2 / static_cast<double>(rows),
                                .objective_after = after / 2 / static_cast<double>(rows),
                                .seconds = clock.seconds()});
  }

  GridChoice grid_;
  LayerSelection selection_;
  bool queries_and_keys_;
  std::vector<Bounds> candidates_;
};

}  // namespace

MethodInfo clip_method() {
  return {.name = "clip",
          .kind = PassKind::transform,
          .summary = "clamps the weights of each row and group at a bound searched on the outputs",
          .source = "AWQ, arXiv 2306.00978",
          .options = {OptionSpec::make_integer("n_grid", 20, 1, 1000,
                                               "steps of the search per whole range"),
                      OptionSpec::make_real("max_shrink", 0.5, 0, 1,
                                            "largest part of the range that is cut off"),
                      OptionSpec::make_boolean("queries_and_keys", false, "clip q and k too"),
                      OptionSpec::make_choice(
                          "zero_points", "both", {"both", "plain"},
                          "try both zero points of a range that is clamped on both sides, or take "
                          "the one that rounding gives, as the reference does")},
          .default_format = "uniform",
          .choose_format = true,
          .grid_of_next = true,
          .make = [](const OptionValues& options, GridChoice grid) {
            return std::make_unique<ClipPass>(options, std::move(grid));
          }};
}

}  // namespace fewbit
