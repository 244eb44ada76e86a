#include "fewbit/model/checkpoint.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/json.h"
#include "fewbit/io/gguf.h"
#include "fewbit/model/architectures.h"
#include "fewbit/model/containers.h"
#include "fewbit/model/fewbit_directory.h"
#include "fewbit/model/gguf_config.h"

namespace fewbit {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigName = "config.json";
constexpr const char* kTrainingName = "training.json";
constexpr size_t kMaxConfigBytes = size_t{64} << 20;
constexpr std::string_view kGgufMagic = "GGUF";

Json read_json(const fs::path& path) {
  return parse_json(read_text_file(path, kMaxConfigBytes), path.string());
}

// The hash of a checkpoint covers a sample of each tensor: pieces at equal distances, so that a
// large file costs no more than a small one.
constexpr size_t kHashedPieces = 16, kPieceBytes = 256;

std::string content_hash(std::string_view config, const TensorContainer& container) {
  std::string text(config);
  for (const std::string& name : container.names()) {
    const TensorInfo info = container.info(name);
    text += fmt::format("\n{} {} [{}]", name, info.stored_type, fmt::join(info.shape, ","));
    const std::string_view bytes = as_text(container.bytes(name));
    const size_t step = std::max<size_t>(kPieceBytes, bytes.size() / kHashedPieces);
    for (size_t at = 0; at < bytes.size(); at += step) text += bytes.substr(at, kPieceBytes);
  }
  return sha256_hex(text);
}

uint64_t stored_bytes(const TensorContainer& container) {
  uint64_t sum = 0;
  for (const std::string& name : container.names()) sum += container.info(name).stored_bytes;
  return sum;
}

void identify(Checkpoint& checkpoint, std::string_view config, const TensorContainer& container) {
  checkpoint.hash = content_hash(config, container);
  checkpoint.tensor_bytes = stored_bytes(container);
}

// The first of the family's prefixes under which the file has the embedding.
std::vector<TensorBinding> find_hf_bindings(const ModelSpec& spec,
                                            const TensorContainer& container) {
  std::string tried;
  for (const NamePrefix& prefix : hf_name_prefixes(spec.architecture)) {
    std::vector<TensorBinding> bindings = hf_bindings(spec, prefix);
    if (container.contains(bindings[0].stored)) return bindings;
    if (!tried.empty()) tried += ", ";
    tried += bindings[0].stored;
  }
  fail("{}: tensor {} is missing", container.what(), tried);
}

Checkpoint open_directory(const fs::path& path) {
  const fs::path config_path = path / kConfigName;
  require(fs::is_regular_file(config_path), "{}: the directory has no {}", path.string(),
          kConfigName);
  const std::string config_text = read_text_file(config_path, kMaxConfigBytes);
  const Json config = parse_json(config_text, config_path.string());
  Json generation = Json::object();
  if (fs::exists(path / "generation_config.json")) {
    generation = read_json(path / "generation_config.json");
  }
  Checkpoint checkpoint;
  checkpoint.path = path;
  if (is_fewbit_config(config)) {
    checkpoint.kind = CheckpointKind::fewbit;
    const HfDirectory directory = HfDirectory::open(path);
    FewbitModel model = with_context(config_path.string(),
                                     [&] { return open_fewbit_directory(config, directory); });
    checkpoint.spec = std::move(model.spec);
    checkpoint.tensors = std::move(model.tensors);
    checkpoint.activations = std::move(model.activations);
    identify(checkpoint, config_text, *safetensors_container(directory));
  } else {
    checkpoint.kind = CheckpointKind::hf;
    checkpoint.spec =
        with_context(config_path.string(), [&] { return parse_hf_config(config, generation); });
    const auto container = safetensors_container(HfDirectory::open(path));
    checkpoint.tensors = bind_tensors(container, find_hf_bindings(checkpoint.spec, *container));
    identify(checkpoint, config_text, *container);
  }
  if (fs::exists(path / "tokenizer.json")) {
    checkpoint.tokenizer.tokenizer_json = path / "tokenizer.json";
  } else if (fs::exists(path / kGgufTokenizerName)) {
    checkpoint.tokenizer.gguf =
        std::make_shared<GgufFile>(GgufFile::open(path / kGgufTokenizerName));
  }
  if (fs::exists(path / kTrainingName)) {
    checkpoint.training = read_training_record(path / kTrainingName);
  }
  return checkpoint;
}

Checkpoint open_gguf(const fs::path& path) {
  GgufFile file = GgufFile::open(path);
  Checkpoint checkpoint;
  checkpoint.path = path;
  checkpoint.kind = CheckpointKind::gguf;
  checkpoint.spec = parse_gguf_spec(file);
  std::string metadata;
  for (const GgufValue& value : file.values()) {
    // Long arrays are vocabularies: their size tells enough here.
    constexpr size_t kHashedValueBytes = 4096;
    metadata += fmt::format("{} {} ", value.key, value.type_text());
    metadata += as_text(value.bytes).substr(0, kHashedValueBytes);
  }
  const auto container = gguf_container(file);
  checkpoint.tensors = bind_tensors(container, gguf_bindings(checkpoint.spec));
  identify(checkpoint, metadata, *container);
  if (file.string_or("tokenizer.ggml.model", "no_vocab") != "no_vocab") {
    checkpoint.tokenizer.gguf = std::make_shared<GgufFile>(std::move(file));
  }
  return checkpoint;
}

Checkpoint open_llama2c(const fs::path& path) {
  const Llama2cFile file = Llama2cFile::open(path);
  const Llama2cHeader& header = file.header();
  Checkpoint checkpoint;
  checkpoint.path = path;
  checkpoint.kind = CheckpointKind::llama2c;
  ModelSpec& spec = checkpoint.spec;
  spec.architecture = "llama";
  spec.vocab_size = header.vocab_size;
  spec.hidden_size = spec.embedding_size = header.dim;
  spec.ffn_size = header.hidden_dim;
  spec.heads = header.heads;
  spec.kv_heads = header.kv_heads;
  spec.head_size = spec.rotary_size = header.head_dim();
  spec.context = header.seq_len;
  spec.blocks.resize(header.layers);
  spec.tied_head = header.tied;
  // Every model of this format has the tokens of its tokenizer.
  constexpr int32_t kBos = 1, kEos = 2;
  if (spec.vocab_size > kEos) {
    spec.bos_token = kBos;
    spec.eos_tokens = {kEos};
  }
  with_context(path.string(), [&] { spec.validate(); });
  const auto container = llama2c_container(file, path.string());
  checkpoint.tensors = bind_tensors(container, llama2c_bindings(spec));
  identify(checkpoint, "llama2c", *container);
  return checkpoint;
}

bool has_gguf_magic(const fs::path& path) {
  const MappedFile file = MappedFile::open(path);
  return as_text(file.bytes()).substr(0, kGgufMagic.size()) == kGgufMagic;
}

template <class T>
void read_optional(const Json& json, const char* key, std::optional<T>& value) {
  if (json.contains(key) && !json.at(key).is_null()) value = json_get<T>(json, key);
}

}  // namespace

