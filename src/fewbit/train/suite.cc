#include "fewbit/train/suite.h"

#include <cmath>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/toml.h"

namespace fewbit {
namespace {

constexpr size_t kMaxSuiteBytes = 1 << 20;
// Larger than anything that trains on one machine; keeps products of sizes far from overflow.
constexpr int64_t kMaxWidth = 1 << 16, kMaxLayers = 1024, kMaxTokens = int64_t{1} << 50;

Schedule read_schedule(std::optional<TomlTable> table) {
  Schedule schedule;
  if (!table) return schedule;
  schedule.kind = parse_schedule(table->choice_or("kind", "constant", schedule_names()));
  schedule.warmup_steps =
      static_cast<uint64_t>(table->integer_or("warmup_steps", 0, 0, kMaxTokens));
  schedule.floor_fraction = table->real_or("floor_fraction", schedule.floor_fraction, 0, 1);
  schedule.decay_fraction = table->real_or("decay_fraction", schedule.decay_fraction, 0, 1);
  table->finish();
  return schedule;
}

AdamWOptions read_optimizer(std::optional<TomlTable> table) {
  AdamWOptions options;
  if (!table) return options;
  options.beta1 = table->real_or("beta1", options.beta1, 0, 0.999999);
  options.beta2 = table->real_or("beta2", options.beta2, 0, 0.999999);
  options.epsilon = table->real_or("epsilon", options.epsilon, 1e-16, 1);
  options.weight_decay = table->real_or("weight_decay", options.weight_decay, 0, 10);
  options.clip_norm = table->real_or("clip_norm", options.clip_norm, 0, 1e9);
  table->finish();
  return options;
}

std::vector<uint64_t> read_checkpoints(TomlTable& root, const std::string& where) {
  std::vector<uint64_t> tokens;
  for (const int64_t count : root.integers("checkpoint_tokens", 1, kMaxTokens)) {
    tokens.push_back(static_cast<uint64_t>(count));
  }
  if (auto spaced = root.table("checkpoints")) {
    require(tokens.empty(), "{}: either checkpoint_tokens or [checkpoints], not both", where);
    const int64_t first = spaced->integer("first", 1, kMaxTokens);
    const int64_t last = spaced->integer("last", first, kMaxTokens);
    const int64_t count = spaced->integer("count", 1, 10000);
    spaced->finish();
    tokens = log_spaced(static_cast<uint64_t>(first), static_cast<uint64_t>(last),
                        static_cast<size_t>(count));
  }
  return tokens;
}

}  // namespace

ModelSpec llama_spec(size_t layers, size_t hidden, size_t heads, size_t ffn_size, size_t context,
                     bool tied_head) {
  constexpr size_t kFfnMultiple = 32;
  ModelSpec spec;
  spec.architecture = "llama";
  spec.hidden_size = spec.embedding_size = hidden;
  spec.heads = spec.kv_heads = heads;
  require(heads > 0 && hidden % heads == 0, "{} heads do not divide a hidden size of {}", heads,
          hidden);
  spec.head_size = spec.rotary_size = hidden / heads;
  spec.ffn_size =
      ffn_size != 0 ? ffn_size : (hidden * 8 / 3 + kFfnMultiple - 1) / kFfnMultiple * kFfnMultiple;
  spec.context = context;
  spec.blocks.resize(layers);
  spec.tied_head = tied_head;
  return spec;
}

std::vector<uint64_t> log_spaced(uint64_t first, uint64_t last, size_t count) {
  std::vector<uint64_t> values;
  for (size_t i = 0; i < count; ++i) {
    const double part = count > 1 ? static_cast<double>(i) / static_cast<double>(count - 1) : 1;
    const double value = std::exp(std::log(static_cast<double>(first)) * (1 - part) +
                                  std::log(static_cast<double>(last)) * part);
    values.push_back(static_cast<uint64_t>(std::llround(value)));
  }
  return values;
}

RunEstimate estimate(const TrainingRun& run) {
  const auto total = static_cast<double>(run.spec.total_params());
  const auto tokens = static_cast<double>(run.total_steps() * run.tokens_per_step());
  const auto attention = 6.0 * static_cast<double>(run.spec.blocks.size() * run.spec.heads *
                                                   run.spec.head_size * run.context);
  constexpr uint64_t kCopies = 4;  // weights, gradients, two moments
  return {tokens * (6 * total + attention), kCopies * sizeof(float) * run.spec.total_params()};
}

void Suite::set_vocabulary(size_t size) {
  for (TrainingRun& run : runs) {
    run.spec.vocab_size = size;
    with_context(run.name, [&] { run.spec.validate(); });
  }
}

Suite Suite::read(const std::filesystem::path& path) {
  return parse(read_text_file(path, kMaxSuiteBytes), path);
}

Suite Suite::parse(std::string_view text, const std::filesystem::path& path) {
  const std::string where = path.string();
  const std::filesystem::path base = std::filesystem::absolute(path).parent_path();
  const toml::table parsed = parse_toml(text, where);
  TomlTable root(parsed, where);
  Suite suite;
  suite.title = root.text_or("title", path.stem().string());
  for (const std::string& file : root.texts("text")) {
    suite.texts.push_back((base / file).lexically_normal());
  }
  require(!suite.texts.empty(), "{}: key 'text': at least one text file is needed", where);
  if (auto tokenizer = root.table("tokenizer")) {
    suite.tokenizer.byte_level = tokenizer->choice_or("kind", "byte", {"byte", "bpe"}) == "byte";
    if (!suite.tokenizer.byte_level) {
      suite.tokenizer.vocabulary =
          static_cast<size_t>(tokenizer->integer("vocabulary", 257, 1 << 20));
    }
    tokenizer->finish();
  }

  TrainingRun common;
  common.context = static_cast<size_t>(root.integer_or("context", 256, 1, 1 << 20));
  common.sequences = static_cast<size_t>(root.integer_or("sequences", 32, 1, 1 << 20));
  common.shards = static_cast<size_t>(root.integer_or("shards", 4, 1, 1024));
  common.dtype = root.choice_or("dtype", "f32", {"f32", "bf16"}) == "bf16" ? ops::MatmulDtype::bf16
                                                                           : ops::MatmulDtype::f32;
  common.schedule = read_schedule(root.table("schedule"));
  common.optimizer = read_optimizer(root.table("optimizer"));
  common.checkpoint_tokens = read_checkpoints(root, where);
  std::vector<int64_t> seeds = root.integers("seeds", 0, kMaxTokens);
  if (seeds.empty()) seeds = {0};

  std::set<std::string> names;
  for (TomlTable& model : root.tables("model")) {
    const std::string name = model.text("name");
    require(!name.empty() && name.find('/') == std::string::npos && name[0] != '.',
            "{}: key 'name': '{}' cannot name a directory", model.where(), name);
    TrainingRun run = common;
    run.spec = with_context(model.where(), [&] {
      const auto layers = static_cast<size_t>(model.integer("layers", 1, kMaxLayers));
      const auto hidden = static_cast<size_t>(model.integer("hidden", 2, kMaxWidth));
      const auto heads = static_cast<size_t>(model.integer("heads", 1, kMaxWidth));
      const auto ffn = static_cast<size_t>(model.integer_or("ffn", 0, 0, kMaxWidth * 4));
      return llama_spec(layers, hidden, heads, ffn, run.context,
                        model.boolean_or("tied_head", false));
    });
    run.schedule.peak = model.real("learning_rate", 1e-8, 10);
    run.total_tokens = static_cast<uint64_t>(model.integer("tokens", 1, kMaxTokens));
    run.sequences = static_cast<size_t>(
        model.integer_or("sequences", static_cast<int64_t>(run.sequences), 1, 1 << 20));
    model.finish();
    for (const int64_t seed : seeds) {
      run.seed = static_cast<uint64_t>(seed);
      run.name = seeds.size() == 1 ? name : fmt::format("{}-seed{}", name, seed);
      require(names.insert(run.name).second, "{}: two runs are named '{}'", where, run.name);
      suite.runs.push_back(run);
    }
  }
  require(!suite.runs.empty(), "{}: at least one [[model]] is needed", where);
  root.finish();
  return suite;
}

}  // namespace fewbit
