#include "fewbit/formats/error_feedback.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/dense_kernels.h"
#include "fewbit/formats/error_feedback_kernels.h"
#include "fewbit/formats/panel_codes.h"

namespace fewbit {
namespace {

// Columns whose corrections are gathered before they go to all later columns. Their errors, 64 rows
// of floats each, then fill half of a first-level cache.
constexpr size_t kLazyColumns = 64;
static_assert(kPanelRows % kProductColumns == 0);

// Columns [first, last) of the visiting order, treated together.
struct Block {
  size_t first = 0, last = 0;
  std::vector<float> factor;  // U^t of rows [first, in), columns [first, last): row-major
  std::vector<float> drift;   // -P^t likewise, or empty

  size_t width() const { return last - first; }
  // U_ij of this block's columns i for the later column j.
  const float* row(size_t j) const { return factor.data() + (j - first) * width(); }
  // -P_ij likewise.
  const float* drift_row(size_t j) const { return drift.data() + (j - first) * width(); }
};

// What is fitted when: position in the visiting order -> group.
struct Plan {
  GridShape shape;
  GroupGrids when = GroupGrids::fresh;
  bool stored_order = true;      // the result's columns stand as the caller's do
  std::vector<uint32_t> stored;  // visiting position -> stored column
  std::vector<uint32_t> source;  // stored column -> caller's column
  std::vector<size_t> starts;    // positions where a group begins, if groups are contiguous
  std::vector<Block> blocks;
};

bool is_identity(std::span<const uint32_t> order) {
  for (size_t i = 0; i < order.size(); ++i) {
    if (order[i] != i) return false;
  }
  return true;
}

size_t columns_of_group(const Plan& plan, size_t stored_column, size_t cols) {
  const size_t first = stored_column / plan.shape.group_size * plan.shape.group_size;
  return std::min(plan.shape.group_size, cols - first);
}

// Ends of blocks: at most `width` columns, and no group begins inside a block and ends beyond it,
// so that a group's columns carry equal corrections when it is fitted.
void make_blocks(Plan& plan, size_t cols, size_t width) {
  auto start = plan.starts.begin();
  for (size_t first = 0; first < cols;) {
    size_t last = std::min(first + width, cols);
    if (plan.when == GroupGrids::fresh) {
      while (start != plan.starts.end() && *start <= first) ++start;
      for (auto s = start; s != plan.starts.end() && *s < last; ++s) {
        if (*s + columns_of_group(plan, plan.stored[*s], cols) > last) last = *s;
      }
    }
    plan.blocks.push_back({first, last, {}});
    first = last;
  }
}

// The block's columns of a lower triangular matrix in visiting order, from row block.first on.
std::vector<float> columns_of(const Matrix& lower, const Block& block) {
  std::vector<float> columns;
  columns.reserve((lower.rows() - block.first) * block.width());
  for (size_t j = block.first; j < lower.rows(); ++j) {
    const auto source = lower.row(j).subspan(block.first, block.width());
    columns.insert(columns.end(), source.begin(), source.end());
  }
  return columns;
}

void load_factors(Plan& plan, const Matrix& transposed_factor, const InputDrift* drift) {
  parallel_for(plan.blocks.size(), [&](size_t b) {
    Block& block = plan.blocks[b];
    block.factor = columns_of(transposed_factor, block);
    if (drift) block.drift = columns_of(drift->transposed, block);
  });
}

Plan make_plan(const GridShape& shape, const HessianFactor& factor,
               const ErrorFeedbackOptions& options, const InputDrift* drift) {
  const size_t cols = factor.size();
  Plan plan;
  plan.shape = shape;
  plan.when = options.group_grids;
  if (shape.scope != FitScope::group || factor.column_order == ColumnOrder::fixed) {
    plan.when = GroupGrids::beforehand;
  }
  plan.stored_order = factor.column_order != ColumnOrder::dynamic || is_identity(factor.order);
  plan.source.resize(cols);
  std::iota(plan.source.begin(), plan.source.end(), 0u);
  plan.stored = factor.order;
  if (!plan.stored_order) std::swap(plan.source, plan.stored);
  if (shape.tile_cols > 1) {
    require(plan.stored_order ? is_identity(factor.order) : true,
            "a grid with tiles of {} columns needs the order of columns 'none' or 'dynamic'",
            shape.tile_cols);
    require(cols % shape.tile_cols == 0 && shape.group_size % shape.tile_cols == 0 &&
                kLazyColumns % shape.tile_cols == 0 && options.block_size % shape.tile_cols == 0,
            "tiles of {} columns do not divide {} columns, groups of {} or blocks of {}",
            shape.tile_cols, cols, shape.group_size, options.block_size);
  }
  if (factor.column_order == ColumnOrder::gar && shape.scope == FitScope::group) {
    require(factor.group_size == shape.group_size,
            "the columns were ordered for groups of {}, the grid has groups of {}",
            factor.group_size, shape.group_size);
  }
  if (plan.when != GroupGrids::beforehand) {
    for (size_t i = 0; i < cols; ++i) {
      const size_t group = plan.stored[i] / shape.group_size;
      if (i == 0 || group != plan.stored[i - 1] / shape.group_size) plan.starts.push_back(i);
    }
  }
  require(options.block_size > 0, "block_size=0 is not allowed; allowed: 1 and above");
  const bool blocks_matter = plan.when == GroupGrids::stale || drift;
  make_blocks(plan, cols, blocks_matter ? options.block_size : kLazyColumns);
  load_factors(plan, factor.transposed_factor, drift);
  return plan;
}

// One panel of rows through all columns.
class PanelSolver {
 public:
  PanelSolver(const Plan& plan, const HessianFactor& factor, std::span<const float> importance,
              GridEncoder& encoder, size_t rows, size_t first_row)
      : plan_(plan),
        factor_(factor),
        importance_(importance),
        encoder_(encoder),
        rows_(rows),
        first_row_(first_row),
        cols_(factor.size()),
        weights_(cols_ * kPanelRows),
        decoded_(plan.shape.tile_cols * kPanelRows) {
    size_t widest = 0;
    for (const Block& block : plan.blocks) widest = std::max(widest, block.width());
    errors_.resize(widest * kPanelRows);
    if (drifts()) {
      before_.resize(widest * kPanelRows);
      after_.resize(widest * kPanelRows);
    }
  }

