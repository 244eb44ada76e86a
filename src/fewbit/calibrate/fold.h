// Folding: scaling the input of linears without changing what the model computes.
//
//   x -> x / s,  W -> W diag(s)            s > 0, one factor per input column
//
// The division goes into what makes x (Wiring): the weight and bias of a norm, or the output rows
// and bias of a linear. Outlier columns of activations then weigh more in the weights, where AWQ
// and SmoothQuant want them. In exact arithmetic the block's output stays; in float32 it moves by
// rounding alone.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "fewbit/calibrate/pass.h"
#include "fewbit/network/block_model.h"

namespace fewbit {

// Steps whose inputs are made by one thing, so that they share one scale: alone, or all experts of
// a mixture behind one norm.
struct FoldGroup {
  std::vector<Step> steps;
  FoldKind fold = FoldKind::none;
  std::string partner;               // Norm or linear that takes 1 / s; empty if none.
  std::vector<std::string> readers;  // All linears that must take s.
  size_t in_features = 0;

  const std::string& site() const { return steps.front().site; }
};

// Groups in execution order; a step that cannot be folded is a group of its own with fold none.
std::vector<FoldGroup> fold_groups(std::span<const Step> steps);

// Why nothing can be folded into what makes the group's input; empty if something can.
std::string fold_obstacle(const ModelSpec& spec, const FoldGroup& group);

// Columns that come from one row of the partner (query heads that share a value head) must share
// their scale: replaces their values by one combination of them, `combine` in column order.
enum class SharedColumns { mean, maximum };
void share_columns(const ModelSpec& spec, const FoldGroup& group, SharedColumns combine,
                   std::span<double> values);

// Folds 1 / scale into the partner and scale into the readers' columns; the parameters concerned
// are replaced. Errors: a group that cannot be folded; a scale that is not positive and finite or
// differs between shared columns; a tensor that is missing or of another size.
void fold_scale(const ModelSpec& spec, const FoldGroup& group, std::span<const float> scale,
                ParameterMap& parameters);
// The same in tensors, differentiable in all of them: one factor per row of the partner, which for
// a norm is one per column. Shapes are checked, values are not.
void fold_scale(const ModelSpec& spec, const FoldGroup& group, const at::Tensor& row_scale,
                ParameterMap& parameters);
// Rows of the partner: as many factors as the tensor above must have.
size_t partner_rows(const ModelSpec& spec, const FoldGroup& group);

// Shifting the input instead, x -> x - d: the partner's bias loses d, every reader's bias gains W
// d. True if the partner and all readers have a bias and the input comes through nothing that a
// shift does not pass (attention passes it, ReLU and a gate do not).
bool takes_shift(const FoldGroup& group, const ParameterMap& parameters);
// One d per row of the partner; differentiable in all tensors. Error unless takes_shift().
void fold_shift(const ModelSpec& spec, const FoldGroup& group, const at::Tensor& row_shift,
                ParameterMap& parameters);

// Error if a linear that the group's fold changes has its codes already.
void require_unquantized(const BlockContext& block, const FoldGroup& group);
// fold_scale() on a block; an Error if a linear concerned has been quantized already.
void fold_scale(BlockContext& block, const FoldGroup& group, std::span<const float> scale);

}  // namespace fewbit
