// fewbit inspect: what a model is, without running it.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "fewbit/base/json.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/model/architectures.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/model/model_text.h"

namespace fewbit::cli {
namespace {

struct InspectArguments {
  std::string model;
  bool json = false, tensors = false;
};

struct TypeTotal {
  size_t tensors = 0;
  uint64_t elements = 0, bytes = 0;
};

std::map<std::string, TypeTotal> totals_by_type(const TensorSource& source) {
  std::map<std::string, TypeTotal> totals;
  for (const std::string& name : source.names()) {
    const TensorInfo info = source.info(name);
    TypeTotal& total = totals[info.stored_type];
    ++total.tensors;
    total.elements += info.elements();
    total.bytes += info.stored_bytes;
  }
  return totals;
}

double bits_per_element(uint64_t bytes, uint64_t elements) {
  return elements == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(elements);
}

Json tokenizer_json(const Checkpoint& checkpoint) {
  if (checkpoint.tokenizer.empty()) return nullptr;
  const Tokenizer tokenizer = load_tokenizer(checkpoint);
  Json json = {{"vocabulary_size", tokenizer.vocabulary_size()},
               {"fingerprint", tokenizer.fingerprint()},
               {"prefix", tokenizer.prefix()},
               {"end_of_generation", tokenizer.special().end_of_generation}};
  if (tokenizer.special().bos) json["bos"] = *tokenizer.special().bos;
  if (tokenizer.special().eos) json["eos"] = *tokenizer.special().eos;
  return json;
}

Json inspect_json(const Checkpoint& checkpoint) {
  Json tensors = Json::array();
  for (const std::string& name : checkpoint.tensors->names()) {
    const TensorInfo info = checkpoint.tensors->info(name);
    tensors.push_back({{"name", name},
                       {"shape", info.shape},
                       {"type", info.stored_type},
                       {"bytes", info.stored_bytes}});
  }
  Json json = {{"path", checkpoint.path.string()},
               {"kind", checkpoint_kind_name(checkpoint.kind)},
               {"hash", checkpoint.hash},
               {"spec", spec_to_json(checkpoint.spec)},
               {"non_embedding_params", checkpoint.spec.non_embedding_params()},
               {"total_params", checkpoint.spec.total_params()},
               {"tensor_bytes", checkpoint.tensor_bytes},
               {"tensors", std::move(tensors)},
               {"tokenizer", tokenizer_json(checkpoint)}};
  if (checkpoint.training) json["training"] = training_record_json(*checkpoint.training);
  return json;
}

std::string windows_text(const ModelSpec& spec) {
  size_t windowed = 0, window = 0;
  for (const BlockSpec& block : spec.blocks) {
    if (block.window == 0) continue;
    ++windowed;
    window = block.window;
  }
  if (windowed == 0) return "";
  return fmt::format(", window {} in {} of {} blocks", window, windowed, spec.blocks.size());
}

void print_spec(const ModelSpec& spec) {
  fmt::print("architecture  {}: {} blocks, hidden {}, ffn {}{}\n", spec.architecture,
             spec.blocks.size(), spec.hidden_size, spec.ffn_size,
             spec.experts > 0
                 ? fmt::format(", {} experts, {} per token", spec.experts, spec.experts_per_token)
                 : "");
  fmt::print("attention     {} heads over {} of size {}, context {}{}\n", spec.heads, spec.kv_heads,
             spec.head_size, spec.context, windows_text(spec));
  if (spec.positions == Positions::rotary) {
    fmt::print("positions     rotary on {} of {} dimensions, base {}\n", spec.rotary_size,
               spec.head_size, spec.blocks.back().rope_base);
  } else {
    fmt::print("positions     learned, {} rows\n", spec.position_rows);
  }
  fmt::print("vocabulary    {}, {} head\n", spec.vocab_size, spec.tied_head ? "tied" : "own");
  fmt::print("parameters    {} without embeddings (N), {} in all\n", spec.non_embedding_params(),
             spec.total_params());
}

void print_tokenizer(const Checkpoint& checkpoint) {
  if (checkpoint.tokenizer.empty()) {
    fmt::print("tokenizer     none\n");
    return;
  }
  const Tokenizer tokenizer = load_tokenizer(checkpoint);
  fmt::print("tokenizer     {} tokens", tokenizer.vocabulary_size());
  const SpecialTokens& special = tokenizer.special();
  if (special.bos) {
    fmt::print(", BOS {} {}{}", *special.bos, tokenizer.token_text(*special.bos),
               tokenizer.prefix().empty() ? " (not added)" : "");
  }
  if (special.eos) fmt::print(", EOS {} {}", *special.eos, tokenizer.token_text(*special.eos));
  fmt::print("\n");
}

void print_tensors(const TensorSource& source) {
  size_t width = 0;
  for (const std::string& name : source.names()) width = std::max(width, name.size());
  for (const std::string& name : source.names()) {
    const TensorInfo info = source.info(name);
    fmt::print("  {:<{}}  {:<8} [{}], {} bytes\n", name, width, info.stored_type,
               fmt::join(info.shape, ", "), info.stored_bytes);
  }
}

void print_training(const TrainingRecord& record) {
  fmt::print("training     ");
  if (!record.run.empty()) fmt::print(" run {}", record.run);
  if (record.tokens) fmt::print(" after {} tokens (D)", *record.tokens);
  if (record.step) fmt::print(", step {}", *record.step);
  if (record.seed) fmt::print(", seed {}", *record.seed);
  if (record.quantizer) fmt::print(", quantizer {}", *record.quantizer);
  if (record.bits) fmt::print(", {} bits", *record.bits);
  fmt::print("\n");
}

void run(const InspectArguments& arguments) {
  const Checkpoint checkpoint = open_checkpoint(arguments.model);
  if (arguments.json) {
    fmt::print("{}\n", inspect_json(checkpoint).dump(2));
    return;
  }
  fmt::print("model         {} ({})\n", checkpoint.path.string(),
             checkpoint_kind_name(checkpoint.kind));
  print_spec(checkpoint.spec);
  print_tokenizer(checkpoint);
  if (checkpoint.training) print_training(*checkpoint.training);
  fmt::print("stored        {} bytes of tensors\n", checkpoint.tensor_bytes);
  for (const auto& [type, total] : totals_by_type(*checkpoint.tensors)) {
    fmt::print("  {:<8} {:>5} tensors, {:>12} elements, {:>12} bytes, {:.4g} bits each\n", type,
               total.tensors, total.elements, total.bytes,
               bits_per_element(total.bytes, total.elements));
  }
  fmt::print("hash          {}\n", checkpoint.hash);
  if (arguments.tensors) print_tensors(*checkpoint.tensors);
}

}  // namespace

void add_inspect_verb(CLI::App& app) {
  CLI::App* verb =
      app.add_subcommand("inspect", "Show what a model is: settings, tensors, tokenizer");
  verb->footer(
      "MODEL is a Hugging Face directory, a .gguf file, a fewbit directory or a llama2.c .bin "
      "file.\n"
      "Examples:\n"
      "  fewbit inspect models/smollm2-135m-instruct.gguf\n"
      "  fewbit inspect out/model --tensors\n"
      "  fewbit inspect out/model --json");
  auto arguments = std::make_shared<InspectArguments>();
  verb->add_option("model", arguments->model, "the model")->required()->type_name("MODEL");
  verb->add_flag("--tensors", arguments->tensors, "list every tensor with its type and shape");
  verb->add_flag("--json", arguments->json, "machine-readable, with every tensor");
  verb->callback([arguments] { run(*arguments); });
}

}  // namespace fewbit::cli