  // Returns sum e^2.
  double solve(MatrixView<const float> weights) {
    load(weights);
    if (plan_.when == GroupGrids::beforehand && plan_.shape.scope != FitScope::matrix) {
      fit_beforehand();
    }
    double total = 0;
    for (const Block& block : plan_.blocks) {
      if (plan_.when == GroupGrids::stale) fit_starts_in(block.first, block.last);
      total += solve_block(block);
      if (block.last == cols_) break;
      subtract_product(block.row(block.last), block.width(), errors_.data(), kPanelRows,
                       block.width(), column(block.last), kPanelRows, cols_ - block.last,
                       kPanelRows);
      if (!drifts()) continue;
      subtract_product(block.drift_row(block.last), block.width(), after_.data(), kPanelRows,
                       block.width(), column(block.last), kPanelRows, cols_ - block.last,
                       kPanelRows);
    }
    return total;
  }

 private:
  bool drifts() const { return !plan_.blocks.front().drift.empty(); }
  float* column(size_t position) { return weights_.data() + position * kPanelRows; }
  Panel<float> panel(float* data, size_t cols) const { return {data, cols, rows_, first_row_}; }

  // Columns in visiting order, dead ones 0.
  void load(MatrixView<const float> weights) {
    // Sixteen floats are one cache line: few lines are open at a time on either side.
    constexpr size_t kTile = 16;
    for (size_t tile = 0; tile < cols_; tile += kTile) {
      const size_t end = std::min(tile + kTile, cols_);
      for (size_t r = 0; r < rows_; ++r) {
        const auto row = weights.row(first_row_ + r);
        for (size_t i = tile; i < end; ++i) {
          const uint32_t source = factor_.order[i];
          column(i)[r] = factor_.dead[source] ? 0.0f : row[source];
        }
      }
    }
  }

  void fit(size_t group, float* data, size_t cols, std::span<const float> importance) {
    encoder_.fit(group, panel(data, cols), importance);
  }

  // Groups of stored columns from the weights as they were loaded.
  void fit_beforehand() {
    const size_t group_size = plan_.shape.group_size;
    std::vector<uint32_t> position(cols_);
    for (size_t i = 0; i < cols_; ++i) position[plan_.stored[i]] = static_cast<uint32_t>(i);
    AlignedFloats buffer(group_size * kPanelRows);
    std::vector<float> importance;
    for (size_t first = 0, group = 0; first < cols_; first += group_size, ++group) {
      const size_t count = std::min(group_size, cols_ - first);
      importance.clear();
      for (size_t k = 0; k < count; ++k) {
        std::copy_n(column(position[first + k]), kPanelRows, &buffer[k * kPanelRows]);
        if (!importance_.empty()) importance.push_back(importance_[plan_.source[first + k]]);
      }
      fit(group, buffer.data(), count, importance);
    }
  }

