#include "fewbit/model/hf_families.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "fewbit/base/half.h"
#include "fewbit/model/config_reader.h"

namespace fewbit {
namespace {

constexpr const char* kSliding = "sliding_attention";
constexpr const char* kFull = "full_attention";

// What nearly all families spell alike.
ModelSpec read_common(const ConfigReader& config) {
  ModelSpec spec;
  spec.vocab_size = config.size("vocab_size");
  spec.hidden_size = config.size("hidden_size");
  spec.embedding_size = spec.hidden_size;
  spec.heads = config.size("num_attention_heads");
  require(spec.heads > 0, "key 'num_attention_heads': 0 is not positive");
  spec.kv_heads = config.size_or("num_key_value_heads", spec.heads);
  require(config.has("head_dim") || spec.hidden_size % spec.heads == 0,
          "key 'num_attention_heads': {} does not divide hidden_size = {}", spec.heads,
          spec.hidden_size);
  spec.head_size = config.size_or("head_dim", spec.hidden_size / spec.heads);
  spec.rotary_size = spec.head_size;
  return spec;
}

// A block count that a vector can be made of before validate() has seen it.
size_t read_block_count(const ConfigReader& config, const char* key) {
  constexpr size_t kMaxBlocks = 4096;
  const size_t count = config.size(key);
  require(count >= 1 && count <= kMaxBlocks, "key '{}': {} is not within 1 to {}", key, count,
          kMaxBlocks);
  return count;
}

// Which blocks have a window: layer_types if given, else `is_sliding(i)`.
template <class IsSliding>
std::vector<bool> read_layer_types(const ConfigReader& config, size_t blocks,
                                   IsSliding is_sliding) {
  std::vector<bool> sliding(blocks);
  if (!config.has("layer_types")) {
    for (size_t i = 0; i < blocks; ++i) sliding[i] = is_sliding(i);
    return sliding;
  }
  const Json& types = config.json().at("layer_types");
  require(types.is_array() && types.size() == blocks,
          "key 'layer_types': {} entries are needed, one per layer", blocks);
  for (size_t i = 0; i < blocks; ++i) {
    const bool is_window = types[i] == kSliding;
    require(is_window || types[i] == kFull,
            "key 'layer_types': {} is not supported (allowed: {}, {})",
            types[i].dump().substr(0, 80), kFull, kSliding);
    sliding[i] = is_window;
  }
  return sliding;
}

Json layer_types(const ModelSpec& spec) {
  Json types = Json::array();
  for (const BlockSpec& block : spec.blocks) types.push_back(block.window > 0 ? kSliding : kFull);
  return types;
}

// RMSNorm, gated SiLU, rotary: Llama and its children.
ModelSpec read_llama_like(const ConfigReader& config, double default_epsilon, double default_base) {
  ModelSpec spec = read_common(config);
  spec.ffn_size = config.size("intermediate_size");
  spec.norm_epsilon = config.number_or("rms_norm_eps", default_epsilon);
  spec.activation = config.activation({"hidden_act"}, "silu");
  spec.tied_head = config.flag_or("tie_word_embeddings", false);
  config.expect_number("partial_rotary_factor", 1);
  spec.blocks.assign(read_block_count(config, "num_hidden_layers"),
                     read_rope(config, default_base));
  return spec;
}

const char* activation_name(Activation activation) {
  switch (activation) {
    case Activation::silu:
      return "silu";
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_pytorch_tanh";
    case Activation::relu:
      return "relu";
    case Activation::relu_squared:
      return "relu2";
  }
  fail("activation: unknown value");
}

Json rope_scaling_json(const RopeScaling& scaling) {
  switch (scaling.kind) {
    case RopeScaling::Kind::none:
      return nullptr;
    case RopeScaling::Kind::linear:
      return {{"rope_type", "linear"}, {"factor", scaling.factor}};
    case RopeScaling::Kind::llama3:
      return {{"rope_type", "llama3"},
              {"factor", scaling.factor},
              {"low_freq_factor", scaling.low_frequency_factor},
              {"high_freq_factor", scaling.high_frequency_factor},
              {"original_max_position_embeddings", scaling.original_context}};
  }
  fail("rope_scaling: unknown kind");
}

void write_common(const ModelSpec& spec, Json& json) {
  json["vocab_size"] = spec.vocab_size;
  json["hidden_size"] = spec.hidden_size;
  json["num_hidden_layers"] = spec.blocks.size();
  json["num_attention_heads"] = spec.heads;
  json["max_position_embeddings"] = spec.context;
  json["tie_word_embeddings"] = spec.tied_head;
}

void write_llama_like(const ModelSpec& spec, Json& json) {
  write_common(spec, json);
  json["intermediate_size"] = spec.ffn_size;
  json["num_key_value_heads"] = spec.kv_heads;
  json["head_dim"] = spec.head_size;
  json["rms_norm_eps"] = spec.norm_epsilon;
  json["hidden_act"] = activation_name(spec.activation);
  json["rope_theta"] = spec.blocks[0].rope_base;
  json["rope_scaling"] = rope_scaling_json(spec.blocks[0].rope_scaling);
}

// ---- llama ----

ModelSpec read_llama(const ConfigReader& config) {
  ModelSpec spec = read_llama_like(config, 1e-6, 10000);
  spec.context = config.size_or("max_position_embeddings", 2048);
  spec.qkv_bias = spec.attention_output_bias = config.flag_or("attention_bias", false);
  spec.mlp_bias = config.flag_or("mlp_bias", false);
  return spec;
}

void write_llama(const ModelSpec& spec, Json& json) {
  write_llama_like(spec, json);
  json["attention_bias"] = spec.qkv_bias;
  json["mlp_bias"] = spec.mlp_bias;
}

// ---- mistral, mixtral ----

void read_plain_window(const ConfigReader& config, std::optional<size_t> fallback,
                       ModelSpec& spec) {
  // An explicit null switches the window off; an absent key leaves the family's default.
  size_t window = 0;
  if (!config.json().contains("sliding_window")) {
    window = fallback.value_or(0);
  } else if (config.has("sliding_window")) {
    window = config.size("sliding_window");
  }
  for (BlockSpec& block : spec.blocks) block.window = window;
}

ModelSpec read_mistral(const ConfigReader& config) {
  ModelSpec spec = read_llama_like(config, 1e-6, 10000);
  if (!config.has("num_key_value_heads")) spec.kv_heads = 8;
  spec.context = config.size_or("max_position_embeddings", 4096 * 32);
  read_plain_window(config, 4096, spec);
  return spec;
}

Json window_or_null(size_t window) { return window > 0 ? Json(window) : Json(nullptr); }

void write_mistral(const ModelSpec& spec, Json& json) {
  write_llama_like(spec, json);
  json["sliding_window"] = window_or_null(spec.blocks[0].window);
}

ModelSpec read_mixtral(const ConfigReader& config) {
  ModelSpec spec = read_llama_like(config, 1e-5, 1e6);
  if (!config.has("num_key_value_heads")) spec.kv_heads = 8;
  spec.context = config.size_or("max_position_embeddings", 4096 * 32);
  read_plain_window(config, std::nullopt, spec);
  spec.experts = config.size_or("num_local_experts", 8);
  spec.experts_per_token = config.size_or("num_experts_per_tok", 2);
  return spec;
}

void write_mixtral(const ModelSpec& spec, Json& json) {
  write_mistral(spec, json);
  json["num_local_experts"] = spec.experts;
  json["num_experts_per_tok"] = spec.experts_per_token;
}

// ---- qwen2, qwen3 ----

void read_qwen_windows(const ConfigReader& config, ModelSpec& spec) {
  if (!config.flag_or("use_sliding_window", false)) return;
  const size_t window = config.size_or("sliding_window", 4096);
  const size_t first = config.size_or("max_window_layers", 28);
  const std::vector<bool> sliding =
      read_layer_types(config, spec.blocks.size(), [&](size_t i) { return i >= first; });
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    if (sliding[i]) spec.blocks[i].window = window;
  }
}

void write_qwen_windows(const ModelSpec& spec, Json& json) {
  size_t window = 0;
  for (const BlockSpec& block : spec.blocks) window = std::max(window, block.window);
  json["use_sliding_window"] = window > 0;
  json["sliding_window"] = window_or_null(window);
  json["layer_types"] = layer_types(spec);
}

ModelSpec read_qwen2(const ConfigReader& config) {
  ModelSpec spec = read_llama_like(config, 1e-6, 10000);
  if (!config.has("num_key_value_heads")) spec.kv_heads = 32;
  spec.context = config.size_or("max_position_embeddings", 32768);
  spec.qkv_bias = true;
  read_qwen_windows(config, spec);
  return spec;
}

void write_qwen2(const ModelSpec& spec, Json& json) {
  write_llama_like(spec, json);
  write_qwen_windows(spec, json);
}

ModelSpec read_qwen3(const ConfigReader& config) {
  ModelSpec spec = read_llama_like(config, 1e-6, 10000);
  if (!config.has("num_key_value_heads")) spec.kv_heads = 32;
  if (!config.has("head_dim")) spec.head_size = spec.rotary_size = 128;
  spec.context = config.size_or("max_position_embeddings", 32768);
  spec.qk_norm = true;
  spec.qkv_bias = spec.attention_output_bias = config.flag_or("attention_bias", false);
  read_qwen_windows(config, spec);
  return spec;
}

void write_qwen3(const ModelSpec& spec, Json& json) {
  write_qwen2(spec, json);
  json["attention_bias"] = spec.qkv_bias;
}

// ---- gemma2, gemma3 ----

// The embedding's factor sqrt(hidden) is held in the checkpoint's type.
double gemma_embedding_scale(size_t hidden, std::string_view dtype) {
  const float exact = static_cast<float>(std::sqrt(static_cast<double>(hidden)));
  if (dtype == "bfloat16") return bf16_to_float(float_to_bf16(exact));
  if (dtype == "float16") return f16_to_float(float_to_f16(exact));
  return exact;
}

ModelSpec read_gemma(const ConfigReader& config, size_t default_context) {
  ModelSpec spec;
  spec.vocab_size = config.size_or("vocab_size", 256000);
  spec.hidden_size = config.size_or("hidden_size", 2304);
  spec.embedding_size = spec.hidden_size;
  spec.ffn_size = config.size_or("intermediate_size", 9216);
  spec.heads = config.size_or("num_attention_heads", 8);
  spec.kv_heads = config.size_or("num_key_value_heads", 4);
  spec.head_size = spec.rotary_size = config.size_or("head_dim", 256);
  spec.context = config.size_or("max_position_embeddings", default_context);
  spec.norm_epsilon = config.number_or("rms_norm_eps", 1e-6);
  spec.norm_plus_one = spec.post_norms = true;
  spec.activation = config.activation({"hidden_activation"}, "gelu_pytorch_tanh");
  spec.tied_head = config.flag_or("tie_word_embeddings", true);
  spec.qkv_bias = spec.attention_output_bias = config.flag_or("attention_bias", false);
  config.expect_flag("use_bidirectional_attention", false);
  const double scalar = config.number_or("query_pre_attn_scalar", 256);
  require(scalar > 0, "key 'query_pre_attn_scalar': {} is not positive", scalar);
  if (scalar != static_cast<double>(spec.head_size)) spec.attention_scale = 1 / std::sqrt(scalar);
  const std::string dtype = config.text_or("dtype", config.text_or("torch_dtype", "float32"));
  spec.embedding_scale = gemma_embedding_scale(spec.hidden_size, dtype);
  const size_t blocks =
      config.has("num_hidden_layers") ? read_block_count(config, "num_hidden_layers") : 26;
  spec.blocks.resize(blocks);
  return spec;
}

ModelSpec read_gemma2(const ConfigReader& config) {
  ModelSpec spec = read_gemma(config, 8192);
  // An explicit null switches a cap off; an absent key leaves the family's default.
  const auto cap = [&](const char* key, double fallback) -> std::optional<double> {
    if (!config.json().contains(key)) return fallback;
    return config.number(key);
  };
  spec.attention_softcap = cap("attn_logit_softcapping", 50);
  spec.final_softcap = cap("final_logit_softcapping", 30);
  const BlockSpec rope = read_rope(config, 10000);
  const size_t window = config.size_or("sliding_window", 4096);
  const std::vector<bool> sliding =
      read_layer_types(config, spec.blocks.size(), [](size_t i) { return i % 2 == 0; });
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    spec.blocks[i] = rope;
    if (sliding[i]) spec.blocks[i].window = window;
  }
  return spec;
}

