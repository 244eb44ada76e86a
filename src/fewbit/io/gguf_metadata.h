// The metadata of a GGUF file as a GGUF file of its own, without tensors: how a directory made from
// a GGUF model keeps its tokenizer.
#pragma once

#include <string>

#include "fewbit/io/gguf.h"

namespace fewbit {

// All metadata of `file`, in its order, as the bytes of a GGUF v3 file with no tensors.
std::string gguf_metadata_bytes(const GgufFile& file);

}  // namespace fewbit