  // Groups that begin at positions [first, last), from the weights as they are now.
  void fit_starts_in(size_t first, size_t last) {
    auto start = std::lower_bound(plan_.starts.begin(), plan_.starts.end(), first);
    std::vector<float> importance;
    for (; start != plan_.starts.end() && *start < last; ++start) {
      const size_t count = columns_of_group(plan_, plan_.stored[*start], cols_);
      importance.clear();
      for (size_t k = 0; k < count && !importance_.empty(); ++k) {
        importance.push_back(importance_[factor_.order[*start + k]]);
      }
      fit(plan_.stored[*start] / plan_.shape.group_size, column(*start), count, importance);
    }
  }

  double solve_block(const Block& block) {
    alignas(128) float squares[kPanelRows] = {};
    // Columns before `corrected` have put their errors into all columns of the block.
    size_t corrected = block.first;
    auto start = std::lower_bound(plan_.starts.begin(), plan_.starts.end(), block.first);
    for (size_t i = block.first; i < block.last; i += plan_.shape.tile_cols) {
      if (plan_.when == GroupGrids::fresh && start != plan_.starts.end() && *start == i) {
        for (size_t j = i; j < block.last && corrected < i; ++j) correct(block, corrected, i, j);
        corrected = i;
        fit_starts_in(i, i + 1);
        ++start;
      }
      solve_tile(block, i, corrected, squares);
    }
    double total = 0;
    for (size_t r = 0; r < rows_; ++r) total += static_cast<double>(squares[r]);
    return total;
  }

  float* in_block(AlignedFloats& buffer, const Block& block, size_t position) {
    return buffer.data() + (position - block.first) * kPanelRows;
  }
  float* error(const Block& block, size_t position) { return in_block(errors_, block, position); }

  // Puts what columns [first, last) of the block ask for into its column `position`.
  void correct(const Block& block, size_t first, size_t last, size_t position) {
    subtract_errors(block.row(position) + (first - block.first), error(block, first), last - first,
                    column(position));
    if (drifts()) correct_drift(block, first, last, position);
  }
  void correct_drift(const Block& block, size_t first, size_t last, size_t position) {
    subtract_errors(block.drift_row(position) + (first - block.first),
                    in_block(before_, block, first), last - first, column(position));
  }

  void solve_tile(const Block& block, size_t first, size_t corrected, float* squares) {
    const size_t count = plan_.shape.tile_cols;
    for (size_t j = first; j < first + count; ++j) {
      correct(block, corrected, first, j);
      if (!drifts()) continue;
      correct_drift(block, first, j, j);
      std::copy_n(column(j), kPanelRows, in_block(before_, block, j));
    }
    encoder_.assign(plan_.stored[first], panel(column(first), count),
                    panel(decoded_.data(), count));
    // Inside the tile the errors follow by forward substitution: e U_tile = w - q.
    for (size_t j = first; j < first + count; ++j) {
      subtract_errors(block.row(j) + (first - block.first), error(block, first), j - first,
                      column(j));
      scaled_error(column(j), decoded_.data() + (j - first) * kPanelRows,
                   block.row(j)[j - block.first], error(block, j), squares);
    }
    if (drifts()) {
      std::copy_n(decoded_.data(), count * kPanelRows, in_block(after_, block, first));
    }
  }

