// The containers that models come in, as stored tensors of float rows.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fewbit/io/gguf.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/model/stored_source.h"

namespace fewbit {

// Tensors of all `shards` under their names; a name in two shards is an Error. Integer tensors are
// listed but cannot be decoded.
std::shared_ptr<const TensorContainer> safetensors_container(std::vector<SafetensorsFile> shards,
                                                             std::string what);
// Block types are decoded row by row.
std::shared_ptr<const TensorContainer> gguf_container(GgufFile file);

}  // namespace fewbit
