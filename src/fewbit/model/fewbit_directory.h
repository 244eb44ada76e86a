// fewbit directories (docs/formats/fewbit-directory.md): the layout of Hugging Face, with a
// config.json that holds the whole ModelSpec and, for each quantized linear, the description of its
// codes:
//
//   {"model_type": "llama",
//    "fewbit": {"version": 1, "spec": {...}, "quantized": {"blocks.0.attn.q": {...}, ...}}}
//
// and, if inputs of linears are quantized, "activations" beside "quantized". Tensors have canonical
// names; a quantized linear's parts are named layer + "." + part.
#pragma once

#include <memory>

#include "fewbit/base/json.h"
#include "fewbit/io/hf_directory.h"
#include "fewbit/model/model_spec.h"
#include "fewbit/model/tensor_source.h"

namespace fewbit {

inline constexpr const char* kFewbitKey = "fewbit";
inline constexpr int kFewbitVersion = 1;

bool is_fewbit_config(const Json& config);

// `quantized`: description by layer name. `activations`: see Checkpoint, or null.
Json fewbit_config(const ModelSpec& spec, const Json& quantized, const Json& activations);

struct FewbitModel {
  ModelSpec spec;
  std::shared_ptr<const TensorSource> tensors;
  Json activations;
};
// Errors name the key of config.json, or the tensor. Codes are read when asked for.
FewbitModel open_fewbit_directory(const Json& config, HfDirectory directory);

}  // namespace fewbit
