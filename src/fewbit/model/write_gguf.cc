#include "fewbit/model/write_gguf.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/base/json.h"
#include "fewbit/base/log.h"
#include "fewbit/io/gguf_writer.h"
#include "fewbit/model/architectures.h"
#include "fewbit/model/gguf_config.h"
#include "fewbit/model/rope_divisors.h"
#include "fewbit/model/stored_source.h"
#include "fewbit/model/tensor_names.h"

namespace fewbit {
namespace {

// general.file_type of ggml.
constexpr uint32_t kFileTypeF32 = 0, kFileTypeF16 = 1, kFileTypeBf16 = 32;
constexpr uint32_t kQuantizationVersion = 2;
constexpr const char* kRopeFrequencies = "rope_freqs.weight";

struct FloatType {
  Dtype dtype;
  uint32_t file_type;
};

FloatType float_type(GgmlType type) {
  switch (type) {
    case GgmlType::f32:
      return {Dtype::f32, kFileTypeF32};
    case GgmlType::f16:
      return {Dtype::f16, kFileTypeF16};
    case GgmlType::bf16:
      return {Dtype::bf16, kFileTypeBf16};
    default:
      fail("GGUF type {} cannot be written (allowed: F32, F16, BF16)", ggml_type_info(type).name);
  }
}

uint32_t as_u32(size_t value) { return static_cast<uint32_t>(value); }

// The block whose rotation holds for the file: a global one, if blocks differ.
const BlockSpec& global_block(const ModelSpec& spec) {
  const auto found = std::find_if(spec.blocks.begin(), spec.blocks.end(),
                                  [](const BlockSpec& block) { return block.window == 0; });
  return found == spec.blocks.end() ? spec.blocks[0] : *found;
}

void add_windows(const ModelSpec& spec, const std::string& family, GgufMetadata& metadata) {
  std::vector<bool> sliding;
  for (const BlockSpec& block : spec.blocks) sliding.push_back(block.window > 0);
  const auto windowed = std::find(sliding.begin(), sliding.end(), true);
  if (windowed == sliding.end()) return;
  const BlockSpec& block = spec.blocks[static_cast<size_t>(windowed - sliding.begin())];
  metadata.add(family + ".attention.sliding_window", as_u32(block.window));
  if (!family.starts_with("gemma")) return;
  metadata.add(family + ".attention.sliding_window_pattern", sliding);
  metadata.add(family + ".rope.freq_base_swa", static_cast<float>(block.rope_base));
}

GgufMetadata make_metadata(const ModelSpec& spec, const GgufWriteOptions& options) {
  const std::string family(architecture(spec.architecture).gguf);
  GgufMetadata metadata;
  metadata.add("general.architecture", family);
  metadata.add("general.file_type", float_type(options.type).file_type);
  metadata.add("general.quantization_version", kQuantizationVersion);
  const auto size = [&](const char* key, size_t value) {
    metadata.add(fmt::format("{}.{}", family, key), as_u32(value));
  };
  const auto real = [&](const char* key, double value) {
    metadata.add(fmt::format("{}.{}", family, key), static_cast<float>(value));
  };
  size("context_length", spec.context);
  size("embedding_length", spec.hidden_size);
  size("block_count", spec.blocks.size());
  size("feed_forward_length", spec.ffn_size);
  size("vocab_size", spec.vocab_size);
  size("attention.head_count", spec.heads);
  size("attention.head_count_kv", spec.kv_heads);
  size("attention.key_length", spec.head_size);
  size("attention.value_length", spec.head_size);
  real(spec.norm == NormKind::rms ? "attention.layer_norm_rms_epsilon"
                                  : "attention.layer_norm_epsilon",
       spec.norm_epsilon);
  if (spec.positions == Positions::rotary) {
    const BlockSpec& block = global_block(spec);
    size("rope.dimension_count", spec.rotary_size);
    real("rope.freq_base", block.rope_base);
    if (block.rope_scaling.kind == RopeScaling::Kind::linear) {
      metadata.add(family + ".rope.scaling.type", "linear");
      real("rope.scaling.factor", block.rope_scaling.factor);
    }
    add_windows(spec, family, metadata);
  }
  if (spec.experts > 0) {
    size("expert_count", spec.experts);
    size("expert_used_count", spec.experts_per_token);
  }
  if (spec.attention_softcap) real("attn_logit_softcapping", *spec.attention_softcap);
  if (spec.final_softcap) real("final_logit_softcapping", *spec.final_softcap);
  if (family == "gptneox") metadata.add("gptneox.use_parallel_residual", spec.parallel_residual);
  if (options.tokenizer) {
    for (const GgufValue& value : options.tokenizer->values()) {
      if (value.key.starts_with("tokenizer.")) metadata.add(value);
    }
  } else {
    metadata.add("tokenizer.ggml.model", "no_vocab");
  }
  return metadata;
}

// Fields that the keys do not hold, or hold otherwise: names of families that share a form, token
// ids of a file without tokenizer, the form of Gemma's norms.
bool is_compared(std::string_view field) {
  return field != "architecture" && field != "bos_token" && field != "eos_tokens" &&
         field != "norm_plus_one" && field != "embedding_scale";
}

void check_stated(const std::filesystem::path& path, const ModelSpec& spec) {
  const ModelSpec read_back = parse_gguf_spec(GgufFile::open(path));
  const Json wanted = spec_to_json(spec), got = spec_to_json(read_back);
  for (const auto& [field, value] : wanted.items()) {
    require(!is_compared(field) || got.at(field) == value,
            "the keys of GGUF's {} cannot state {} = {} (it would be read as {})",
            architecture(spec.architecture).gguf, field, value.dump().substr(0, 80),
            got.at(field).dump().substr(0, 80));
  }
  if (read_back.embedding_scale != spec.embedding_scale) {
    warn("{}: readers of GGUF scale embeddings by {}, this model by {}", path.string(),
         read_back.embedding_scale, spec.embedding_scale);
  }
}

}  // namespace

void write_gguf_checkpoint(const std::filesystem::path& path, const ModelSpec& spec,
                           const TensorSource& tensors, const GgufWriteOptions& options) {
  spec.validate();
  check_tensors(spec, tensors);
  require(spec.norm_first && spec.embedding_size == spec.hidden_size && !spec.head_bias,
          "GGUF has no form of {} with norms behind the additions, projected embeddings or a bias "
          "of the head",
          spec.architecture);
  const GgufMetadata metadata = make_metadata(spec, options);
  std::vector<std::vector<TensorBinding>> groups = group_by_stored(gguf_bindings(spec));
  std::vector<GgufWriter::Declaration> declarations;
  std::vector<Dtype> dtypes;
  const RopeScaling& scaling = global_block(spec).rope_scaling;
  std::vector<float> divisors;
  if (scaling.kind == RopeScaling::Kind::llama3) {
    divisors = rope_divisors(scaling, global_block(spec).rope_base, spec.rotary_size);
    declarations.push_back({kRopeFrequencies, GgmlType::f32, {divisors.size()}});
  }
  for (const std::vector<TensorBinding>& group : groups) {
    const TensorBinding& first = group.front();
    const bool matrix = first.shape.size() > 1 && !first.canonical.ends_with("router.weight");
    const GgmlType type = matrix ? options.type : GgmlType::f32;
    dtypes.push_back(float_type(type).dtype);
    declarations.push_back(
        {first.stored, type, {first.stored_shape.rbegin(), first.stored_shape.rend()}});
  }
  // Under a temporary name until it is known to be read as it was meant.
  std::filesystem::path unchecked = path;
  unchecked += ".unchecked";
  try {
    GgufWriter writer(unchecked, metadata, std::move(declarations));
    if (!divisors.empty()) writer.write(std::as_bytes(std::span(divisors)));
    for (size_t g = 0; g < groups.size(); ++g) {
      const std::vector<float> values = load_stored(groups[g], tensors);
      writer.write(encode_floats(dtypes[g], values, groups[g].front().stored));
    }
    writer.commit();
    check_stated(unchecked, spec);
    std::filesystem::rename(unchecked, path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(unchecked, ignored);
    throw;
  }
}

}  // namespace fewbit