ModelSpec read_gemma3(const ConfigReader& config) {
  ModelSpec spec = read_gemma(config, 131072);
  if (!config.has("vocab_size")) spec.vocab_size = 262208;
  spec.qk_norm = true;
  spec.attention_softcap = config.number("attn_logit_softcapping");
  spec.final_softcap = config.number("final_logit_softcapping");
  const BlockSpec global = read_rope(config, 1e6, kFull);
  BlockSpec local;
  if (config.has("rope_parameters") && config.json().at("rope_parameters").is_object() &&
      config.json().at("rope_parameters").contains(kSliding)) {
    local = read_rope(config, 10000, kSliding);
  } else {
    local.rope_base = config.number_or("rope_local_base_freq", 10000);
  }
  local.window = config.size_or("sliding_window", 4096);
  const size_t pattern =
      config.size_or("sliding_window_pattern", config.size_or("_sliding_window_pattern", 6));
  require(pattern > 0, "key 'sliding_window_pattern': 0 is not positive");
  const std::vector<bool> sliding = read_layer_types(
      config, spec.blocks.size(), [&](size_t i) { return (i + 1) % pattern != 0; });
  for (size_t i = 0; i < spec.blocks.size(); ++i) spec.blocks[i] = sliding[i] ? local : global;
  return spec;
}

