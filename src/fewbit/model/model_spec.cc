#include "fewbit/model/model_spec.h"

#include <cmath>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// Beyond any model that exists; products of two of them cannot overflow 64 bits.
constexpr size_t kMaxVocabulary = size_t{1} << 24;
constexpr size_t kMaxWidth = size_t{1} << 22;
constexpr size_t kMaxBlocks = 4096;
constexpr size_t kMaxContext = size_t{1} << 31;
constexpr size_t kMaxExperts = 4096;
constexpr size_t kMaxExpertsOfAllBlocks = 65536;

void check_size(const char* field, size_t value, size_t max) {
  require(value >= 1 && value <= max, "{}: {} is not within 1 to {}", field, value, max);
}

void check_positive(const char* field, double value) {
  require(std::isfinite(value) && value > 0, "{}: {} is not a positive number", field, value);
}

uint64_t elements_of(const TensorSpec& tensor) {
  uint64_t product = 1;
  for (const size_t size : tensor.shape) product *= size;
  return product;
}

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

class TensorList {
 public:
  explicit TensorList(const ModelSpec& spec) : spec_(spec) {}

  void weight(const std::string& layer, std::vector<size_t> shape) {
    tensors_.push_back({layer + ".weight", std::move(shape)});
  }
  void linear(const std::string& layer, size_t out, size_t in, bool bias) {
    weight(layer, {out, in});
    if (bias) tensors_.push_back({layer + ".bias", {out}});
  }
  void norm(const std::string& layer, size_t size) {
    weight(layer, {size});
    if (spec_.norm_bias) tensors_.push_back({layer + ".bias", {size}});
  }
  // Norms over heads and before single linears never have a bias.
  void plain_norm(const std::string& layer, size_t size) { weight(layer, {size}); }

  void mlp(const std::string& prefix) {
    if (spec_.gated_mlp) linear(prefix + "gate", spec_.ffn_size, spec_.hidden_size, spec_.mlp_bias);
    linear(prefix + "up", spec_.ffn_size, spec_.hidden_size, spec_.mlp_bias);
    if (spec_.mlp_sub_norm) plain_norm(prefix + "sub_norm", spec_.ffn_size);
    linear(prefix + "down", spec_.hidden_size, spec_.ffn_size, spec_.mlp_bias);
  }

  void block(size_t index) {
    const std::string prefix = fmt::format("blocks.{}.", index);
    const size_t q_rows = spec_.heads * spec_.head_size;
    const size_t kv_rows = spec_.kv_heads * spec_.head_size;
    norm(prefix + "attn_norm", spec_.hidden_size);
    linear(prefix + "attn.q", q_rows, spec_.hidden_size, spec_.qkv_bias);
    linear(prefix + "attn.k", kv_rows, spec_.hidden_size, spec_.qkv_bias);
    linear(prefix + "attn.v", kv_rows, spec_.hidden_size, spec_.qkv_bias);
    if (spec_.qk_norm) {
      plain_norm(prefix + "attn.q_norm", spec_.head_size);
      plain_norm(prefix + "attn.k_norm", spec_.head_size);
    }
    if (spec_.attention_sub_norm) plain_norm(prefix + "attn.sub_norm", q_rows);
    linear(prefix + "attn.o", spec_.hidden_size, q_rows, spec_.attention_output_bias);
    if (spec_.post_norms) norm(prefix + "attn_post_norm", spec_.hidden_size);
    norm(prefix + "mlp_norm", spec_.hidden_size);
    if (spec_.experts == 0) {
      mlp(prefix + "mlp.");
    } else {
      linear(prefix + "mlp.router", spec_.experts, spec_.hidden_size, false);
      for (size_t expert = 0; expert < spec_.experts; ++expert) {
        mlp(fmt::format("{}mlp.experts.{}.", prefix, expert));
      }
    }
    if (spec_.post_norms) norm(prefix + "mlp_post_norm", spec_.hidden_size);
  }

  void embedding() {
    weight("embed", {spec_.vocab_size, spec_.embedding_size});
    if (spec_.positions == Positions::learned) {
      weight("positions", {spec_.position_rows, spec_.hidden_size});
    }
    if (spec_.embedding_size != spec_.hidden_size) {
      weight("embed_project_in", {spec_.hidden_size, spec_.embedding_size});
    }
  }

  void head() {
    if (spec_.final_norm) norm("final_norm", spec_.hidden_size);
    if (spec_.embedding_size != spec_.hidden_size) {
      weight("embed_project_out", {spec_.embedding_size, spec_.hidden_size});
    }
    if (!spec_.tied_head) weight("head", {spec_.vocab_size, spec_.embedding_size});
    if (spec_.head_bias) tensors_.push_back({"head.bias", {spec_.vocab_size}});
  }

  std::vector<TensorSpec> take() { return std::move(tensors_); }

 private:
  const ModelSpec& spec_;
  std::vector<TensorSpec> tensors_;
};

}  // namespace

