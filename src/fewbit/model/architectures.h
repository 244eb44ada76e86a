// The decoder families that fewbit knows, as tables: how a Hugging Face config.json states a
// ModelSpec, and what the stored tensors are called. Adding a family = one row here, its two config
// functions, its name table (tensor_names.cc).
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "fewbit/base/json.h"
#include "fewbit/model/model_spec.h"

namespace fewbit {

class ConfigReader;

struct Architecture {
  std::string_view name;      // model_type in config.json, and ModelSpec::architecture.
  std::string_view hf_class;  // "architectures" in config.json.
  std::string_view gguf;      // general.architecture; empty if GGUF has none.
  std::string_view models;    // Well-known members, for documentation.
  ModelSpec (*read_config)(const ConfigReader&);
  // Fills the keys of config.json that differ from the family's defaults.
  void (*write_config)(const ModelSpec&, Json&);
};

std::span<const Architecture> architectures();
// Error that lists the known ones if `name` is not among them.
const Architecture& architecture(std::string_view name);

// config.json to ModelSpec. `generation`: generation_config.json if there is one (its eos ids win).
// Every unsupported setting is an Error with key, value and what is allowed. A multimodal file's
// text_config is used.
ModelSpec parse_hf_config(const Json& config, const Json& generation = Json::object());

// ModelSpec to config.json, such that parse_hf_config gives the same spec back. Error that names
// the first field which the family's config cannot state (a LayerNorm become RMSNorm, a bias
// gained). `dtype`: "float32", "float16" or "bfloat16".
Json hf_config(const ModelSpec& spec, std::string_view dtype);

// A spec's own complete JSON form, for fewbit directories and `fewbit inspect --json`.
Json spec_to_json(const ModelSpec& spec);
// The inverse; validates. Errors name the field.
ModelSpec spec_from_json(const Json& json);

}  // namespace fewbit