void write_gemma(const ModelSpec& spec, Json& json) {
  write_llama_like(spec, json);
  json.erase("hidden_act");
  json["hidden_activation"] = activation_name(spec.activation);
  json["attention_bias"] = spec.qkv_bias;
  const double scale = spec.attention_scale_or_default();
  // The nearest number of few digits that gives the same scale: configs hold whole numbers.
  const double scalar = 1 / (scale * scale);
  const double whole = std::round(scalar);
  json["query_pre_attn_scalar"] = 1 / std::sqrt(whole) == scale ? whole : scalar;
  json["attn_logit_softcapping"] =
      spec.attention_softcap ? Json(*spec.attention_softcap) : Json(nullptr);
  json["final_logit_softcapping"] = spec.final_softcap ? Json(*spec.final_softcap) : Json(nullptr);
  json["layer_types"] = layer_types(spec);
  for (const BlockSpec& block : spec.blocks) {
    if (block.window > 0) json["sliding_window"] = block.window;
  }
  for (const char* dtype : {"float32", "bfloat16", "float16"}) {
    if (gemma_embedding_scale(spec.hidden_size, json.value("torch_dtype", "float32")) ==
        spec.embedding_scale) {
      break;
    }
    json["torch_dtype"] = dtype;
  }
}

void write_gemma3(const ModelSpec& spec, Json& json) {
  write_gemma(spec, json);
  for (const BlockSpec& block : spec.blocks) {
    if (block.window > 0) {
      json["rope_local_base_freq"] = block.rope_base;
    } else {
      json["rope_theta"] = block.rope_base;
      json["rope_scaling"] = rope_scaling_json(block.rope_scaling);
    }
  }
}

