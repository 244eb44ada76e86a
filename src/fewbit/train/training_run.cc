#include "fewbit/train/training_run.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/progress.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/model/write_checkpoint.h"
#include "fewbit/train/data_order.h"
#include "fewbit/train/gradient_step.h"

namespace fewbit {
namespace {

constexpr const char* kStateName = "state.safetensors";
constexpr const char* kRunName = "run.json";
constexpr const char* kLogName = "log.csv";
constexpr const char* kLogHeader = "step,tokens,learning_rate,loss,gradient_norm\n";
constexpr size_t kMaxRunJsonBytes = 1 << 20;

std::span<const std::byte> tensor_bytes(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

std::vector<size_t> tensor_shape(const at::Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

// Weights and moments of a run, and how many updates they have had.
class State {
 public:
  explicit State(const ModelSpec& spec, uint64_t seed) {
    const auto initial = random_tensors(spec, seed);
    for (const std::string& name : initial->names()) {
      const auto shape = initial->shape(name);
      at::Tensor value = at::empty(std::vector<int64_t>(shape.begin(), shape.end()), at::kFloat);
      initial->load(name, {value.data_ptr<float>(), static_cast<size_t>(value.numel())});
      tensors.push_back(trained_tensor(name, value));
    }
  }

  void save(const std::filesystem::path& path, const std::string& config_hash) const {
    std::vector<TensorToWrite> writes;
    for (const TrainedTensor& tensor : tensors) {
      for (const auto& [prefix, value] : parts(tensor)) {
        writes.push_back(
            {prefix + tensor.name, Dtype::f32, tensor_shape(value), tensor_bytes(value)});
      }
    }
    write_safetensors(path, writes, {{"step", std::to_string(step)}, {"config", config_hash}});
  }

  void load(const std::filesystem::path& path, const std::string& config_hash) {
    const SafetensorsFile file = SafetensorsFile::open(path);
    require(file.metadata("config") == config_hash,
            "{}: the state of a run with another configuration", path.string());
    for (TrainedTensor& tensor : tensors) {
      for (auto& [prefix, value] : parts(tensor)) {
        const TensorView& stored = file.tensor(prefix + tensor.name);
        require(stored.dtype == Dtype::f32 && stored.shape == tensor_shape(value),
                "{}: tensor {} has another shape", path.string(), stored.name);
        std::memcpy(value.data_ptr(), stored.bytes.data(), stored.bytes.size());
      }
    }
    step = std::stoull(file.metadata("step"));
  }

  std::vector<TrainedTensor> tensors;
  uint64_t step = 0;

 private:
  static std::vector<std::pair<std::string, at::Tensor>> parts(const TrainedTensor& tensor) {
    return {{"weight.", tensor.value},
            {"first_moment.", tensor.first_moment},
            {"second_moment.", tensor.second_moment}};
  }
};

// The log up to `steps` updates; what a killed run wrote beyond its state is cut off.
void rewind_log(const std::filesystem::path& path, uint64_t steps) {
  std::string kept = kLogHeader;
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

// Names the first tensor whose gradient is not finite.
[[noreturn]] void fail_not_finite(uint64_t step, double loss,
                                  const std::vector<TrainedTensor>& tensors,
                                  const std::vector<at::Tensor>& gradients) {
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (!at::isfinite(gradients[t]).all().item<bool>()) {
      fail("step {}: the gradient of {} is not finite (loss {}); lower the learning rate", step,
           tensors[t].name, loss);
    }
  }
  fail("step {}: the loss is {}; lower the learning rate", step, loss);
}

void write_checkpoint(const TrainingRun& run, const TrainingText& text, const State& state,
                      const std::filesystem::path& directory) {
  std::vector<std::pair<std::string, MemoryTensorSource::Tensor>> tensors;
  for (const TrainedTensor& tensor : state.tensors) {
    const float* values = tensor.value.data_ptr<float>();
    tensors.push_back(
        {tensor.name, {tensor_shape(tensor.value), {values, values + tensor.value.numel()}}});
  }
  const uint64_t tokens = state.step * run.tokens_per_step();
  WriteOptions options;
  options.replace = true;
  options.training =
      TrainingRecord{.run = run.name,
                     .params = run.spec.non_embedding_params(),
                     .tokens = tokens,
                     .step = state.step,
                     .batch_tokens = run.tokens_per_step(),
                     .learning_rate = learning_rate(
                         run.schedule, state.step > 0 ? state.step - 1 : 0, run.total_steps()),
                     .schedule = std::string(schedule_name(run.schedule.kind)),
                     .seed = run.seed};
  options.texts["tokenizer.json"] = text.tokenizer_json;
  if (!text.tokenizer_config.empty()) {
    options.texts["tokenizer_config.json"] = text.tokenizer_config;
  }
  // Wide enough that names sort by tokens.
  const auto path = directory / "checkpoints" / fmt::format("{:012}", tokens);
  std::filesystem::create_directories(path.parent_path());
  write_hf_checkpoint(path, run.spec, MemoryTensorSource(std::move(tensors)), options);
}

}  // namespace

uint64_t TrainingRun::total_steps() const {
  return (total_tokens + tokens_per_step() - 1) / tokens_per_step();
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
  return {
      {"name", name},
      {"spec", sha256_hex(fmt::format("{}/{}/{}/{}", spec.architecture, spec.non_embedding_params(),
                                      spec.total_params(), spec.heads))},
      {"seed", seed},
      {"context", context},
      {"sequences", sequences},
      {"shards", shards},
      {"dtype", dtype == ops::MatmulDtype::bf16 ? "bf16" : "f32"},
      {"schedule", schedule_name(schedule.kind)},
      {"peak", schedule.peak},
      {"warmup_steps", schedule.warmup_steps},
      {"floor_fraction", schedule.floor_fraction},
      {"decay_fraction", schedule.decay_fraction},
      {"beta1", optimizer.beta1},
      {"beta2", optimizer.beta2},
      {"epsilon", optimizer.epsilon},
      {"weight_decay", optimizer.weight_decay},
      {"clip_norm", optimizer.clip_norm},
      {"total_tokens", total_tokens},
      {"checkpoint_tokens", checkpoint_tokens}};
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

  State state(run.spec, run.seed);
  const auto state_path = directory / kStateName;
  if (std::filesystem::exists(state_path)) state.load(state_path, config_hash);
  rewind_log(directory / kLogName, state.step);

  const Decoder decoder(run.spec, nullptr);
  DataOrder data(text.tokens, run.context, run.sequences, run.seed);
  GradientStep gradient_step(decoder, {run.shards, run.dtype}, state.tensors);
  const uint64_t total = run.total_steps();
  const std::vector<uint64_t> checkpoints = run.checkpoint_steps();
  const uint64_t tail = std::max<uint64_t>(1, total / 10);
  std::ofstream log(directory / kLogName, std::ios::app);
  Stopwatch since_state;
  while (state.step < total) {
    if (interrupted()) {
      log.flush();
      state.save(state_path, config_hash);
      throw Interrupted();
    }
    const uint64_t step = state.step;
    const double loss = gradient_step.run(data.batch(step));
    const double norm = gradient_step.norm();
    if (!std::isfinite(loss) || !std::isfinite(norm)) {
      fail_not_finite(step, loss, state.tensors, gradient_step.gradients());
    }
    const double rate = learning_rate(run.schedule, step, total);
    adamw_step(state.tensors, gradient_step.gradients(), norm, rate, step, run.optimizer);
    ++state.step;
    log << fmt::format("{},{},{:.6e},{:.6f},{:.6f}\n", state.step,
                       state.step * run.tokens_per_step(), rate, loss, norm);
    if (std::binary_search(checkpoints.begin(), checkpoints.end(), state.step)) {
      write_checkpoint(run, text, state, directory);
    }
    if (state.step < total && since_state.seconds() > options.state_interval_seconds) {
      log.flush();
      state.save(state_path, config_hash);
      since_state = Stopwatch();
    }
    if (options.on_step) options.on_step(state.step, loss);
  }
  log.close();

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
