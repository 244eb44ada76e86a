#include "fewbit/train/suite.h"

#include <cmath>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/toml.h"
#include "fewbit/model/checkpoint.h"

namespace fewbit {
namespace {

constexpr size_t kMaxSuiteBytes = 1 << 20;
// Larger than anything that trains on one machine; keeps products of sizes far from overflow.
constexpr int64_t kMaxWidth = 1 << 16, kMaxLayers = 1024, kMaxTokens = int64_t{1} << 50;

Schedule read_schedule(std::optional<TomlTable> table, Schedule schedule = {}) {
  if (!table) return schedule;
  schedule.kind = parse_schedule(
      table->choice_or("kind", std::string(schedule_name(schedule.kind)), schedule_names()));
  schedule.warmup_steps = static_cast<uint64_t>(table->integer_or(
      "warmup_steps", static_cast<int64_t>(schedule.warmup_steps), 0, kMaxTokens));
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

// What the models of a suite have in common under quantizers; each may say otherwise.
struct TrainingDefaults {
  std::optional<uint64_t> tokens;
  double qat_share = 1, quantizer_rate = 1;
  std::optional<double> qat_weight_decay;
  bool scales_only = false;
};

TrainingDefaults read_training(std::optional<TomlTable> table, TrainingRun& common) {
  TrainingDefaults defaults;
  if (!table) return defaults;
  if (table->contains("tokens")) {
    defaults.tokens = static_cast<uint64_t>(table->integer("tokens", 1, kMaxTokens));
  }
  defaults.qat_share = table->real_or("qat_share", defaults.qat_share, 0, 1);
  defaults.quantizer_rate = table->real_or("quantizer_rate", defaults.quantizer_rate, 0, 1e6);
  if (table->contains("qat_weight_decay")) {
    defaults.qat_weight_decay = table->real("qat_weight_decay", 0, 10);
  }
  defaults.scales_only = table->choice_or("trained", "all", {"all", "scales"}) == "scales";
  common.pass_tokens = static_cast<size_t>(
      table->integer_or("pass_tokens", static_cast<int64_t>(common.pass_tokens), 1, kMaxTokens));
  table->finish();
  return defaults;
}

std::optional<DistillationPlan> read_distillation(std::optional<TomlTable> table,
                                                  const std::filesystem::path& base) {
  if (!table) return std::nullopt;
  DistillationPlan plan;
  const std::string teacher = table->text_or("teacher", "self");
  if (teacher != "self") {
    plan.teacher = (base / teacher).lexically_normal();
    plan.teacher_hash = open_checkpoint(plan.teacher).hash;
  }
  const bool reverse =
      table->choice_or("divergence", "forward", {"forward", "reverse"}) == "reverse";
  plan.options.divergence = reverse ? ops::Divergence::reverse : ops::Divergence::forward;
  plan.options.temperature = table->real_or("temperature", 1, 1e-3, 1e3);
  plan.options.cross_entropy_share = table->real_or("cross_entropy_share", 0, 0, 1);
  plan.hidden_weight = table->real_or("hidden_weight", 0, 0, 1e6);
  table->finish();
  return plan;
}

std::optional<SpikePolicy> read_spikes(std::optional<TomlTable> table) {
  if (!table) return std::nullopt;
  SpikePolicy policy;
  const auto count = [&](const char* key, size_t fallback, int64_t least) {
    return static_cast<size_t>(
        table->integer_or(key, static_cast<int64_t>(fallback), least, 1000000));
  };
  policy.norm_factor = table->real_or("norm_factor", policy.norm_factor, 1, 1e6);
  policy.loss_rise = table->real_or("loss_rise", policy.loss_rise, 0, 1e6);
  policy.window = count("window", policy.window, 1);
  policy.patience = count("patience", policy.patience, 0);
  policy.rate_factor = table->real_or("rate_factor", policy.rate_factor, 1e-3, 1);
  policy.most_returns = count("most_returns", policy.most_returns, 0);
  policy.save_steps = count("save_steps", policy.save_steps, 1);
  table->finish();
  return policy;
}

std::optional<BlockPhase> read_block_phase(std::optional<TomlTable> table) {
  if (!table) return std::nullopt;
  BlockPhase phase;
  const auto count = [&](const char* key, size_t fallback) {
    return static_cast<size_t>(table->integer_or(key, static_cast<int64_t>(fallback), 1, 1 << 20));
  };
  phase.sequences = count("sequences", phase.sequences);
  phase.batch = count("batch", phase.batch);
  phase.epochs = count("epochs", phase.epochs);
  phase.rate = table->real_or("learning_rate", phase.rate, 1e-10, 10);
  phase.weight_rate = table->real_or("weight_learning_rate", phase.weight_rate, 0, 10);
  table->finish();
  return phase;
}

std::optional<ZerothOrder> read_zeroth_order(std::optional<TomlTable> table) {
  if (!table) return std::nullopt;
  ZerothOrder options;
  options.epsilon = table->real_or("epsilon", options.epsilon, 1e-8, 1);
  options.directions = static_cast<size_t>(table->integer_or("directions", 1, 1, 1024));
  options.trained = LayerSelection(table->text_or("layers", options.trained.text()));
  table->finish();
  return options;
}

// Whether a model follows a table that all of the suite's may follow.
template <class Plan>
void read_opt_out(TomlTable& model, const char* key, const char* table, std::optional<Plan>& plan) {
  const bool wanted = model.boolean_or(key, plan.has_value());
  require(!wanted || plan, "key '{}': there is no [{}] to follow", key, table);
  if (!wanted) plan.reset();
}

// Sizes of a new model, or the checkpoint that the run starts from.
void read_start(TomlTable& model, const std::filesystem::path& base, TrainingRun& run) {
  if (model.contains("init")) {
    run.init = (base / model.text("init")).lexically_normal();
    const Checkpoint start = open_checkpoint(run.init);
    run.init_hash = start.hash;
    run.spec = start.spec;
    require(start.activations.is_null(), "{}: its activations are quantized already",
            run.init.string());
    return;
  }
  const auto layers = static_cast<size_t>(model.integer("layers", 1, kMaxLayers));
  const auto hidden = static_cast<size_t>(model.integer("hidden", 2, kMaxWidth));
  const auto heads = static_cast<size_t>(model.integer("heads", 1, kMaxWidth));
  const auto ffn = static_cast<size_t>(model.integer_or("ffn", 0, 0, kMaxWidth * 4));
  run.spec =
      llama_spec(layers, hidden, heads, ffn, run.context, model.boolean_or("tied_head", false));
}

// After the learning rate and the start are known.
void read_quantizers(TomlTable& model, const TrainingDefaults& defaults, TrainingRun& run) {
  // Of the rate of full precision: what is left to learn after it is small.
  constexpr double kRateAfterFloat = 0.3;
  const std::string line = model.text_or("quantizer", "");
  const std::string activations = model.text_or("activations", "");
  run.qat_share = model.real_or("qat_share", defaults.qat_share, 0, 1);
  const bool from_scratch = run.qat_share == 1 && run.init.empty();
  run.qat_schedule.peak = model.real_or(
      "qat_learning_rate", run.schedule.peak * (run.qat_share < 1 ? kRateAfterFloat : 1), 1e-8, 10);
  run.quantizers.rate_factor = model.real_or("quantizer_rate", defaults.quantizer_rate, 0, 1e6);
  run.qat_weight_decay = model.real_or(
      "qat_weight_decay",
      defaults.qat_weight_decay.value_or(from_scratch ? run.optimizer.weight_decay : 0), 0, 10);
  read_opt_out(model, "distill", "distillation", run.distillation);
  read_opt_out(model, "train_blocks", "block_training", run.block_phase);
  read_opt_out(model, "forward_only", "zeroth_order", run.zeroth_order);
  run.quantizers.scales_only = model.choice_or("trained", defaults.scales_only ? "scales" : "all",
                                               {"all", "scales"}) == "scales";
  require(!run.zeroth_order || !run.distillation,
          "[zeroth_order] does not learn from a teacher; set distill or forward_only to false");
  if (line.empty()) {
    require(activations.empty(), "key 'activations': needs a 'quantizer' too");
    run.distillation.reset();
    run.block_phase.reset();
    return;
  }
  require(run.qat_share > 0, "key 'qat_share': 0 leaves nothing to the quantizer");
  run.quantizers.plan = with_context("key 'quantizer'", [&] { return QuantizerPlan::parse(line); });
  // A from-scratch model has no vocabulary yet, which makes no difference to its layers.
  with_context("key 'quantizer'", [&] { (void)run.quantizers.plan.layers(run.spec); });
  require(!run.distillation || !run.distillation->teacher.empty() || !from_scratch,
          "[distillation] teacher = \"self\" needs a part of the run before the quantizers start "
          "(qat_share below 1), or 'init'");
  require(!run.quantizers.scales_only || !run.zeroth_order,
          "[zeroth_order] moves weights; it does not go with trained = \"scales\"");
  run.quantizers.activations = activations;
  if (!activations.empty()) {
    with_context("key 'activations'", [&] { (void)ActivationSites(activations, {"site"}); });
  }
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

void Suite::set_vocabulary(size_t size) {
  for (TrainingRun& run : runs) {
    if (!run.init.empty()) continue;
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
  common.qat_schedule = read_schedule(root.table("qat_schedule"), common.schedule);
  common.optimizer = read_optimizer(root.table("optimizer"));
  common.checkpoint_tokens = read_checkpoints(root, where);
  const TrainingDefaults defaults = read_training(root.table("training"), common);
  common.block_phase = read_block_phase(root.table("block_training"));
  common.zeroth_order = read_zeroth_order(root.table("zeroth_order"));
  common.spikes = read_spikes(root.table("spikes"));
  common.distillation = read_distillation(root.table("distillation"), base);
  std::vector<int64_t> seeds = root.integers("seeds", 0, kMaxTokens);
  if (seeds.empty()) seeds = {0};

  std::set<std::string> names;
  for (TomlTable& model : root.tables("model")) {
    const std::string name = model.text("name");
    require(!name.empty() && name.find('/') == std::string::npos && name[0] != '.',
            "{}: key 'name': '{}' cannot name a directory", model.where(), name);
    TrainingRun run = common;
    with_context(model.where(), [&] { read_start(model, base, run); });
    run.schedule.peak = model.real("learning_rate", 1e-8, 10);
    run.total_tokens = defaults.tokens && !model.contains("tokens")
                           ? *defaults.tokens
                           : static_cast<uint64_t>(model.integer("tokens", 1, kMaxTokens));
    with_context(model.where(), [&] { read_quantizers(model, defaults, run); });
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
