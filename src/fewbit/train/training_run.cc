#include "fewbit/train/training_run.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/log.h"
#include "fewbit/base/progress.h"
#include "fewbit/model/write_checkpoint.h"
#include "fewbit/train/trainer.h"

namespace fewbit {
namespace {

constexpr const char* kStateName = "state.safetensors";
constexpr const char* kRunName = "run.json";
constexpr const char* kLogName = "log.csv";
constexpr const char* kLogHeader = "step,tokens,learning_rate,loss,gradient_norm\n";
constexpr const char* kSlopesName = "slopes.csv";
constexpr const char* kSlopesHeader = "step,learning_rate,slopes\n";
constexpr size_t kMaxRunJsonBytes = 1 << 20;

// The log up to `steps` updates; what a killed run wrote beyond its state is cut off.
void rewind_log(const std::filesystem::path& path, const char* header, uint64_t steps) {
  std::string kept = header;
  if (std::filesystem::exists(path)) {
    std::ifstream old(path);
    std::string line;
    std::getline(old, line);
    while (std::getline(old, line)) {
      uint64_t step = 0;
      const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), step);
      if (error != std::errc() || *end != ',' || step > steps) break;
      kept += line + "\n";
    }
  }
  write_file_atomically(path, kept);
}

void write_checkpoint(const TrainingRun& run, const TrainingText& text, const TrainingState& state,
                      const std::filesystem::path& directory) {
  const uint64_t tokens = state.step * run.tokens_per_step();
  const uint64_t last_step = state.step > 0 ? state.step - 1 : 0;
  const Schedule& schedule = state.quantized() ? run.qat_schedule : run.schedule;
  TrainingRecord record{.run = run.name,
                        .params = run.spec.non_embedding_params(),
                        .tokens = tokens,
                        .step = state.step,
                        .batch_tokens = run.tokens_per_step(),
                        .learning_rate = run.rate_of(last_step),
                        .schedule = std::string(schedule_name(schedule.kind)),
                        .seed = run.seed};
  if (!run.init.empty()) record.start = run.init_hash;
  WriteOptions options;
  options.replace = true;
  options.texts = text.files;
  // Wide enough that names sort by tokens.
  const auto path = directory / "checkpoints" / fmt::format("{:012}", tokens);
  std::filesystem::create_directories(path.parent_path());
  const std::shared_ptr<TensorSource> weights = state.snapshot();
  if (state.quantized()) {
    record.quantizer = run.quantizers.plan.text();
    record.bits = run.quantizers.plan.mean_bits(run.spec);
    record.quantized_tokens = (state.step - run.float_steps()) * run.tokens_per_step();
    if (!state.quantizers.sites.empty()) options.activations = state.quantizers.sites.to_json();
  }
  options.training = record;
  // A family's config.json may not be able to state a model that came from elsewhere.
  if (state.quantized() || !run.init.empty()) {
    options.dtype = WriteDtype::exact;
    write_fewbit_checkpoint(path, run.spec, *weights, state.quantizers.bake(), options);
  } else {
    write_hf_checkpoint(path, run.spec, *weights, options);
  }
}

}  // namespace

uint64_t TrainingRun::total_steps() const {
  return (total_tokens + tokens_per_step() - 1) / tokens_per_step();
}

uint64_t TrainingRun::float_steps() const {
  const uint64_t total = total_steps();
  if (quantizers.plan.empty()) return total;
  const auto quantized =
      static_cast<uint64_t>(std::llround(qat_share * static_cast<double>(total)));
  return total - std::clamp<uint64_t>(quantized, std::min<uint64_t>(1, total), total);
}

double TrainingRun::rate_of(uint64_t step) const {
  const uint64_t before = float_steps();
  return step < before ? learning_rate(schedule, step, before)
                       : learning_rate(qat_schedule, step - before, total_steps() - before);
}

