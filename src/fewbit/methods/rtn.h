// Round to nearest: every weight gets the nearest level of a grid that is fitted to the weights
// alone. The baseline of every other method.
//
// Without calibration data. Cost: out * in per layer, 80 times that with the MSE clipping search.
// Source: docs/methods/rtn.md.
#pragma once

#include "fewbit/calibrate/pass.h"

namespace fewbit {

MethodInfo rtn_method();
// RTN under the names of bitsandbytes' data types (QLoRA, arXiv 2305.14314): nf4, fp4.
MethodInfo nf4_method();
MethodInfo fp4_method();
// RTN on the grid that HQQ fits (formats/hqq_grid.h): hqq.
MethodInfo hqq_method();

}  // namespace fewbit
