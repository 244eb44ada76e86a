// What error feedback must add to the columns still to come so that a layer makes up for its
// inputs: they are X_q of an already quantized network, and the outputs wanted are those of the
// full-precision network's inputs X (GPTAQ, arXiv 2504.02692).
//
//   minimises || W X^t - Q X_q^t ||^2   instead of   || (W - Q) X_q^t ||^2
//
// With D = c (X - X_q)^t X_q, H = c X_q^t X_q and H^-1 = U^t U in visiting order,
//
//   P = alpha strict_upper(D U^t) U,      w_j += w_i P_ij for the later columns j of column i.
//
// alpha is 1 in theory; the authors take 0.25, which keeps the correction from fitting the
// calibration data. Cost: in^3 multiply-adds.
#pragma once

#include "fewbit/base/matrix.h"
#include "fewbit/formats/hessian_factor.h"

namespace fewbit {

struct InputDrift {
  Matrix transposed;  // -P^t in visiting order: lower triangular without diagonal, row-major.
};

// `cross` is D [in, in], row = feature of the difference, with the same c as the Hessian of
// `factor`, which must have been factorised. Columns of dead inputs count as 0.
InputDrift input_drift(MatrixView<const double> cross, const HessianFactor& factor, double alpha);

}  // namespace fewbit