std::vector<uint64_t> TrainingRun::checkpoint_steps() const {
  std::set<uint64_t> steps = {total_steps()};
  for (const uint64_t tokens : checkpoint_tokens) {
    const uint64_t step = (tokens + tokens_per_step() - 1) / tokens_per_step();
    if (step <= total_steps()) steps.insert(step);
  }
  return {steps.begin(), steps.end()};
}

Json TrainingRun::config() const {
  const auto describe = [](const Schedule& plan) {
    return Json{{"kind", schedule_name(plan.kind)},
                {"peak", plan.peak},
                {"warmup_steps", plan.warmup_steps},
                {"floor_fraction", plan.floor_fraction},
                {"decay_fraction", plan.decay_fraction}};
  };
  Json config = {
      {"name", name},
      {"spec", sha256_hex(fmt::format("{}/{}/{}/{}", spec.architecture, spec.non_embedding_params(),
                                      spec.total_params(), spec.heads))},
      {"seed", seed},
      {"context", context},
      {"sequences", sequences},
      {"shards", shards},
      {"pass_tokens", pass_tokens},
      {"dtype", dtype == ops::MatmulDtype::bf16 ? "bf16" : "f32"},
      {"schedule", describe(schedule)},
      {"beta1", optimizer.beta1},
      {"beta2", optimizer.beta2},
      {"epsilon", optimizer.epsilon},
      {"weight_decay", optimizer.weight_decay},
      {"clip_norm", optimizer.clip_norm},
      {"total_tokens", total_tokens},
      {"checkpoint_tokens", checkpoint_tokens}};
  if (!init.empty()) config["init"] = init_hash;
  if (zeroth_order) {
    config["zeroth_order"] = {{"epsilon", zeroth_order->epsilon},
                              {"directions", zeroth_order->directions},
                              {"trained", zeroth_order->trained.text()}};
  }
  if (spikes) {
    config["spikes"] = {
        {"norm_factor", spikes->norm_factor}, {"loss_rise", spikes->loss_rise},
        {"window", spikes->window},           {"patience", spikes->patience},
        {"rate_factor", spikes->rate_factor}, {"most_returns", spikes->most_returns},
        {"save_steps", spikes->save_steps}};
  }
  if (!quantizers.plan.empty()) {
    config["quantizer"] = quantizers.plan.text();
    config["activations"] = quantizers.activations;
    config["quantizer_rate"] = quantizers.rate_factor;
    config["qat_share"] = qat_share;
    config["qat_schedule"] = describe(qat_schedule);
    config["qat_weight_decay"] = qat_weight_decay;
    config["scales_only"] = quantizers.scales_only;
    if (block_phase) {
      config["block_training"] = {{"sequences", block_phase->sequences},
                                  {"batch", block_phase->batch},
                                  {"epochs", block_phase->epochs},
                                  {"learning_rate", block_phase->rate},
                                  {"weight_learning_rate", block_phase->weight_rate}};
    }
    if (distillation) {
      const auto& [teacher, hash, options, hidden_weight] = *distillation;
      config["distillation"] = {{"teacher", hash},
                                {"reverse", options.divergence == ops::Divergence::reverse},
                                {"temperature", options.temperature},
                                {"cross_entropy_share", options.cross_entropy_share},
                                {"hidden_weight", hidden_weight}};
    }
  }
  return config;
}

