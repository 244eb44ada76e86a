#include "fewbit/model/architectures.h"

#include "fewbit/model/config_reader.h"
#include "fewbit/model/hf_families.h"

namespace fewbit {

std::span<const Architecture> architectures() { return hf_families(); }

const Architecture& architecture(std::string_view name) {
  std::string known;
  for (const Architecture& candidate : hf_families()) {
    if (candidate.name == name) return candidate;
    if (!known.empty()) known += ", ";
    known += candidate.name;
  }
  fail("key 'model_type': '{}' is not a known architecture (known: {})", name.substr(0, 80), known);
}

ModelSpec parse_hf_config(const Json& config, const Json& generation) {
  require(config.is_object(), "the config is not a JSON object");
  const std::string type = json_get<std::string>(config, "model_type");
  if (config.contains("text_config") && config.at("text_config").is_object()) {
    // A multimodal file: the language model's settings are nested, tokens and type may stand above.
    Json text = config.at("text_config");
    for (const char* key : {"bos_token_id", "eos_token_id", "torch_dtype", "dtype",
                            "tie_word_embeddings", "quantization_config"}) {
      if (!text.contains(key) && config.contains(key)) text[key] = config.at(key);
    }
    if (!text.contains("model_type")) text["model_type"] = type + "_text";
    return with_context("text_config", [&] { return parse_hf_config(text, generation); });
  }
  const Architecture& family = architecture(type);
  const ConfigReader reader(config);
  reader.expect_flag("is_encoder_decoder", false);
  reader.expect_absent("pruned_heads", "heads cannot be removed");
  reader.expect_absent("quantization_config",
                       "this quantized checkpoint cannot be read; give the original one");
  ModelSpec spec = family.read_config(reader);
  spec.architecture = family.name;
  const std::vector<int32_t> bos = reader.token_ids("bos_token_id", spec.vocab_size);
  if (!bos.empty()) spec.bos_token = bos[0];
  spec.eos_tokens = reader.token_ids("eos_token_id", spec.vocab_size);
  const ConfigReader generation_reader(generation);
  if (generation.is_object() && generation_reader.has("eos_token_id")) {
    spec.eos_tokens = with_context("generation_config.json", [&] {
      return generation_reader.token_ids("eos_token_id", spec.vocab_size);
    });
  }
  spec.validate();
  return spec;
}

Json hf_config(const ModelSpec& spec, std::string_view dtype) {
  const Architecture& family = architecture(spec.architecture);
  Json json = {{"model_type", family.name},
               {"architectures", Json::array({family.hf_class})},
               {"torch_dtype", dtype}};
  if (spec.bos_token) json["bos_token_id"] = *spec.bos_token;
  if (spec.eos_tokens.size() == 1) json["eos_token_id"] = spec.eos_tokens[0];
  if (spec.eos_tokens.size() > 1) json["eos_token_id"] = spec.eos_tokens;
  family.write_config(spec, json);
  const Json wanted = spec_to_json(spec), read_back = spec_to_json(parse_hf_config(json));
  for (const auto& [field, value] : wanted.items()) {
    require(read_back.at(field) == value,
            "a {} config.json cannot state {} = {} (it would be read as {}); write a fewbit "
            "directory instead",
            family.name, field, value.dump().substr(0, 80),
            read_back.at(field).dump().substr(0, 80));
  }
  return json;
}

}  // namespace fewbit