double ModelSpec::attention_scale_or_default() const {
  return attention_scale.value_or(1 / std::sqrt(static_cast<double>(head_size)));
}

void ModelSpec::validate() const {
  require(!architecture.empty(), "architecture: is empty");
  check_size("vocab_size", vocab_size, kMaxVocabulary);
  check_size("hidden_size", hidden_size, kMaxWidth);
  check_size("embedding_size", embedding_size, kMaxWidth);
  check_size("ffn_size", ffn_size, kMaxWidth);
  check_size("heads", heads, kMaxWidth);
  check_size("kv_heads", kv_heads, kMaxWidth);
  check_size("head_size", head_size, kMaxWidth);
  check_size("heads * head_size", heads * head_size, kMaxWidth);
  check_size("context", context, kMaxContext);
  check_size("blocks", blocks.size(), kMaxBlocks);
  require(heads % kv_heads == 0, "kv_heads: {} does not divide heads = {}", kv_heads, heads);
  check_positive("norm_epsilon", norm_epsilon);
  if (attention_scale) check_positive("attention_scale", *attention_scale);
  if (attention_softcap) check_positive("attention_softcap", *attention_softcap);
  if (final_softcap) check_positive("final_softcap", *final_softcap);
  check_positive("embedding_scale", embedding_scale);
  require(norm == NormKind::layer || !norm_bias, "norm_bias: RMSNorm has none");
  require(norm_first || (!parallel_residual && !post_norms),
          "norm_first: false does not go with parallel_residual or post_norms");
  if (positions == Positions::rotary) {
    require(rotary_size >= 2 && rotary_size % 2 == 0 && rotary_size <= head_size,
            "rotary_size: {} is not an even number within 2 to head_size = {}", rotary_size,
            head_size);
    for (const BlockSpec& block : blocks) {
      check_positive("rope_base", block.rope_base);
      if (block.rope_scaling.kind == RopeScaling::Kind::none) continue;
      check_positive("rope_scaling.factor", block.rope_scaling.factor);
      if (block.rope_scaling.kind == RopeScaling::Kind::linear) continue;
      check_positive("rope_scaling.low_frequency_factor", block.rope_scaling.low_frequency_factor);
      check_positive("rope_scaling.original_context", block.rope_scaling.original_context);
      require(block.rope_scaling.high_frequency_factor > block.rope_scaling.low_frequency_factor,
              "rope_scaling.high_frequency_factor: {} is not above low_frequency_factor = {}",
              block.rope_scaling.high_frequency_factor, block.rope_scaling.low_frequency_factor);
    }
  } else {
    check_size("position_rows", position_rows, kMaxContext);
    require(position_offset < position_rows, "position_offset: {} is not below position_rows = {}",
            position_offset, position_rows);
  }
  if (experts > 0) {
    check_size("experts", experts, kMaxExperts);
    check_size("experts * blocks", experts * blocks.size(), kMaxExpertsOfAllBlocks);
    check_size("experts_per_token", experts_per_token, experts);
    require(gated_mlp && !mlp_bias && !mlp_sub_norm,
            "experts: must be gated, without biases and sub-norms");
  }
  const auto check_token = [&](const char* field, int64_t token) {
    require(token >= 0 && token < static_cast<int64_t>(vocab_size), "{}: {} is not within 0 to {}",
            field, token, vocab_size - 1);
  };
  if (bos_token) check_token("bos_token", *bos_token);
  for (const int32_t token : eos_tokens) check_token("eos_tokens", token);
}

uint64_t ModelSpec::non_embedding_params() const {
  uint64_t sum = 0;
  for (const TensorSpec& tensor : model_tensors(*this)) {
    const bool outside = starts_with(tensor.name, "embed.") || starts_with(tensor.name, "head.") ||
                         starts_with(tensor.name, "positions.");
    if (!outside) sum += elements_of(tensor);
  }
  return sum;
}

uint64_t ModelSpec::total_params() const {
  uint64_t sum = 0;
  for (const TensorSpec& tensor : model_tensors(*this)) sum += elements_of(tensor);
  return sum;
}

std::vector<TensorSpec> model_tensors(const ModelSpec& spec) {
  TensorList list(spec);
  list.embedding();
  for (size_t index = 0; index < spec.blocks.size(); ++index) list.block(index);
  list.head();
  return list.take();
}

std::vector<TensorSpec> block_tensors(const ModelSpec& spec, size_t index) {
  require(index < spec.blocks.size(), "block {} is not within 0 to {}", index,
          spec.blocks.size() - 1);
  TensorList list(spec);
  list.block(index);
  return list.take();
}

std::vector<TensorSpec> embedding_tensors(const ModelSpec& spec) {
  TensorList list(spec);
  list.embedding();
  return list.take();
}

std::vector<TensorSpec> head_tensors(const ModelSpec& spec) {
  TensorList list(spec);
  list.head();
  return list.take();
}

}  // namespace fewbit
