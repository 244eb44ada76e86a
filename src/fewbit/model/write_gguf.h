// Writing a model as a GGUF file that other programs open: floats, in the names, row orders and
// conventions of the family.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "fewbit/io/gguf.h"
#include "fewbit/model/model_spec.h"
#include "fewbit/model/tensor_source.h"

namespace fewbit {

struct GgufWriteOptions {
  // Of matrices; F32, F16 or BF16. Vectors and routers are always F32.
  GgmlType type = GgmlType::f16;
  // Where the tokenizer's keys come from; null: a file without tokenizer.
  std::shared_ptr<const GgufFile> tokenizer;
};

// Errors: a family without GGUF form; a spec that its keys cannot state, named by field (a window
// of Qwen, an attention scale of its own); a value beyond the range of f16.
void write_gguf_checkpoint(const std::filesystem::path& path, const ModelSpec& spec,
                           const TensorSource& tensors, const GgufWriteOptions& options = {});

}  // namespace fewbit
