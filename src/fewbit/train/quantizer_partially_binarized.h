// PB-LLM in training: a fraction of salient weights stays at 8 bits and frozen, the rest is binary.
//
//   salient      w^ = s_i c + min_i, 8 bits over the row's range, no gradient
//   the others   w^ = beta_i sign(w), beta_i = mean |w| of the row's others, taken at every step;
//                dL/dw = beta_i G: straight through the sign, and the scale multiplies after it
//
// Salient weights are the fraction's half at either end of the whole matrix, chosen once from the
// starting weights. Counted bits: 8 r + (1 - r) + 1 for the mask, and three f16 numbers per row.
//
// Source: arXiv 2310.00034, with one scale per row.
#pragma once

#include <memory>

#include "fewbit/train/fake_quant.h"

namespace fewbit {

// 1 where salient, [out, in], bool. With the N weights sorted ascending, counted from 1: those
// below number k = max(1, floor(N r / 2)) and above number floor(N (1 - r / 2)). r = 0: none,
// r = 1: all.
at::Tensor magnitude_tails(const at::Tensor& weight, double fraction);
// Every weight at 8 bits over the range of its row; scale and minimum rounded to `dtype`.
at::Tensor eight_bit_rows(const at::Tensor& weight, Dtype dtype);

// `fraction` from 0 to 1. No format stores an element mask: quantize() and bake() are Errors.
std::unique_ptr<FakeQuant> make_partially_binarized(double fraction, Dtype scale_dtype,
                                                    const at::Tensor& weight);

}  // namespace fewbit
