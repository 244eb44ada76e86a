// What passes that fold scales share: which groups of linears they work on, and what becomes of
// inputs whose scale nothing can take.
#pragma once

#include <span>
#include <vector>

#include "fewbit/calibrate/fold.h"
#include "fewbit/calibrate/pass.h"

namespace fewbit {

// `unfoldable=skip|refuse` of the passes below.
OptionSpec unfoldable_option();

// Groups of the block with a selected linear and a fold of one of `kinds`. Selected groups that
// nothing can be folded into are reported as not scaled.
std::vector<FoldGroup> selected_groups(BlockContext& block, const LayerSelection& selection,
                                       std::span<const FoldKind> kinds, std::string_view method);

// Throws an Error if no selected linear of such a model can be scaled, or, if `refuse`, if one
// cannot; it tells which and why.
void check_foldable(const ModelSpec& spec, const LayerSelection& selection,
                    std::span<const FoldKind> kinds, bool refuse);

}  // namespace fewbit