// ---- gpt_neox ----

ModelSpec read_gpt_neox(const ConfigReader& config) {
  ModelSpec spec = read_common(config);
  spec.ffn_size = config.size("intermediate_size");
  spec.context = config.size_or("max_position_embeddings", 2048);
  spec.norm = NormKind::layer;
  spec.norm_bias = true;
  spec.norm_epsilon = config.number_or("layer_norm_eps", 1e-5);
  spec.parallel_residual = config.flag_or("use_parallel_residual", true);
  spec.qkv_bias = spec.attention_output_bias = config.flag_or("attention_bias", true);
  spec.mlp_bias = true;
  spec.gated_mlp = false;
  spec.activation = config.activation({"hidden_act"}, "gelu");
  spec.tied_head = config.flag_or("tie_word_embeddings", false);
  double fraction = config.number_or("rotary_pct", 0.25);
  if (config.has("rope_parameters") && config.json().at("rope_parameters").is_object()) {
    fraction = ConfigReader(config.json().at("rope_parameters"))
                   .number_or("partial_rotary_factor", fraction);
  }
  require(fraction > 0 && fraction <= 1, "key 'rotary_pct': {} is not within 0 to 1", fraction);
  spec.rotary_size = static_cast<size_t>(static_cast<double>(spec.head_size) * fraction);
  spec.blocks.assign(read_block_count(config, "num_hidden_layers"),
                     read_rope(config, config.number_or("rotary_emb_base", 10000)));
  return spec;
}

