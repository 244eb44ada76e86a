#include "fewbit/model/tensor_names.h"

#include <array>
#include <charconv>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/model/architectures.h"
#include "fewbit/model/wiring.h"

namespace fewbit {
namespace {

// How a canonical tensor is cut out of the stored one.
enum class Cut {
  plain,
  transposed,
  // Parts of fused q, k, v.
  heads_q,
  heads_k,
  heads_v,
  stacked_q,
  stacked_k,
  stacked_v,
  transposed_q,
  transposed_k,
  transposed_v,
  interleaved,
  expert
};

// One layer; '#' is the block, '%' the expert, '@' the family's prefix, '$' the outer prefix.
struct NameRow {
  std::string_view canonical, stored;
  Cut cut = Cut::plain;
};
using NameTable = std::span<const NameRow>;

constexpr NameRow kLlama[] = {
    {"embed", "@embed_tokens"},
    {"final_norm", "@norm"},
    {"head", "$lm_head"},
    {"blocks.#.attn_norm", "@layers.#.input_layernorm"},
    {"blocks.#.attn.q", "@layers.#.self_attn.q_proj"},
    {"blocks.#.attn.k", "@layers.#.self_attn.k_proj"},
    {"blocks.#.attn.v", "@layers.#.self_attn.v_proj"},
    {"blocks.#.attn.o", "@layers.#.self_attn.o_proj"},
    {"blocks.#.attn.q_norm", "@layers.#.self_attn.q_norm"},
    {"blocks.#.attn.k_norm", "@layers.#.self_attn.k_norm"},
    {"blocks.#.mlp_norm", "@layers.#.post_attention_layernorm"},
    {"blocks.#.mlp.gate", "@layers.#.mlp.gate_proj"},
    {"blocks.#.mlp.up", "@layers.#.mlp.up_proj"},
    {"blocks.#.mlp.down", "@layers.#.mlp.down_proj"},
    {"blocks.#.mlp.router", "@layers.#.block_sparse_moe.gate"},
    {"blocks.#.mlp.experts.%.gate", "@layers.#.block_sparse_moe.experts.%.w1"},
    {"blocks.#.mlp.experts.%.down", "@layers.#.block_sparse_moe.experts.%.w2"},
    {"blocks.#.mlp.experts.%.up", "@layers.#.block_sparse_moe.experts.%.w3"},
};

// Gemma's names for its norms differ from Llama's: post_attention_layernorm is what it says.
constexpr NameRow kGemma[] = {
    {"blocks.#.attn_post_norm", "@layers.#.post_attention_layernorm"},
    {"blocks.#.mlp_norm", "@layers.#.pre_feedforward_layernorm"},
    {"blocks.#.mlp_post_norm", "@layers.#.post_feedforward_layernorm"},
};

constexpr NameRow kGptNeox[] = {
    {"embed", "@embed_in"},
    {"final_norm", "@final_layer_norm"},
    {"head", "$embed_out"},
    {"blocks.#.attn_norm", "@layers.#.input_layernorm"},
    {"blocks.#.attn.q", "@layers.#.attention.query_key_value", Cut::heads_q},
    {"blocks.#.attn.k", "@layers.#.attention.query_key_value", Cut::heads_k},
    {"blocks.#.attn.v", "@layers.#.attention.query_key_value", Cut::heads_v},
    {"blocks.#.attn.o", "@layers.#.attention.dense"},
    {"blocks.#.mlp_norm", "@layers.#.post_attention_layernorm"},
    {"blocks.#.mlp.up", "@layers.#.mlp.dense_h_to_4h"},
    {"blocks.#.mlp.down", "@layers.#.mlp.dense_4h_to_h"},
};

constexpr NameRow kOpt[] = {
    {"embed", "@embed_tokens"},
    {"positions", "@embed_positions"},
    {"embed_project_in", "@project_in"},
    {"embed_project_out", "@project_out"},
    {"final_norm", "@final_layer_norm"},
    {"head", "$lm_head"},
    {"blocks.#.attn_norm", "@layers.#.self_attn_layer_norm"},
    {"blocks.#.attn.q", "@layers.#.self_attn.q_proj"},
    {"blocks.#.attn.k", "@layers.#.self_attn.k_proj"},
    {"blocks.#.attn.v", "@layers.#.self_attn.v_proj"},
    {"blocks.#.attn.o", "@layers.#.self_attn.out_proj"},
    {"blocks.#.mlp_norm", "@layers.#.final_layer_norm"},
    {"blocks.#.mlp.up", "@layers.#.fc1"},
    {"blocks.#.mlp.down", "@layers.#.fc2"},
};

constexpr NameRow kGpt2[] = {
    {"embed", "@wte"},
    {"positions", "@wpe"},
    {"final_norm", "@ln_f"},
    {"head", "$lm_head"},
    {"blocks.#.attn_norm", "@h.#.ln_1"},
    {"blocks.#.attn.q", "@h.#.attn.c_attn", Cut::transposed_q},
    {"blocks.#.attn.k", "@h.#.attn.c_attn", Cut::transposed_k},
    {"blocks.#.attn.v", "@h.#.attn.c_attn", Cut::transposed_v},
    {"blocks.#.attn.o", "@h.#.attn.c_proj", Cut::transposed},
    {"blocks.#.mlp_norm", "@h.#.ln_2"},
    {"blocks.#.mlp.up", "@h.#.mlp.c_fc", Cut::transposed},
    {"blocks.#.mlp.down", "@h.#.mlp.c_proj", Cut::transposed},
};

constexpr NameRow kGguf[] = {
    {"embed", "token_embd"},
    {"positions", "position_embd"},
    {"final_norm", "output_norm"},
    {"head", "output"},
    {"blocks.#.attn_norm", "blk.#.attn_norm"},
    {"blocks.#.attn.q", "blk.#.attn_q"},
    {"blocks.#.attn.k", "blk.#.attn_k"},
    {"blocks.#.attn.v", "blk.#.attn_v"},
    {"blocks.#.attn.o", "blk.#.attn_output"},
    {"blocks.#.attn.q_norm", "blk.#.attn_q_norm"},
    {"blocks.#.attn.k_norm", "blk.#.attn_k_norm"},
    {"blocks.#.attn.sub_norm", "blk.#.attn_sub_norm"},
    {"blocks.#.attn_post_norm", "blk.#.post_attention_norm"},
    {"blocks.#.mlp_norm", "blk.#.ffn_norm"},
    {"blocks.#.mlp_post_norm", "blk.#.post_ffw_norm"},
    {"blocks.#.mlp.sub_norm", "blk.#.ffn_sub_norm"},
    {"blocks.#.mlp.gate", "blk.#.ffn_gate"},
    {"blocks.#.mlp.up", "blk.#.ffn_up"},
    {"blocks.#.mlp.down", "blk.#.ffn_down"},
    {"blocks.#.mlp.router", "blk.#.ffn_gate_inp"},
    {"blocks.#.mlp.experts.%.gate", "blk.#.ffn_gate_exps", Cut::expert},
    {"blocks.#.mlp.experts.%.up", "blk.#.ffn_up_exps", Cut::expert},
    {"blocks.#.mlp.experts.%.down", "blk.#.ffn_down_exps", Cut::expert},
};

constexpr NameRow kGgufFusedQkv[] = {
    {"blocks.#.attn.q", "blk.#.attn_qkv", Cut::stacked_q},
    {"blocks.#.attn.k", "blk.#.attn_qkv", Cut::stacked_k},
    {"blocks.#.attn.v", "blk.#.attn_qkv", Cut::stacked_v},
};

constexpr NameRow kGgufLlama[] = {
    {"blocks.#.attn.q", "blk.#.attn_q", Cut::interleaved},
    {"blocks.#.attn.k", "blk.#.attn_k", Cut::interleaved},
};

// Stored names come without suffix and hold all layers.
constexpr NameRow kLlama2c[] = {
    {"embed", "token_embedding"},
    {"final_norm", "rms_final"},
    {"head", "wcls"},
    {"blocks.#.attn_norm", "rms_att"},
    {"blocks.#.attn.q", "wq", Cut::interleaved},
    {"blocks.#.attn.k", "wk", Cut::interleaved},
    {"blocks.#.attn.v", "wv"},
    {"blocks.#.attn.o", "wo"},
    {"blocks.#.mlp_norm", "rms_ffn"},
    {"blocks.#.mlp.gate", "w1"},
    {"blocks.#.mlp.down", "w2"},
    {"blocks.#.mlp.up", "w3"},
};

// Tables of one family; a row of an earlier table hides those of later ones.
using Tables = std::vector<NameTable>;

Tables hf_tables(std::string_view architecture) {
  if (architecture == "gpt_neox") return {kGptNeox};
  if (architecture == "opt") return {kOpt};
  if (architecture == "gpt2") return {kGpt2};
  if (architecture.starts_with("gemma")) return {kGemma, kLlama};
  return {kLlama};
}

Tables gguf_tables(std::string_view gguf_architecture) {
  if (gguf_architecture == "llama") return {kGgufLlama, kGguf};
  if (gguf_architecture == "gptneox" || gguf_architecture == "gpt2") return {kGgufFusedQkv, kGguf};
  return {kGguf};
}

// "blocks.3.mlp.experts.1.up.bias" -> layer "blocks.#.mlp.experts.%.up", 3, 1, ".bias".
struct ParsedName {
  std::string layer, suffix;
  size_t block = 0, expert = 0;
};

ParsedName parse_canonical(const std::string& name) {
  ParsedName parsed;
  const size_t dot = name.rfind('.');
  parsed.suffix = name.substr(dot);
  size_t position = 0;
  bool block_seen = false;
  while (position < dot) {
    const size_t end = std::min(name.find('.', position), dot);
    const std::string_view part(name.data() + position, end - position);
    size_t number = 0;
    const auto [last, error] = std::from_chars(part.data(), part.data() + part.size(), number);
    if (!parsed.layer.empty()) parsed.layer += '.';
    if (error == std::errc() && last == part.data() + part.size()) {
      (block_seen ? parsed.expert : parsed.block) = number;
      parsed.layer += block_seen ? '%' : '#';
      block_seen = true;
    } else {
      parsed.layer += part;
    }
    position = end + 1;
  }
  return parsed;
}

std::string expand(std::string_view pattern, const ParsedName& name, const NamePrefix& prefix) {
  std::string text;
  for (const char c : pattern) {
    switch (c) {
      case '#':
        text += std::to_string(name.block);
        break;
      case '%':
        text += std::to_string(name.expert);
        break;
      case '@':
        text += prefix.base;
        break;
      case '$':
        text += prefix.outer;
        break;
      default:
        text += c;
    }
  }
  return text + name.suffix;
}

const NameRow& find_row(const Tables& tables, const ModelSpec& spec, const std::string& layer) {
  for (const NameTable& table : tables) {
    for (const NameRow& row : table) {
      if (row.canonical == layer) return row;
    }
  }
  fail("files of the family '{}' have no name for {}", spec.architecture, layer);
}

// Rows of q, k and v, which parts 0, 1 and 2 of a stacked projection hold.
struct QkvRows {
  size_t q, kv;
  size_t first(size_t part) const { return part == 0 ? 0 : part == 1 ? q : q + kv; }
  size_t all() const { return q + 2 * kv; }
};

constexpr size_t kQkvParts = 3;

TensorBinding bind(const ModelSpec& spec, const TensorSpec& tensor, const ParsedName& name, Cut cut,
                   std::string stored) {
  TensorBinding binding{tensor.name, std::move(stored), tensor.shape, tensor.shape, {}, false, 0};
  const QkvRows qkv{spec.heads * spec.head_size, spec.kv_heads * spec.head_size};
  const auto part_from = [&](Cut first) {
    return static_cast<size_t>(cut) - static_cast<size_t>(first);
  };
  switch (cut) {
    case Cut::plain:
      break;
    case Cut::transposed:
      binding.transposed = true;
      break;
    case Cut::heads_q:
    case Cut::heads_k:
    case Cut::heads_v:
      binding.rows.kind = RowMap::Kind::per_head;
      binding.rows.part = part_from(Cut::heads_q);
      binding.rows.parts = kQkvParts;
      binding.rows.head_size = spec.head_size;
      binding.stored_shape[0] = qkv.all();
      break;
    case Cut::stacked_q:
    case Cut::stacked_k:
    case Cut::stacked_v:
      binding.rows.first = qkv.first(part_from(Cut::stacked_q));
      binding.stored_shape[0] = qkv.all();
      break;
    case Cut::transposed_q:
    case Cut::transposed_k:
    case Cut::transposed_v:
      binding.rows.first = qkv.first(part_from(Cut::transposed_q));
      binding.stored_shape[0] = qkv.all();
      binding.transposed = true;
      break;
    case Cut::interleaved:
      binding.rows.kind = RowMap::Kind::interleaved;
      binding.rows.head_size = spec.head_size;
      break;
    case Cut::expert:
      binding.rows.first = name.expert * tensor.shape[0];
      binding.stored_shape.insert(binding.stored_shape.begin(), spec.experts);
      break;
  }
  // A vector is its own transpose.
  if (tensor.shape.size() == 1) binding.transposed = false;
  if (binding.transposed) std::swap(binding.stored_shape[0], binding.stored_shape[1]);
  return binding;
}

std::vector<TensorBinding> bind_all(const ModelSpec& spec, const Tables& tables,
                                    const NamePrefix& prefix) {
  std::vector<TensorBinding> bindings;
  for (const TensorSpec& tensor : model_tensors(spec)) {
    const ParsedName name = parse_canonical(tensor.name);
    const NameRow& row = find_row(tables, spec, name.layer);
    bindings.push_back(bind(spec, tensor, name, row.cut, expand(row.stored, name, prefix)));
  }
  return bindings;
}

void check_fused_heads(const ModelSpec& spec) {
  require(spec.architecture != "gpt_neox" || spec.kv_heads == spec.heads,
          "kv_heads: gpt_neox files fuse q, k, v head by head and need kv_heads = heads");
}

bool is_norm_weight(std::string_view name) { return name.ends_with("norm.weight"); }

}  // namespace

size_t RowMap::stored_row(size_t row) const {
  switch (kind) {
    case Kind::contiguous:
      return first + row;
    case Kind::per_head:
      return first + (row / head_size * parts + part) * head_size + row % head_size;
    case Kind::interleaved: {
      const size_t half = head_size / 2, within = row % head_size;
      return first + row - within + 2 * (within % half) + within / half;
    }
  }
  throw std::logic_error("an unknown row order");
}

bool TensorBinding::identity() const {
  return shape == stored_shape && rows.kind == RowMap::Kind::contiguous && rows.first == 0 &&
         !transposed && added == 0;
}

std::span<const NamePrefix> hf_name_prefixes(std::string_view architecture) {
  static constexpr NamePrefix kModel[] = {{"model.", ""},
                                          {"language_model.model.", "language_model."},
                                          {"model.language_model.", ""},
                                          {"", ""}};
  static constexpr NamePrefix kNeox[] = {{"gpt_neox.", ""}, {"", ""}};
  static constexpr NamePrefix kOptPrefixes[] = {{"model.decoder.", ""}, {"decoder.", ""}};
  static constexpr NamePrefix kTransformer[] = {{"transformer.", ""}, {"", ""}};
  if (architecture == "gpt_neox") return kNeox;
  if (architecture == "opt") return kOptPrefixes;
  if (architecture == "gpt2") return kTransformer;
  return kModel;
}

std::vector<TensorBinding> hf_bindings(const ModelSpec& spec, const NamePrefix& prefix) {
  check_fused_heads(spec);
  std::vector<TensorBinding> bindings = bind_all(spec, hf_tables(spec.architecture), prefix);
  // Gemma's files in this layout always hold w of x * (1 + w).
  if (spec.architecture.starts_with("gemma") && !spec.norm_plus_one) {
    for (TensorBinding& binding : bindings) {
      if (is_norm_weight(binding.canonical)) binding.added = -1;
    }
  }
  return bindings;
}

std::vector<TensorBinding> gguf_bindings(const ModelSpec& spec) {
  const std::string_view family = architecture(spec.architecture).gguf;
  require(!family.empty(), "GGUF has no architecture for '{}'", spec.architecture);
  require(family != "llama" || spec.rotary_size == spec.head_size,
          "GGUF's llama needs positions that rotate whole heads");
  std::vector<TensorBinding> bindings = bind_all(spec, gguf_tables(family), {});
  if (spec.norm_plus_one) {
    for (TensorBinding& binding : bindings) {
      if (is_norm_weight(binding.canonical)) binding.added = 1;
    }
  }
  return bindings;
}

std::vector<TensorBinding> llama2c_bindings(const ModelSpec& spec) {
  std::vector<TensorBinding> bindings = bind_all(spec, {kLlama2c}, {});
  for (TensorBinding& binding : bindings) {
    binding.stored.resize(binding.stored.rfind('.'));
    const std::optional<size_t> block = block_index(binding.canonical);
    if (!block) continue;
    const size_t rows = binding.shape[0];
    binding.rows.first = *block * rows;
    binding.stored_shape.insert(binding.stored_shape.begin(), spec.blocks.size());
  }
  return bindings;
}

std::vector<TensorBinding> canonical_bindings(const ModelSpec& spec) {
  std::vector<TensorBinding> bindings;
  for (TensorSpec& tensor : model_tensors(spec)) {
    bindings.push_back({tensor.name, tensor.name, tensor.shape, tensor.shape, {}, false, 0});
  }
  return bindings;
}

}  // namespace fewbit