TrainingOutcome train(const TrainingRun& run, const TrainingText& text,
                      const std::filesystem::path& directory, const TrainingOptions& options) {
  Json config = run.config();
  config["text"] = text.hash;
  const std::string config_hash = sha256_hex(config.dump());
  std::filesystem::create_directories(directory);
  const auto run_path = directory / kRunName;
  if (std::filesystem::exists(run_path)) {
    const Json earlier = parse_json(read_text_file(run_path, kMaxRunJsonBytes), run_path.string());
    require(json_get<std::string>(earlier, "config_hash") == config_hash,
            "{}: holds a run with another configuration or text; name another output directory, "
            "or remove it",
            directory.string());
    if (json_get_or<bool>(earlier, "finished", false)) {
      return {true, run.total_steps(), json_get<double>(earlier, "last_loss")};
    }
  } else {
    write_file_atomically(run_path,
                          Json{{"config", config}, {"config_hash", config_hash}}.dump(1) + "\n");
  }

  Trainer trainer(run, text.tokens);
  const TrainingState& state = trainer.state();
  const auto state_path = directory / kStateName;
  if (std::filesystem::exists(state_path)) trainer.load(state_path, config_hash);
  std::ofstream log, slopes;
  const auto open_logs = [&] {
    log = {};
    rewind_log(directory / kLogName, kLogHeader, state.step);
    log.open(directory / kLogName, std::ios::app);
    if (!run.zeroth_order) return;
    slopes = {};
    rewind_log(directory / kSlopesName, kSlopesHeader, state.step);
    slopes.open(directory / kSlopesName, std::ios::app);
  };
  open_logs();

  const uint64_t total = run.total_steps();
  const std::vector<uint64_t> checkpoints = run.checkpoint_steps();
  const uint64_t tail = std::max<uint64_t>(1, total / 10);
  const auto save = [&] {
    log.flush();
    slopes.flush();
    trainer.save(state_path, config_hash);
  };
  if (run.spikes && !std::filesystem::exists(state_path)) save();
  Stopwatch since_state;
  while (state.step < total) {
    if (interrupted()) {
      if (!run.spikes) save();
      throw Interrupted();
    }
    const Update update = trainer.update();
    if (update.verdict == SpikeGuard::Verdict::skip) {
      warn("{}: step {}: loss {:.4f}, gradient norm {:.4g}: a spike, skipped", run.name, state.step,
           update.loss, update.norm);
      continue;
    }
    if (update.verdict == SpikeGuard::Verdict::go_back) {
      const uint64_t spiked = state.step;
      trainer.go_back(state_path, config_hash);
      open_logs();
      save();
      warn("{}: step {}: spikes go on; back to step {} at {:.3g} of the learning rate", run.name,
           spiked, state.step, state.spikes.rate_scale());
      continue;
    }
    log << fmt::format("{},{},{:.6e},{:.6f},{:.6f}\n", state.step,
                       state.step * run.tokens_per_step(), update.rate, update.loss, update.norm);
    if (run.zeroth_order) {
      slopes << fmt::format("{},{},{}\n", state.step, update.rate, fmt::join(update.slopes, " "));
    }
    if (std::binary_search(checkpoints.begin(), checkpoints.end(), state.step)) {
      write_checkpoint(run, text, state, directory);
    }
    const bool due = run.spikes ? state.step % run.spikes->save_steps == 0
                                : since_state.seconds() > options.state_interval_seconds;
    if (state.step < total && due) {
      save();
      since_state = Stopwatch();
    }
    if (options.on_step) options.on_step(state.step, update.loss);
  }
  log.close();
  slopes.close();

  // The log holds every loss, also those of the runs before a kill.
  std::ifstream losses(directory / kLogName);
  std::string line;
  std::getline(losses, line);
  double sum = 0;
  uint64_t count = 0;
  while (std::getline(losses, line)) {
    uint64_t step = 0;
    double loss = 0;
    if (std::sscanf(line.c_str(), "%lu,%*[^,],%*[^,],%lf", &step, &loss) == 2 &&
        step > total - tail) {
      sum += loss;
      ++count;
    }
  }
  const double last_loss = count > 0 ? sum / static_cast<double>(count) : 0;
  write_file_atomically(run_path, Json{{"config", config},
                                       {"config_hash", config_hash},
                                       {"finished", true},
                                       {"last_loss", last_loss}}
                                          .dump(1) +
                                      "\n");
  std::filesystem::remove(state_path);
  return {false, total, last_loss};
}

}  // namespace fewbit