void write_gpt_neox(const ModelSpec& spec, Json& json) {
  write_common(spec, json);
  json["intermediate_size"] = spec.ffn_size;
  json["layer_norm_eps"] = spec.norm_epsilon;
  json["use_parallel_residual"] = spec.parallel_residual;
  json["attention_bias"] = spec.qkv_bias;
  json["hidden_act"] = activation_name(spec.activation);
  json["rotary_pct"] = static_cast<double>(spec.rotary_size) / static_cast<double>(spec.head_size);
  json["rotary_emb_base"] = spec.blocks[0].rope_base;
  json["rope_scaling"] = rope_scaling_json(spec.blocks[0].rope_scaling);
}

// ---- opt ----

ModelSpec read_opt(const ConfigReader& config) {
  ModelSpec spec = read_common(config);
  spec.ffn_size = config.size("ffn_dim");
  spec.context = config.size_or("max_position_embeddings", 2048);
  spec.norm = NormKind::layer;
  spec.norm_bias = true;
  spec.norm_epsilon = 1e-5;  // Fixed by the family; no key holds it.
  spec.norm_first = config.flag_or("do_layer_norm_before", true);
  spec.final_norm = spec.norm_first && !config.flag_or("_remove_final_layer_norm", false);
  config.expect_flag("layer_norm_elementwise_affine", true);
  spec.qkv_bias = spec.attention_output_bias = spec.mlp_bias = config.flag_or("enable_bias", true);
  spec.gated_mlp = false;
  spec.activation = config.activation({"activation_function"}, "relu");
  spec.tied_head = config.flag_or("tie_word_embeddings", true);
  spec.embedding_size = config.size_or("word_embed_proj_dim", spec.hidden_size);
  spec.positions = Positions::learned;
  spec.position_offset = 2;
  spec.position_rows = spec.context + spec.position_offset;
  spec.rotary_size = 0;
  spec.blocks.resize(read_block_count(config, "num_hidden_layers"));
  return spec;
}

void write_opt(const ModelSpec& spec, Json& json) {
  write_common(spec, json);
  json["ffn_dim"] = spec.ffn_size;
  json["do_layer_norm_before"] = spec.norm_first;
  json["_remove_final_layer_norm"] = spec.norm_first && !spec.final_norm;
  json["layer_norm_elementwise_affine"] = true;
  json["enable_bias"] = spec.qkv_bias;
  json["activation_function"] = activation_name(spec.activation);
  json["word_embed_proj_dim"] = spec.embedding_size;
}

