// SmoothQuant: moves the range of activations into the weights, so that both quantize well.
//
//   s_j = max |x_j|^alpha / max |W_ij|^(1 - alpha)      the maxima over tokens, over all readers'
//   rows
//
// x_j / s_j is folded into the norm before the linears (calibrate/fold.h), s_j into their columns;
// with `into=all` the inputs of o and down are smoothed through v and up as well. A column that is
// always zero keeps its scale of 1.
//
// Cost: one run of the block. Source: arXiv 2211.10438; docs/methods/smoothquant.md.
#pragma once

#include <span>
#include <vector>

#include "fewbit/calibrate/fold.h"
#include "fewbit/calibrate/pass.h"

namespace fewbit {

MethodInfo smoothquant_method();

// The scale from the largest |x_j| and the largest |W_ij| of every column.
std::vector<float> smoothing_scale(std::span<const double> activation_maximum,
                                   std::span<const double> weight_maximum, double alpha);
// The same for a group of linears, whose input columns that share a scale share their maxima.
std::vector<float> smoothing_scale_of(const BlockContext& block, const FoldGroup& group,
                                      const LayerStats& inputs, double alpha);

}  // namespace fewbit
