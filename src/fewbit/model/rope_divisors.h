// Llama 3's scaling of rotary frequencies as GGUF holds it: what each pair's frequency is divided
// by (tensor rope_freqs.weight).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "fewbit/model/model_spec.h"

namespace fewbit {

// [rotary_size / 2], for scaling of kind llama3.
std::vector<float> rope_divisors(const RopeScaling& scaling, double base, size_t rotary_size);

// Parameters that give these divisors, up to a relative 1e-4; empty if none do. The published ones
// are tried first, so that a file made from them reads back equal.
std::optional<RopeScaling> rope_scaling_from_divisors(std::span<const float> divisors, double base);

}  // namespace fewbit
