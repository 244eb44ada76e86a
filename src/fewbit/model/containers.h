// The containers that models come in, as stored tensors of float rows.
#pragma once

#include <memory>
#include <string>

#include "fewbit/io/gguf.h"
#include "fewbit/io/hf_directory.h"
#include "fewbit/io/llama2c.h"
#include "fewbit/model/stored_source.h"

namespace fewbit {

// Integer tensors are listed but cannot be decoded.
std::shared_ptr<const TensorContainer> safetensors_container(HfDirectory directory);
// Block types are decoded row by row.
std::shared_ptr<const TensorContainer> gguf_container(GgufFile file);
// Tensors keep the names and shapes of Llama2cFile, all layers in one.
std::shared_ptr<const TensorContainer> llama2c_container(Llama2cFile file, std::string what);

}  // namespace fewbit
