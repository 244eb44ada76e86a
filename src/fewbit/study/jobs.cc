#include "fewbit/study/jobs.h"

#include <ATen/Parallel.h>

#include <mutex>

#include "fewbit/base/error.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/threads.h"
#include "fewbit/base/version.h"
#include "fewbit/calibrate/quantize_model.h"
#include "fewbit/eval/perplexity.h"
#include "fewbit/eval/text_tokens.h"
#include "fewbit/methods/registry.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/model/model_text.h"
#include "fewbit/network/torch_language_model.h"
#include "fewbit/train/activation_sites.h"

namespace fewbit {
namespace {

// Longest window when neither the study nor the model says one.
constexpr size_t kDefaultContext = 2048;

// Token streams of the texts of a study: tokenized once per tokenizer, shared by all workers.
class TokenCache {
 public:
  std::shared_ptr<const std::vector<int32_t>> tokens(const Checkpoint& checkpoint,
                                                     const std::string& path,
                                                     const std::string& text_form) {
    const Tokenizer tokenizer = load_tokenizer(checkpoint);
    const std::string key = tokenizer.fingerprint() + "\n" + text_form + "\n" + path;
    std::lock_guard lock(mutex_);
    auto& entry = entries_[key];
    if (!entry) {
      entry =
          std::make_shared<const std::vector<int32_t>>(tokenize_text(tokenizer, path, text_form));
    }
    return entry;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const std::vector<int32_t>>> entries_;
};

TokenCache& token_cache() {
  static TokenCache cache;
  return cache;
}

TorchLanguageModel language_model(const Checkpoint& checkpoint) {
  TorchLanguageModel model(std::make_shared<Decoder>(checkpoint.spec, checkpoint.tensors));
  model.set_hooks(activation_hooks(checkpoint.activations));
  return model;
}

// The windows of a dataset for this checkpoint.
WindowPlan windows(const Checkpoint& checkpoint, const Json& dataset,
                   const std::vector<int32_t>& tokens) {
  WindowOptions options;
  options.rule = parse_window_rule(json_get<std::string>(dataset, "rule"));
  options.context = json_get<size_t>(dataset, "context");
  if (options.context == 0) options.context = std::min(checkpoint.spec.context, kDefaultContext);
  options.stride = json_get<size_t>(dataset, "stride");
  options.max_windows = json_get<size_t>(dataset, "max_windows");
  options.bos = checkpoint.spec.bos_token;
  return WindowPlan(tokens, options);
}

EvaluationOptions evaluation_options(const WindowPlan& plan, const Checkpoint& checkpoint,
                                     size_t batch_tokens) {
  EvaluationOptions options;
  options.batch = std::max<size_t>(1, batch_tokens / plan.longest_input());
  options.vocabulary = load_tokenizer(checkpoint).vocabulary_size();
  return options;
}

// What every row carries so that it can be run again.
Json provenance(const Job& job) {
  Json row = job.spec;
  row["job"] = job.key;
  row["fewbit_version"] = kVersion;
  row["threads"] = thread_count();
  return row;
}

void add_cost(Json& row, const Stopwatch& clock) {
  row["wall_seconds"] = clock.seconds();
  row["peak_bytes"] = peak_resident_bytes();
}

LossResult loss_result(const JobResult& stored) {
  LossResult result;
  result.window_nll = stored.losses;
  result.window_tokens = stored.counts;
  return result;
}

JobResult run_reference(const Job& job, size_t batch_tokens) {
  const Stopwatch clock;
  const Checkpoint checkpoint = open_checkpoint(json_get<std::string>(job.spec, "checkpoint"));
  const Json dataset = json_get<Json>(job.spec, "dataset");
  const auto tokens = token_cache().tokens(checkpoint, json_get<std::string>(dataset, "path"),
                                           json_get<std::string>(dataset, "text_form"));
  const WindowPlan plan = windows(checkpoint, dataset, *tokens);
  TorchLanguageModel model = language_model(checkpoint);
  const LossResult loss =
      evaluate_model(model, plan, evaluation_options(plan, checkpoint, batch_tokens));
  Json row = provenance(job);
  row["protocol"] = to_json(protocol_of(plan, json_get<std::string>(dataset, "text_form")));
  row["loss16"] = loss.loss().value;
  row["loss16_se"] = loss.loss().standard_error;
  row["vocab_size"] = load_tokenizer(checkpoint).vocabulary_size();
  row["model_bytes"] = checkpoint.tensor_bytes;
  add_cost(row, clock);
  return {std::move(row), loss.window_nll, loss.window_tokens};
}

CalibrationSet calibration_set(const Checkpoint& checkpoint, const Json& spec) {
  CalibrationSet set;
  if (!spec.contains("calibration")) return set;
  const Json calibration = json_get<Json>(spec, "calibration");
  const auto tokens =
      token_cache().tokens(checkpoint, json_get<std::string>(calibration, "path"), "file");
  size_t length = json_get<size_t>(calibration, "length");
  if (length == 0) length = std::min(checkpoint.spec.context, kDefaultContext);
  set.tokens = sample_windows(*tokens, json_get<size_t>(calibration, "sequences"), length,
                              json_get<uint64_t>(spec, "seed"));
  return set;
}

JobResult run_quantize(const Job& job, const StudyStore& store) {
  const Stopwatch clock;
  const Checkpoint checkpoint = open_checkpoint(json_get<std::string>(job.spec, "checkpoint"));
  const Recipe recipe = Recipe::parse(json_get<std::string>(job.spec, "recipe_text"));
  const auto passes = build_passes(recipe, methods(), checkpoint.spec);
  const QuantizedModel model = quantize_model(
      checkpoint, passes, calibration_set(checkpoint, job.spec), {.show_progress = false});
  const auto directory = model_directory(store, job.key);
  std::filesystem::create_directories(directory.parent_path());
  write_quantized_model(directory, /*replace=*/true, checkpoint, model,
                        {{"recipe", recipe.text()}, {"report", to_json(model)}});
  Json row = provenance(job);
  row["bpw"] = model.bits_per_weight();
  row["quantized_weights"] = model.quantized_weights();
  row["model_bytes"] = open_checkpoint(directory).tensor_bytes;
  add_cost(row, clock);
  return {std::move(row), {}, {}};
}

JobResult run_measure(const Job& job, const StudyStore& store, size_t batch_tokens) {
  const Stopwatch clock;
  const Json dataset = json_get<Json>(job.spec, "dataset");
  const std::string model_key = json_get<std::string>(job.spec, "model");
  const auto quantized_row = store.result(model_key);
  const auto reference_row = store.result(json_get<std::string>(job.spec, "reference"));
  require(quantized_row && reference_row, "the results that this job needs are not in the store");
  const Checkpoint checkpoint = open_checkpoint(model_directory(store, model_key));
  const auto tokens = token_cache().tokens(checkpoint, json_get<std::string>(dataset, "path"),
                                           json_get<std::string>(dataset, "text_form"));
  const WindowPlan plan = windows(checkpoint, dataset, *tokens);
  const EvaluationOptions options = evaluation_options(plan, checkpoint, batch_tokens);
  TorchLanguageModel model = language_model(checkpoint);

  Json row = provenance(job);
  LossResult loss;
  if (json_get<bool>(job.spec, "divergence")) {
    const Checkpoint original = open_checkpoint(json_get<std::string>(job.spec, "checkpoint"));
    TorchLanguageModel reference = language_model(original);
    const ModelComparison comparison = compare_models(reference, model, plan, options);
    row["kl"] = comparison.mean_kld().value;
    row["kl_se"] = comparison.mean_kld().standard_error;
    row["top1_agreement"] = comparison.distance().same_top.value;
    loss = comparison.quantized;
  } else {
    loss = evaluate_model(model, plan, options);
  }
  const Estimate qid = paired_qid(loss, loss_result(*reference_row));
  row["loss16"] = reference_row->result.at("loss16");
  row["loss16_se"] = reference_row->result.at("loss16_se");
  row["protocol"] = reference_row->result.at("protocol");
  row["vocab_size"] = reference_row->result.at("vocab_size");
  row["loss"] = loss.loss().value;
  row["loss_se"] = loss.loss().standard_error;
  row["perplexity"] = loss.perplexity().value;
  row["qid"] = qid.value;
  row["qid_se"] = qid.standard_error;
  row["bpw"] = quantized_row->result.at("bpw");
  row["model_bytes"] = quantized_row->result.at("model_bytes");
  row["quantize_seconds"] = quantized_row->result.at("wall_seconds");
  add_cost(row, clock);
  return {std::move(row), loss.window_nll, loss.window_tokens};
}

}  // namespace

std::filesystem::path model_directory(const StudyStore& store, const std::string& quantize_key) {
  // Half of the hash tells models apart and keeps paths short.
  return store.directory() / "models" / quantize_key.substr(0, 32);
}

JobResult run_job(const Job& job, const StudyStore& store, size_t batch_tokens) {
  at::NoGradGuard no_grad;
  switch (job.kind) {
    case JobKind::reference:
      return run_reference(job, batch_tokens);
    case JobKind::quantize:
      return run_quantize(job, store);
    case JobKind::measure:
      return run_measure(job, store, batch_tokens);
  }
  throw std::logic_error("an unknown job kind");
}

}  // namespace fewbit
