// All methods that a recipe may name: one table, from which `fewbit methods`, the error messages
// and the docs are made. A new method adds one line to registry.cc.
#pragma once

#include <span>

#include "fewbit/calibrate/pass.h"

namespace fewbit {

std::span<const MethodInfo> methods();

}  // namespace fewbit
