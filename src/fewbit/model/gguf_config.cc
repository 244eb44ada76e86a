#include "fewbit/model/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fewbit/base/error.h"
#include "fewbit/base/log.h"
#include "fewbit/model/config_reader.h"
#include "fewbit/model/rope_divisors.h"

namespace fewbit {
namespace {

constexpr size_t kMaxBlocks = 4096;

class GgufReader {
 public:
  explicit GgufReader(const GgufFile& file)
      : file_(file), family_(file.string("general.architecture")) {}

  const std::string& family() const { return family_; }
  std::string key(std::string_view name) const { return fmt::format("{}.{}", family_, name); }
  bool has(std::string_view name) const { return file_.contains(key(name)); }

  // A size, or an array with one size per layer, which must all be the same.
  size_t size(std::string_view name) const {
    const std::string full = key(name);
    if (!file_.value(full).is_array) return file_.size(full, kMaxConfigSize);
    const std::vector<int64_t> values = file_.integers(full);
    require(!values.empty() && values[0] >= 0 &&
                std::all_of(values.begin(), values.end(),
                            [&](int64_t value) { return value == values[0]; }),
            "key '{}': values that differ from layer to layer are not supported", full);
    return static_cast<size_t>(values[0]);
  }
  size_t size_or(std::string_view name, size_t fallback) const {
    return has(name) ? size(name) : fallback;
  }
  double real_or(std::string_view name, double fallback) const {
    return has(name) ? real(name) : fallback;
  }
  // What was written as 1e-5 has become the nearest float32; this is the decimal again.
  double real(std::string_view name) const {
    const double value = file_.real(key(name));
    const float narrow = static_cast<float>(value);
    return value == narrow ? std::stod(fmt::format("{}", narrow)) : value;
  }
  bool flag_or(std::string_view name, bool fallback) const {
    return file_.boolean_or(key(name), fallback);
  }
  bool tensor(std::string_view name) const { return file_.contains_tensor(name); }
  const GgufFile& file() const { return file_; }

