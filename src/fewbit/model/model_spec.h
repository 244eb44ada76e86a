// ModelSpec: what a decoder-only language model is, as plain data. An architecture is a table that
// fills it (architectures.cc), never a class; one forward pass, driven by it, serves every family.
//
// Canonical tensor names (only model/ knows the names of Hugging Face and GGUF files):
//   embed.weight [vocab, embedding_size]        positions.weight [rows, hidden]
//   embed_project_in.weight, embed_project_out.weight            (OPT-350M)
//   blocks.I.attn_norm.{weight,bias}            blocks.I.attn.{q,k,v,o}.{weight,bias}
//   blocks.I.attn.{q_norm,k_norm,sub_norm}.weight
//   blocks.I.attn_post_norm.{weight,bias}       blocks.I.mlp_post_norm.{weight,bias}
//   blocks.I.mlp_norm.{weight,bias}             blocks.I.mlp.{gate,up,down}.{weight,bias}
//   blocks.I.mlp.sub_norm.weight
//   blocks.I.mlp.router.weight                  blocks.I.mlp.experts.E.{gate,up,down}.weight
//   final_norm.{weight,bias}                    head.{weight,bias}
// Weights of linears are [out, in]; fused projections are split, rows in head order q, k, v.
// A linear's layer name is its tensor name without ".weight": blocks.3.attn.q.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fewbit {

enum class NormKind { rms, layer };
// gelu: exact erf form; gelu_tanh: the tanh approximation; relu_squared: max(x, 0)^2.
enum class Activation { silu, gelu, gelu_tanh, relu, relu_squared };
// Pairing is always (i, i + rotary_size / 2); readers of interleaved files permute the rows.
enum class Positions { rotary, learned };

// How the angles of rotary positions are scaled.
struct RopeScaling {
  enum class Kind { none, linear, llama3 };
  Kind kind = Kind::none;
  double factor = 1;
  double low_frequency_factor = 1, high_frequency_factor = 4;  // llama3
  double original_context = 8192;                              // llama3
  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

// What differs from block to block.
struct BlockSpec {
  size_t window = 0;  // Keys at distance >= window are masked; 0: no window.
  double rope_base = 10000;
  RopeScaling rope_scaling;
  friend bool operator==(const BlockSpec&, const BlockSpec&) = default;
};

struct ModelSpec {
  std::string architecture;  // As config.json's model_type: "llama", "gpt_neox", ...

  size_t vocab_size = 0;
  size_t hidden_size = 0;
  size_t embedding_size = 0;  // Equals hidden_size unless projected (OPT-350M).
  size_t heads = 0, kv_heads = 0, head_size = 0;
  size_t ffn_size = 0;
  size_t context = 0;  // Longest sequence the model was made for.
  std::vector<BlockSpec> blocks;

  NormKind norm = NormKind::rms;
  double norm_epsilon = 1e-5;
  bool norm_bias = false;
  bool norm_plus_one = false;  // Stored weights are w of x * (1 + w).
  bool norm_first = true;      // False: norms stand after the residual additions (OPT-350M).
  bool post_norms = false;     // Norms on the outputs of attention and MLP (Gemma 2, 3).
  bool final_norm = true;
  bool parallel_residual = false;  // x + attn(norm x) + mlp(norm' x)

  bool qkv_bias = false, attention_output_bias = false, mlp_bias = false, head_bias = false;
  bool qk_norm = false;  // RMSNorm over head_size on q and k before the rotation.
  bool attention_sub_norm = false, mlp_sub_norm = false;  // BitNet: norms before o and down.
  std::optional<double> attention_scale;                  // Default head_size^-0.5.
  std::optional<double> attention_softcap, final_softcap;

  Positions positions = Positions::rotary;
  size_t rotary_size = 0;      // Leading dimensions of a head that rotate.
  size_t position_rows = 0;    // Rows of positions.weight.
  size_t position_offset = 0;  // Row of position 0 (OPT: 2).

  bool gated_mlp = true;
  Activation activation = Activation::silu;
  size_t experts = 0, experts_per_token = 0;  // 0: a dense MLP.

  bool tied_head = false;
  double embedding_scale = 1;  // Gemma: sqrt(hidden_size).

  std::optional<int32_t> bos_token;
  std::vector<int32_t> eos_tokens;

  double attention_scale_or_default() const;
  // Throws Error naming the field if sizes are zero, absurd or do not fit each other.
  void validate() const;
  // Elements of all tensors but embeddings, positions and head: N of the scaling laws.
  uint64_t non_embedding_params() const;
  uint64_t total_params() const;  // A tied head counts once.
  friend bool operator==(const ModelSpec&, const ModelSpec&) = default;
};

// A tensor that a spec calls for.
struct TensorSpec {
  std::string name;  // Canonical.
  std::vector<size_t> shape;
  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

// All tensors of the model, embedding first, blocks in order, head last (absent when tied).
std::vector<TensorSpec> model_tensors(const ModelSpec& spec);
// Those of block `index` only.
std::vector<TensorSpec> block_tensors(const ModelSpec& spec, size_t index);
// Those before the blocks, and those after them (a tied head has no weight of its own).
std::vector<TensorSpec> embedding_tensors(const ModelSpec& spec);
std::vector<TensorSpec> head_tensors(const ModelSpec& spec);

}  // namespace fewbit
