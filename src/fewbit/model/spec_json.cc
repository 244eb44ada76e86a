// The complete JSON form of a ModelSpec: every field under its own name.
#include <array>
#include <utility>

#include "fewbit/model/architectures.h"
#include "fewbit/model/config_reader.h"

namespace fewbit {
namespace {

template <class Enum, size_t N>
using Names = std::array<std::pair<Enum, std::string_view>, N>;

constexpr Names<NormKind, 2> kNorms = {{{NormKind::rms, "rms"}, {NormKind::layer, "layer"}}};
constexpr Names<Activation, 5> kActivations = {{{Activation::silu, "silu"},
                                                {Activation::gelu, "gelu"},
                                                {Activation::gelu_tanh, "gelu_tanh"},
                                                {Activation::relu, "relu"},
                                                {Activation::relu_squared, "relu_squared"}}};
constexpr Names<Positions, 2> kPositions = {
    {{Positions::rotary, "rotary"}, {Positions::learned, "learned"}}};
constexpr Names<RopeScaling::Kind, 3> kScalings = {{{RopeScaling::Kind::none, "none"},
                                                    {RopeScaling::Kind::linear, "linear"},
                                                    {RopeScaling::Kind::llama3, "llama3"}}};

template <class Enum, size_t N>
std::string_view name_of(const Names<Enum, N>& names, Enum value) {
  for (const auto& [candidate, name] : names) {
    if (candidate == value) return name;
  }
  throw std::logic_error("an enumerator without a name");
}

template <class Enum, size_t N>
Enum parse_name(const Names<Enum, N>& names, const Json& json, const char* key) {
  const std::string text = json_get<std::string>(json, key);
  std::string allowed;
  for (const auto& [value, name] : names) {
    if (name == text) return value;
    if (!allowed.empty()) allowed += ", ";
    allowed += name;
  }
  fail("key '{}': '{}' is not known (allowed: {})", key, text.substr(0, 80), allowed);
}

template <class T>
Json optional_json(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json block_to_json(const BlockSpec& block) {
  Json json = {{"window", block.window}, {"rope_base", block.rope_base}};
  const RopeScaling& scaling = block.rope_scaling;
  json["rope_scaling"] = name_of(kScalings, scaling.kind);
  if (scaling.kind != RopeScaling::Kind::none) json["rope_factor"] = scaling.factor;
  if (scaling.kind == RopeScaling::Kind::llama3) {
    json["rope_low_frequency_factor"] = scaling.low_frequency_factor;
    json["rope_high_frequency_factor"] = scaling.high_frequency_factor;
    json["rope_original_context"] = scaling.original_context;
  }
  return json;
}

BlockSpec block_from_json(const Json& json) {
  BlockSpec block;
  block.window = json_get_size(json, "window", kMaxConfigSize);
  block.rope_base = json_get<double>(json, "rope_base");
  RopeScaling& scaling = block.rope_scaling;
  scaling.kind = parse_name(kScalings, json, "rope_scaling");
  if (scaling.kind != RopeScaling::Kind::none) {
    scaling.factor = json_get<double>(json, "rope_factor");
  }
  if (scaling.kind == RopeScaling::Kind::llama3) {
    scaling.low_frequency_factor = json_get<double>(json, "rope_low_frequency_factor");
    scaling.high_frequency_factor = json_get<double>(json, "rope_high_frequency_factor");
    scaling.original_context = json_get<double>(json, "rope_original_context");
  }
  return block;
}

// Applies `size`, `number`, `flag`... to every plain field, so that reading and writing cannot
// differ in what they cover.
template <class Spec, class Visitor>
void visit_fields(Spec& spec, Visitor&& visit) {
  visit("architecture", spec.architecture);
  visit("vocab_size", spec.vocab_size);
  visit("hidden_size", spec.hidden_size);
  visit("embedding_size", spec.embedding_size);
  visit("heads", spec.heads);
  visit("kv_heads", spec.kv_heads);
  visit("head_size", spec.head_size);
  visit("ffn_size", spec.ffn_size);
  visit("context", spec.context);
  visit("norm_epsilon", spec.norm_epsilon);
  visit("norm_bias", spec.norm_bias);
  visit("norm_plus_one", spec.norm_plus_one);
  visit("norm_first", spec.norm_first);
  visit("post_norms", spec.post_norms);
  visit("final_norm", spec.final_norm);
  visit("parallel_residual", spec.parallel_residual);
  visit("qkv_bias", spec.qkv_bias);
  visit("attention_output_bias", spec.attention_output_bias);
  visit("mlp_bias", spec.mlp_bias);
  visit("head_bias", spec.head_bias);
  visit("qk_norm", spec.qk_norm);
  visit("attention_sub_norm", spec.attention_sub_norm);
  visit("mlp_sub_norm", spec.mlp_sub_norm);
  visit("attention_scale", spec.attention_scale);
  visit("attention_softcap", spec.attention_softcap);
  visit("final_softcap", spec.final_softcap);
  visit("rotary_size", spec.rotary_size);
  visit("position_rows", spec.position_rows);
  visit("position_offset", spec.position_offset);
  visit("gated_mlp", spec.gated_mlp);
  visit("experts", spec.experts);
  visit("experts_per_token", spec.experts_per_token);
  visit("tied_head", spec.tied_head);
  visit("embedding_scale", spec.embedding_scale);
  visit("bos_token", spec.bos_token);
  visit("eos_tokens", spec.eos_tokens);
}

struct Writer {
  Json& json;
  template <class T>
  void operator()(const char* key, const T& value) const {
    json[key] = value;
  }
  template <class T>
  void operator()(const char* key, const std::optional<T>& value) const {
    json[key] = optional_json(value);
  }
};

struct Reader {
  const Json& json;
  template <class T>
  void operator()(const char* key, T& value) const {
    value = json_get<T>(json, key);
  }
  void operator()(const char* key, size_t& value) const {
    value = json_get_size(json, key, kMaxConfigSize);
  }
  template <class T>
  void operator()(const char* key, std::optional<T>& value) const {
    if (ConfigReader(json).has(key)) value = json_get<T>(json, key);
  }
};

}  // namespace

Json spec_to_json(const ModelSpec& spec) {
  Json json = Json::object();
  visit_fields(spec, Writer{json});
  json["norm"] = name_of(kNorms, spec.norm);
  json["activation"] = name_of(kActivations, spec.activation);
  json["positions"] = name_of(kPositions, spec.positions);
  json["blocks"] = Json::array();
  for (const BlockSpec& block : spec.blocks) json["blocks"].push_back(block_to_json(block));
  return json;
}

ModelSpec spec_from_json(const Json& json) {
  ModelSpec spec;
  visit_fields(spec, Reader{json});
  spec.norm = parse_name(kNorms, json, "norm");
  spec.activation = parse_name(kActivations, json, "activation");
  spec.positions = parse_name(kPositions, json, "positions");
  const Json blocks = json_get<Json>(json, "blocks");
  require(blocks.is_array(), "key 'blocks': is not an array");
  for (size_t i = 0; i < blocks.size(); ++i) {
    spec.blocks.push_back(
        with_context(fmt::format("blocks[{}]", i), [&] { return block_from_json(blocks[i]); }));
  }
  spec.validate();
  return spec;
}

}  // namespace fewbit