  const Plan& plan_;
  const HessianFactor& factor_;
  std::span<const float> importance_;  // by the caller's columns, or empty
  GridEncoder& encoder_;
  size_t rows_, first_row_, cols_;
  AlignedFloats weights_, decoded_, errors_;
  AlignedFloats before_, after_;  // with a drift: the block's columns and what they became
};

// Columns in the order in which they are stored, dead ones 0.
Matrix stored_weights(MatrixView<const float> weights, const Plan& plan,
                      const HessianFactor& factor) {
  Matrix result(weights.rows(), weights.cols());
  parallel_for(weights.rows(), [&](size_t r) {
    for (size_t c = 0; c < weights.cols(); ++c) {
      const uint32_t source = plan.source[c];
      result(r, c) = factor.dead[source] ? 0.0f : weights(r, source);
    }
  });
  return result;
}

}  // namespace

ErrorFeedbackResult quantize_with_feedback(const Grid& grid, MatrixView<const float> weights,
                                           MatrixView<const double> hessian,
                                           const ErrorFeedbackOptions& options) {
  const size_t group_size = options.order == ColumnOrder::gar
                                ? grid.begin(weights.rows(), weights.cols())->shape().group_size
                                : 0;
  const HessianFactorOptions factor_options{.damping = options.damping, .order = options.order};
  return quantize_with_feedback(grid, weights,
                                factorize_hessian(hessian, group_size, factor_options), options);
}

ErrorFeedbackResult quantize_with_feedback(const Grid& grid, MatrixView<const float> weights,
                                           const HessianFactor& factor,
                                           const ErrorFeedbackOptions& options,
                                           const InputDrift* drift) {
  require(weights.cols() == factor.size(), "weights of {} columns with a Hessian of {}",
          weights.cols(), factor.size());
  require_finite(weights);
  ErrorFeedbackResult result;
  result.outcome = factor.outcome;
  result.message = factor.message;
  result.dead_columns =
      static_cast<size_t>(std::count(factor.dead.begin(), factor.dead.end(), uint8_t{1}));
  if (factor.outcome == FactorOutcome::not_factorised) {
    result.message += "; the nearest codes were taken, without error feedback";
    result.matrix = quantize_to_nearest(grid, weights);
    return result;
  }
  const auto encoder = grid.begin(weights.rows(), weights.cols());
  require(!drift || drift->transposed.rows() == factor.size(),
          "a drift of {} inputs with a Hessian of {}", drift ? drift->transposed.rows() : 0,
          factor.size());
  const Plan plan = make_plan(encoder->shape(), factor, options, drift);
  const std::span<const float> importance =
      options.weigh_fit ? std::span<const float>(factor.diagonal) : std::span<const float>();
  if (plan.shape.scope == FitScope::matrix) {
    std::vector<float> stored_importance;
    for (size_t c = 0; c < importance.size(); ++c) {
      stored_importance.push_back(importance[plan.source[c]]);
    }
    encoder->fit_matrix(stored_weights(weights, plan, factor).view(), stored_importance);
  }
  const size_t panels = (weights.rows() + kPanelRows - 1) / kPanelRows;
  std::vector<double> losses(panels);
  parallel_for(panels, [&](size_t p) {
    const size_t first_row = p * kPanelRows;
    PanelSolver solver(plan, factor, importance, *encoder,
                       std::min(kPanelRows, weights.rows() - first_row), first_row);
    losses[p] = solver.solve(weights);
  });
  if (!drift) result.loss = std::accumulate(losses.begin(), losses.end(), 0.0) / 2;
  Transform input;
  if (!plan.stored_order) input.steps.emplace_back(Permutation{factor.order});
  result.matrix = encoder->finish(std::move(input));
  return result;
}

double feedback_objective(MatrixView<const float> weights, MatrixView<const float> quantized,
                          MatrixView<const double> hessian) {
  require(weights.rows() == quantized.rows() && weights.cols() == quantized.cols() &&
              hessian.rows() == weights.cols() && hessian.cols() == weights.cols(),
          "weights [{}, {}], quantised weights [{}, {}] and a Hessian [{}, {}] do not match",
          weights.rows(), weights.cols(), quantized.rows(), quantized.cols(), hessian.rows(),
          hessian.cols());
  // (W - Q) H in tiles of H, for a panel of rows at a time.
  constexpr size_t kRows = 128, kTile = 128;
  static_assert(kTile % kProductColumns == 0);
  const size_t cols = weights.cols(), tiles = (cols + kTile - 1) / kTile, padded = tiles * kTile;
  const size_t panels = (weights.rows() + kRows - 1) / kRows;
  std::vector<double> of_panel(panels);
  parallel_for(panels, [&](size_t p) {
    const size_t first = p * kRows, rows = std::min(kRows, weights.rows() - first);
    std::vector<double, PanelAllocator<double>> error(rows * padded), tile(kTile * kTile),
        product(rows * kTile);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t c = 0; c < cols; ++c) {
        error[r * padded + c] = static_cast<double>(weights(first + r, c)) -
                                static_cast<double>(quantized(first + r, c));
      }
    }
    double total = 0;
    for (size_t column = 0; column < cols; column += kTile) {
      const size_t width = std::min(kTile, cols - column);
      std::fill(product.begin(), product.end(), 0.0);
      for (size_t row = 0; row < cols; row += kTile) {
        const size_t depth = std::min(kTile, cols - row);
        for (size_t k = 0; k < depth; ++k) {
          std::copy_n(&hessian(row + k, column), width, &tile[k * kTile]);
        }
        subtract_product(&error[row], padded, tile.data(), kTile, depth, product.data(), kTile,
                         rows, kTile);
      }
      for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < width; ++c) {
          total -= product[r * kTile + c] * error[r * padded + column + c];
        }
      }
    }
    of_panel[p] = total;
  });
  return std::accumulate(of_panel.begin(), of_panel.end(), 0.0);
}

}  // namespace fewbit