 private:
  const GgufFile& file_;
  std::string family_;
};

RopeScaling read_scaling(const GgufReader& gguf) {
  RopeScaling scaling;
  const std::string key = gguf.key("rope.scaling.type");
  const std::string type(gguf.file().string_or(key, "none"));
  if (type == "none" || type.empty()) return scaling;
  require(type == "linear", "key '{}': '{}' is not supported (allowed: none, linear)", key, type);
  scaling.kind = RopeScaling::Kind::linear;
  scaling.factor = gguf.real_or("rope.scaling.factor", 1);
  return scaling;
}

void read_rope(const GgufReader& gguf, ModelSpec& spec) {
  BlockSpec block;
  block.rope_base = gguf.real_or("rope.freq_base", 10000);
  block.rope_scaling = read_scaling(gguf);
  if (gguf.tensor("rope_freqs.weight")) {
    const GgufTensor& tensor = gguf.file().tensor("rope_freqs.weight");
    require(tensor.type == GgmlType::f32 && tensor.elements() * 2 == spec.rotary_size,
            "tensor rope_freqs.weight: should be {} values of F32", spec.rotary_size / 2);
    std::vector<float> divisors(tensor.elements());
    std::memcpy(divisors.data(), tensor.bytes.data(), tensor.bytes.size());
    const auto scaling = rope_scaling_from_divisors(divisors, block.rope_base);
    require(scaling.has_value(),
            "tensor rope_freqs.weight: its divisors follow no known rule (allowed: llama3)");
    block.rope_scaling = *scaling;
  }
  std::fill(spec.blocks.begin(), spec.blocks.end(), block);
}

// Which blocks have a window: the key sliding_window_pattern as an array of flags or a period P
// with every P-th block global; without it the family's period.
std::vector<bool> read_sliding(const GgufReader& gguf, size_t blocks, size_t default_period) {
  const std::string key = gguf.key("attention.sliding_window_pattern");
  std::vector<bool> sliding(blocks);
  const GgufValue* value = gguf.file().find(key);
  if (value != nullptr && value->is_array) {
    const std::vector<int64_t> flags = gguf.file().integers(key);
    require(flags.size() == blocks, "key '{}': {} entries are needed, one per layer", key, blocks);
    for (size_t i = 0; i < blocks; ++i) sliding[i] = flags[i] != 0;
    return sliding;
  }
  const size_t period = gguf.file().size_or(key, default_period, kMaxConfigSize);
  require(period > 0, "key '{}': 0 is not positive", key);
  for (size_t i = 0; i < blocks; ++i) sliding[i] = (i + 1) % period != 0;
  return sliding;
}

void set_gemma(const GgufReader& gguf, size_t period, size_t blocks_of_27b, ModelSpec& spec) {
  spec.activation = Activation::gelu_tanh;
  spec.post_norms = true;
  // Converters have added the one of x * (1 + w).
  spec.norm_plus_one = false;
  spec.embedding_scale = std::sqrt(static_cast<float>(spec.hidden_size));
  if (spec.blocks.size() == blocks_of_27b) {
    spec.attention_scale = 1 / std::sqrt(static_cast<double>(spec.hidden_size / spec.heads));
  }
  if (!gguf.has("attention.sliding_window")) return;
  const size_t window = gguf.size("attention.sliding_window");
  const std::vector<bool> sliding = read_sliding(gguf, spec.blocks.size(), period);
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    if (sliding[i]) spec.blocks[i].window = window;
  }
}

std::optional<double> read_cap(const GgufReader& gguf, std::string_view name) {
  const double cap = gguf.real_or(name, 0);
  return cap > 0 ? std::optional<double>(cap) : std::nullopt;
}

void set_family(const GgufReader& gguf, ModelSpec& spec) {
  const std::string& family = gguf.family();
  const auto has_bias = [&](std::string_view layer) {
    return gguf.tensor(fmt::format("blk.0.{}.bias", layer));
  };
  if (family == "llama") {
    spec.architecture = "llama";
    spec.qkv_bias = has_bias("attn_q");
    spec.attention_output_bias = has_bias("attn_output");
    spec.mlp_bias = has_bias("ffn_up");
    if (const size_t window = gguf.size_or("attention.sliding_window", 0)) {
      spec.architecture = "mistral";
      for (BlockSpec& block : spec.blocks) block.window = window;
    }
    spec.experts = gguf.size_or("expert_count", 0);
    if (spec.experts > 0) {
      spec.architecture = "mixtral";
      spec.experts_per_token = gguf.size("expert_used_count");
    }
  } else if (family == "qwen2") {
    spec.architecture = "qwen2";
    spec.qkv_bias = true;
  } else if (family == "qwen3") {
    spec.architecture = "qwen3";
    spec.qk_norm = true;
  } else if (family == "gemma2") {
    spec.architecture = "gemma2";
    constexpr size_t kPeriod = 2, kBlocksOf27b = 46;
    set_gemma(gguf, kPeriod, kBlocksOf27b, spec);
    spec.attention_softcap = gguf.real_or("attn_logit_softcapping", 50);
    spec.final_softcap = gguf.real_or("final_logit_softcapping", 30);
  } else if (family == "gemma3") {
    spec.architecture = "gemma3_text";
    spec.qk_norm = true;
    constexpr size_t kPeriod = 6, kBlocksOf27b = 62;
    set_gemma(gguf, kPeriod, kBlocksOf27b, spec);
    spec.attention_softcap = read_cap(gguf, "attn_logit_softcapping");
    spec.final_softcap = read_cap(gguf, "final_logit_softcapping");
    for (BlockSpec& block : spec.blocks) {
      if (block.window == 0) continue;
      block.rope_base = gguf.real_or("rope.freq_base_swa", 10000);
      block.rope_scaling = {};
    }
  } else {
    spec.norm = NormKind::layer;
    spec.norm_bias = true;
    spec.qkv_bias = spec.attention_output_bias = spec.mlp_bias = true;
    spec.gated_mlp = false;
    if (family == "gptneox") {
      spec.architecture = "gpt_neox";
      spec.activation = Activation::gelu;
      spec.parallel_residual = gguf.flag_or("use_parallel_residual", true);
    } else {
      spec.architecture = "gpt2";
      spec.activation = Activation::gelu_tanh;
      spec.positions = Positions::learned;
      spec.position_rows = spec.context;
      spec.rotary_size = 0;
      std::fill(spec.blocks.begin(), spec.blocks.end(), BlockSpec{});
    }
  }
}

void set_tokens(const GgufFile& file, ModelSpec& spec) {
  const auto token = [&](const char* key) -> std::optional<int32_t> {
    if (!file.contains(key)) return std::nullopt;
    const int64_t id = file.integer(key);
    if (id >= 0 && id < static_cast<int64_t>(spec.vocab_size)) return static_cast<int32_t>(id);
    warn("{}: key '{}': token {} is outside the vocabulary and is ignored", file.what(), key, id);
    return std::nullopt;
  };
  spec.bos_token = token("tokenizer.ggml.bos_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const auto id = token(key);
    if (id &&
        std::find(spec.eos_tokens.begin(), spec.eos_tokens.end(), *id) == spec.eos_tokens.end()) {
      spec.eos_tokens.push_back(*id);
    }
  }
}

}  // namespace