// ---- gpt2 ----

ModelSpec read_gpt2(const ConfigReader& config) {
  ModelSpec spec;
  spec.vocab_size = config.size("vocab_size");
  spec.hidden_size = spec.embedding_size = config.size("n_embd");
  spec.heads = spec.kv_heads = config.size("n_head");
  require(spec.heads > 0, "key 'n_head': 0 is not positive");
  spec.head_size = spec.hidden_size / spec.heads;
  require(spec.head_size * spec.heads == spec.hidden_size, "key 'n_head': {} does not divide {}",
          spec.heads, spec.hidden_size);
  spec.ffn_size = config.size_or("n_inner", 4 * spec.hidden_size);
  spec.context = config.size_or("n_positions", config.size_or("n_ctx", 1024));
  spec.norm = NormKind::layer;
  spec.norm_bias = true;
  spec.norm_epsilon = config.number_or("layer_norm_epsilon", 1e-5);
  spec.qkv_bias = spec.attention_output_bias = spec.mlp_bias = true;
  spec.gated_mlp = false;
  spec.activation = config.activation({"activation_function"}, "gelu_new");
  spec.tied_head = config.flag_or("tie_word_embeddings", true);
  spec.positions = Positions::learned;
  spec.position_rows = spec.context;
  if (!config.flag_or("scale_attn_weights", true)) spec.attention_scale = 1;
  config.expect_flag("scale_attn_by_inverse_layer_idx", false);
  config.expect_flag("add_cross_attention", false);
  spec.blocks.resize(read_block_count(config, "n_layer"));
  return spec;
}

void write_gpt2(const ModelSpec& spec, Json& json) {
  json["vocab_size"] = spec.vocab_size;
  json["n_embd"] = spec.hidden_size;
  json["n_layer"] = spec.blocks.size();
  json["n_head"] = spec.heads;
  json["n_inner"] = spec.ffn_size;
  json["n_positions"] = json["n_ctx"] = spec.context;
  json["layer_norm_epsilon"] = spec.norm_epsilon;
  json["activation_function"] =
      spec.activation == Activation::gelu_tanh ? "gelu_new" : activation_name(spec.activation);
  json["scale_attn_weights"] = !spec.attention_scale;
  json["tie_word_embeddings"] = spec.tied_head;
}

constexpr std::array<Architecture, 10> kFamilies = {{
    {"gpt_neox", "GPTNeoXForCausalLM", "gptneox", "Pythia, GPT-NeoX", read_gpt_neox,
     write_gpt_neox},
    {"llama", "LlamaForCausalLM", "llama", "Llama 1-3, SmolLM2, TinyLlama", read_llama,
     write_llama},
    {"mistral", "MistralForCausalLM", "llama", "Mistral 7B, Nemo", read_mistral, write_mistral},
    {"mixtral", "MixtralForCausalLM", "llama", "Mixtral 8x7B", read_mixtral, write_mixtral},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", "Qwen 2, Qwen 2.5", read_qwen2, write_qwen2},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", "Qwen 3", read_qwen3, write_qwen3},
    {"gemma2", "Gemma2ForCausalLM", "gemma2", "Gemma 2", read_gemma2, write_gemma},
    {"gemma3_text", "Gemma3ForCausalLM", "gemma3", "Gemma 3 (text part)", read_gemma3,
     write_gemma3},
    {"opt", "OPTForCausalLM", "", "OPT", read_opt, write_opt},
    {"gpt2", "GPT2LMHeadModel", "gpt2", "GPT-2", read_gpt2, write_gpt2},
}};

}  // namespace

std::span<const Architecture> hf_families() { return kFamilies; }

}  // namespace fewbit
