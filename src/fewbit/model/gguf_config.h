// ModelSpec from the metadata of a GGUF file.
#pragma once

#include "fewbit/io/gguf.h"
#include "fewbit/model/model_spec.h"

namespace fewbit {

// Errors name the file, the key, its value and what is allowed. Settings that no key holds follow
// the family's convention (Gemma's windows, its embedding factor). Tensors are looked at only for
// their presence and shape: a tied head, biases.
ModelSpec parse_gguf_spec(const GgufFile& file);

}  // namespace fewbit
