// What the SIMD kernels of this process run on.
#pragma once

#include <string>

namespace fewbit {

// Name of the instruction set that the kernels of this room chose on this machine: "AVX3", "AVX2",
// "NEON", "SCALAR", ...
std::string simd_target_name();

}  // namespace fewbit