ModelSpec parse_gguf_spec(const GgufFile& file) {
  const GgufReader gguf(file);
  return with_context(file.what(), [&] {
    constexpr std::string_view kFamilies = "llama, qwen2, qwen3, gemma2, gemma3, gptneox, gpt2";
    const bool known = fmt::format(", {},", kFamilies).find(fmt::format(" {},", gguf.family())) !=
                       std::string::npos;
    require(known, "key 'general.architecture': '{}' is not a known architecture (known: {})",
            gguf.family().substr(0, 80), kFamilies);
    ModelSpec spec;
    const GgufTensor& embedding = file.tensor("token_embd.weight");
    spec.vocab_size = embedding.rows();
    spec.hidden_size = spec.embedding_size = gguf.size("embedding_length");
    spec.ffn_size = gguf.size("feed_forward_length");
    spec.heads = gguf.size("attention.head_count");
    require(spec.heads > 0, "key '{}': 0 is not positive", gguf.key("attention.head_count"));
    spec.kv_heads = gguf.size_or("attention.head_count_kv", spec.heads);
    spec.head_size = gguf.size_or("attention.key_length", spec.hidden_size / spec.heads);
    require(gguf.size_or("attention.value_length", spec.head_size) == spec.head_size,
            "key '{}': must equal key_length = {}", gguf.key("attention.value_length"),
            spec.head_size);
    spec.rotary_size = gguf.size_or("rope.dimension_count", spec.head_size);
    spec.context = gguf.size("context_length");
    const size_t blocks = gguf.size("block_count");
    require(blocks >= 1 && blocks <= kMaxBlocks, "key '{}': {} is not within 1 to {}",
            gguf.key("block_count"), blocks, kMaxBlocks);
    spec.blocks.resize(blocks);
    const char* epsilon = gguf.has("attention.layer_norm_rms_epsilon")
                              ? "attention.layer_norm_rms_epsilon"
                              : "attention.layer_norm_epsilon";
    spec.norm_epsilon = gguf.real(epsilon);
    spec.tied_head = !file.contains_tensor("output.weight");
    read_rope(gguf, spec);
    set_family(gguf, spec);
    set_tokens(file, spec);
    spec.validate();
    return spec;
  });
}

}  // namespace fewbit