std::string_view checkpoint_kind_name(CheckpointKind kind) {
  switch (kind) {
    case CheckpointKind::hf:
      return "hf";
    case CheckpointKind::gguf:
      return "gguf";
    case CheckpointKind::llama2c:
      return "llama2c";
    case CheckpointKind::fewbit:
      return "fewbit";
  }
  throw std::logic_error("an unknown checkpoint kind");
}

TrainingRecord read_training_record(const fs::path& path) {
  const Json json = read_json(path);
  return with_context(path.string(), [&] {
    TrainingRecord record;
    record.run = json_get_or<std::string>(json, "run", "");
    read_optional(json, "params", record.params);
    read_optional(json, "tokens", record.tokens);
    read_optional(json, "step", record.step);
    read_optional(json, "batch_tokens", record.batch_tokens);
    read_optional(json, "learning_rate", record.learning_rate);
    read_optional(json, "schedule", record.schedule);
    read_optional(json, "seed", record.seed);
    read_optional(json, "quantizer", record.quantizer);
    read_optional(json, "bits", record.bits);
    read_optional(json, "quantized_tokens", record.quantized_tokens);
    read_optional(json, "start", record.start);
    return record;
  });
}

Json training_record_json(const TrainingRecord& record) {
  Json json = {{"run", record.run}};
  const auto add = [&](const char* key, const auto& value) {
    if (value) json[key] = *value;
  };
  add("params", record.params);
  add("tokens", record.tokens);
  add("step", record.step);
  add("batch_tokens", record.batch_tokens);
  add("learning_rate", record.learning_rate);
  add("schedule", record.schedule);
  add("seed", record.seed);
  add("quantizer", record.quantizer);
  add("bits", record.bits);
  add("quantized_tokens", record.quantized_tokens);
  add("start", record.start);
  return json;
}

void write_training_record(const fs::path& path, const TrainingRecord& record) {
  write_file_atomically(path, training_record_json(record).dump(1) + "\n");
}

Checkpoint open_checkpoint(const fs::path& path) {
  require(fs::exists(path), "{}: no such file or directory", path.string());
  if (fs::is_directory(path)) return open_directory(path);
  if (has_gguf_magic(path)) return open_gguf(path);
  require(path.extension() == ".bin",
          "{}: is no model (allowed: a directory with {}, a GGUF file, a llama2.c file named .bin)",
          path.string(), kConfigName);
  return open_llama2c(path);
}

}  // namespace fewbit
