// The table of decoder families with their config.json readers and writers (for architectures.cc).
#pragma once

#include <span>

#include "fewbit/model/architectures.h"

namespace fewbit {

std::span<const Architecture> hf_families();

}  // namespace fewbit
