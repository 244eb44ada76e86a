// fewbit eval: loss, perplexity, QiD and divergence of a model on text.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/options.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/threads.h"
#include "fewbit/base/version.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/eval/perplexity.h"
#include "fewbit/eval/sampled_tokens.h"
#include "fewbit/eval/text_tokens.h"
#include "fewbit/eval/token_file.h"
#include "fewbit/eval/wikitext.h"
#include "fewbit/model/model_text.h"
#include "fewbit/network/torch_language_model.h"
#include "fewbit/runtime/packed_language_model.h"
#include "fewbit/text/corpus.h"
#include "fewbit/train/activation_sites.h"

namespace fewbit::cli {
namespace {

constexpr size_t kDefaultContext = 2048;
constexpr double kMiB = 1 << 20;

struct EvalArguments {
  std::string model, reference;
  std::string data, text_form = "file", tokens, save_tokens, save_base, kl_base, output;
  std::string rule, device = "cpu", engine = "torch", activations = "int8";
  size_t sample = 0, context = 0, stride = 0, batch = 0, max_windows = 0, threads = 0;
  int64_t bos = -1;
  uint64_t seed = 0;
  double temperature = 1;
  bool json = false, streamed = false;
};

// A model ready to run, and what the report says of it.
struct OpenModel {
  Checkpoint checkpoint;
  std::optional<Tokenizer> tokenizer;
  std::unique_ptr<LanguageModel> model;
};

at::Device device_of(const std::string& name) {
  try {
    return at::Device(name);
  } catch (const c10::Error&) {
    fail("device '{}' is not known: cpu, cuda or cuda:N", name);
  }
}

OpenModel open_model(const std::string& path, const EvalArguments& arguments) {
  OpenModel open;
  open.checkpoint = open_checkpoint(path);
  if (!open.checkpoint.tokenizer.empty()) open.tokenizer = load_tokenizer(open.checkpoint);
  if (arguments.engine == "packed") {
    PackedModelOptions options;
    options.activations = arguments.activations == "f32" ? Activations::f32 : Activations::int8;
    open.model = std::make_unique<PackedLanguageModel>(
        std::make_shared<PackedModel>(open.checkpoint, options));
    return open;
  }
  const auto residency = arguments.streamed ? TorchLanguageModel::Residency::streamed
                                            : TorchLanguageModel::Residency::resident;
  auto model = std::make_unique<TorchLanguageModel>(
      std::make_shared<Decoder>(open.checkpoint.spec, open.checkpoint.tensors,
                                device_of(arguments.device)),
      residency);
  model->set_hooks(activation_hooks(open.checkpoint.activations));
  open.model = std::move(model);
  return open;
}

// Stored bits of the linears that methods quantize, over their weights.
double bits_per_weight(const Checkpoint& checkpoint) {
  uint64_t bytes = 0, weights = 0;
  for (const std::string& layer : quantizable_linears(checkpoint.spec)) {
    const TensorInfo info = checkpoint.tensors->info(layer + ".weight");
    bytes += info.stored_bytes;
    weights += info.elements();
  }
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

Json describe(const OpenModel& open) {
  const Checkpoint& c = open.checkpoint;
  return {{"path", c.path.string()},
          {"hash", c.hash},
          {"kind", checkpoint_kind_name(c.kind)},
          {"architecture", c.spec.architecture},
          {"params", c.spec.total_params()},
          {"non_embedding_params", c.spec.non_embedding_params()},
          {"bits_per_weight", bits_per_weight(c)},
          {"tensor_bytes", c.tensor_bytes},
          {"tokenizer", open.tokenizer ? Json(open.tokenizer->fingerprint()) : Json(nullptr)}};
}

// What is evaluated, whatever it comes from.
struct Input {
  TokenizedText text;
  std::string form;
  Json source;
};

WindowOptions window_options(const OpenModel& open, const EvalArguments& arguments, bool own_text) {
  WindowOptions options;
  options.context = arguments.context > 0 ? arguments.context
                                          : std::min(open.checkpoint.spec.context, kDefaultContext);
  options.stride = arguments.stride;
  options.max_windows = arguments.max_windows;
  options.bos = arguments.bos >= 0
                    ? static_cast<int32_t>(arguments.bos)
                    : prefix_token(open.checkpoint, open.tokenizer ? &*open.tokenizer : nullptr);
  if (!arguments.rule.empty()) {
    options.rule = parse_window_rule(arguments.rule);
  } else if (arguments.text_form == "articles") {
    options.rule = WindowRule::rolling_prefix;
  } else {
    const bool adds_bos = open.tokenizer && !open.tokenizer->prefix().empty();
    options.rule = own_text || adds_bos ? WindowRule::window_bos : WindowRule::concat_no_bos;
  }
  return options;
}

Input sample_input(OpenModel& source, const EvalArguments& arguments,
                   const WindowOptions& windows) {
  require(windows.bos.has_value(), "--sample needs a BOS token: give --bos");
  SampleOptions options;
  options.length = windows.context - 1;
  options.sequences = (arguments.sample + options.length - 1) / options.length;
  options.bos = *windows.bos;
  options.seed = arguments.seed;
  options.temperature = arguments.temperature;
  options.progress = Progress::Mode::automatic;
  Input input;
  input.text.documents = sample_sequences(*source.model, options);
  input.form = "sample";
  input.source = {{"sampled_from", source.checkpoint.path.string()},
                  {"hash", source.checkpoint.hash},
                  {"seed", arguments.seed},
                  {"temperature", arguments.temperature},
                  {"sequences", options.sequences},
                  {"length", options.length}};
  if (!arguments.save_tokens.empty()) {
    write_token_file(arguments.save_tokens, input.text.documents, input.source.dump());
  }
  return input;
}

// Both tokenizers must read the text alike; equal fingerprints say so without trying.
void check_tokenizers(const OpenModel& model, const OpenModel& reference, std::string_view text,
                      const Input& input, const EvalArguments& arguments) {
  if (!reference.tokenizer ||
      reference.tokenizer->fingerprint() == model.tokenizer->fingerprint()) {
    return;
  }
  const TokenizedText other = tokenize_documents(*reference.tokenizer, text, arguments.text_form);
  require(other.documents == input.text.documents,
          "the tokenizers of {} and {} read this text differently, so that their losses cannot be "
          "compared",
          model.checkpoint.path.string(), reference.checkpoint.path.string());
}

Input text_input(const OpenModel& model, const OpenModel* reference,
                 const EvalArguments& arguments) {
  require(model.tokenizer.has_value(),
          "{}: the model has no tokenizer: give --tokens FILE or --sample N in place of --data",
          arguments.model);
  const std::string text = read_text(arguments.data);
  Input input;
  input.text = tokenize_documents(*model.tokenizer, text, arguments.text_form);
  input.form = arguments.text_form;
  input.source = {{"path", arguments.data}, {"sha256", sha256_hex(text)}, {"bytes", text.size()}};
  if (reference != nullptr) check_tokenizers(model, *reference, text, input, arguments);
  return input;
}

Input base_file_input(const BaseLogitsFile& base, const WindowOptions& windows,
                      const EvalArguments& arguments) {
  std::vector<int32_t> tokens = base.tokens();
  if (windows.rule == WindowRule::second_half_bos) {
    require(tokens.front() == windows.bos,
            "{}: begins with token {}, not with BOS: its rule was {}", arguments.kl_base,
            tokens.front(), window_rule_name(WindowRule::second_half_no_bos));
    tokens.erase(tokens.begin());
  }
  Input input;
  input.text.documents.push_back(std::move(tokens));
  input.form = "tokens";
  input.source = {{"path", arguments.kl_base}};
  return input;
}

size_t scored_vocabulary(const OpenModel& model, const OpenModel* reference) {
  const auto known = [](const OpenModel& open) {
    const size_t rows = open.checkpoint.spec.vocab_size;
    return open.tokenizer ? std::min(rows, open.tokenizer->vocabulary_size()) : rows;
  };
  if (!model.tokenizer && (reference == nullptr || !reference->tokenizer)) return 0;
  return reference == nullptr ? known(model) : std::min(known(model), known(*reference));
}

void print_model(const char* label, const Json& model) {
  fmt::print("{:<11} {}\n            {}, {:.4g} M parameters, {:.4g} bits per weight, {:.4g} MiB\n",
             label, model["path"].get<std::string>(), model["architecture"].get<std::string>(),
             model["params"].get<double>() / 1e6, model["bits_per_weight"].get<double>(),
             model["tensor_bytes"].get<double>() / kMiB);
}

void print_loss(const char* label, const LossResult& result) {
  const Estimate loss = result.loss(), perplexity = result.perplexity();
  fmt::print(
      "{:<11} loss {:.6f} +- {:.6f} nats/token, perplexity {:.4f} +- {:.4f} "
      "(+- {:.4f} if tokens were independent), {:.1f} % of tokens first\n",
      label, loss.value, loss.standard_error, perplexity.value, perplexity.standard_error,
      result.perplexity_token_error(), 100 * result.accuracy());
}

void print_distribution(const char* label, const Distribution& d, double scale, const char* unit) {
  fmt::print("{:<11} mean {:.6f} +- {:.6f}{}", label, scale * d.mean.value,
             scale * d.mean.standard_error, unit);
  fmt::print(", max {:.4f}", scale * d.max);
  for (const QuantileValue& q : d.quantiles) {
    fmt::print(", {} {:.4f}", q.key == "median" ? q.key : fmt::format("{:g} %", 100 * q.fraction),
               scale * q.value);
  }
  fmt::print(", min {:.4f}\n", scale * d.min);
}

void print_comparison(const ModelComparison& comparison) {
  const Estimate qid = comparison.qid(), kld = comparison.mean_kld();
  const DistanceSummary d = comparison.distance();
  fmt::print("QiD         {:.6f} +- {:.6f} nats/token, paired by window\n", qid.value,
             qid.standard_error);
  fmt::print("KL          {:.6f} +- {:.6f} nats/token over windows\n", kld.value,
             kld.standard_error);
  print_distribution("KL tokens", d.kld, 1, "");
  print_distribution("delta p", d.p_diff, 100, " %");
  fmt::print("            RMS {:.4f} +- {:.4f} %\n", 100 * d.p_diff_rms.value,
             100 * d.p_diff_rms.standard_error);
  fmt::print("same top    {:.3f} +- {:.3f} %\n", 100 * d.same_top.value,
             100 * d.same_top.standard_error);
  fmt::print("PPL ratio   {:.6f} +- {:.6f}, difference {:.6f} +- {:.6f}, correlation {:.4f}\n",
             d.ratio.value, d.ratio.standard_error, d.ppl_difference.value,
             d.ppl_difference.standard_error, d.correlation);
}

void check_arguments(const EvalArguments& a) {
  const int sources = !a.data.empty() + !a.tokens.empty() + (a.sample > 0) + !a.kl_base.empty();
  require(sources == 1,
          "give one of --data FILE, --tokens FILE, --sample N and --kl-base FILE ({} are given)",
          sources);
  require(a.kl_base.empty() || a.reference.empty(),
          "--kl-base stands for the reference: leave --reference out");
  require(a.save_base.empty() || a.reference.empty(),
          "--save-base-logits stores the model itself: leave --reference out");
  require(a.save_tokens.empty() || a.sample > 0, "--save-tokens goes with --sample");
  require(a.engine == "torch" || (a.device == "cpu" && !a.streamed),
          "--engine packed runs on the CPU from memory: leave --device and --streamed out");
}

void run(const EvalArguments& arguments) {
  check_arguments(arguments);
  const Stopwatch clock;
  if (arguments.threads > 0) {
    set_thread_count(arguments.threads);
    at::set_num_threads(static_cast<int>(arguments.threads));
  }
  if (arguments.json) set_progress_enabled(false);
  OpenModel model = open_model(arguments.model, arguments);
  std::optional<OpenModel> reference;
  if (!arguments.reference.empty()) reference = open_model(arguments.reference, arguments);
  const OpenModel* other = reference ? &*reference : nullptr;

  WindowOptions windows = window_options(model, arguments, arguments.sample > 0);
  std::optional<BaseLogitsFile> base;
  Input input;
  if (!arguments.kl_base.empty()) {
    base = BaseLogitsFile::open(arguments.kl_base);
    if (arguments.context == 0) windows.context = base->context();
    if (arguments.rule.empty()) {
      windows.rule = base->tokens().front() == windows.bos ? WindowRule::second_half_bos
                                                           : WindowRule::second_half_no_bos;
    }
    windows.allow_single_window = true;
    input = base_file_input(*base, windows, arguments);
  } else if (arguments.sample > 0) {
    input = sample_input(reference ? *reference : model, arguments, windows);
  } else if (!arguments.tokens.empty()) {
    input.text.documents = read_token_file(arguments.tokens);
    input.form = "tokens";
    input.source = {{"path", arguments.tokens}, {"sha256", sha256_file(arguments.tokens)}};
  } else {
    input = text_input(model, other, arguments);
  }
  const std::vector<std::span<const int32_t>> documents(input.text.documents.begin(),
                                                        input.text.documents.end());
  const WindowPlan plan(documents, windows);
  const Protocol protocol = protocol_of(plan, input.form);

  EvaluationOptions options;
  options.batch = arguments.batch;
  options.vocabulary = scored_vocabulary(model, other);
  options.progress = Progress::Mode::automatic;

  std::optional<ModelComparison> comparison;
  LossResult result;
  if (base) {
    comparison = compare_with_base_file(*base, *model.model, plan, options);
  } else if (reference) {
    comparison = compare_models(*reference->model, *model.model, plan, options);
  } else if (!arguments.save_base.empty()) {
    require(documents.size() == 1, "--save-base-logits needs a text of one document");
    result = save_base_logits(*model.model, plan, documents[0], arguments.save_base, options);
  } else {
    result = evaluate_model(*model.model, plan, options);
  }
  if (comparison) result = comparison->quantized;

  Json report;
  report["fewbit_version"] = kVersion;
  report["model"] = describe(model);
  report["data"] = input.source;
  report["protocol"] = to_json(protocol);
  report["vocabulary"] =
      options.vocabulary > 0 ? options.vocabulary : model.checkpoint.spec.vocab_size;
  report["result"] = to_json(result, /*windows=*/true);
  if (reference) report["reference"] = describe(*reference);
  if (comparison) {
    report["reference_result"] = to_json(comparison->reference, /*windows=*/true);
    report["qid"] = to_json(comparison->qid());
    report["kld"] = to_json(comparison->mean_kld());
    report["window_kld"] = comparison->window_kld;
    report["distance"] = to_json(comparison->distance());
  }
  std::optional<DocumentMetrics> metrics;
  if (!input.text.originals.empty() && arguments.max_windows == 0 &&
      windows.rule == WindowRule::rolling_prefix) {
    const std::vector<std::string_view> originals(input.text.originals.begin(),
                                                  input.text.originals.end());
    metrics = document_metrics(result.total_nll(), originals);
    report["documents"] = {{"count", originals.size()},
                           {"words", metrics->words},
                           {"bytes", metrics->bytes},
                           {"word_perplexity", metrics->word_perplexity},
                           {"byte_perplexity", metrics->byte_perplexity},
                           {"bits_per_byte", metrics->bits_per_byte}};
  }
  report["threads"] = thread_count();
  report["device"] = arguments.device;
  report["engine"] = arguments.engine;
  if (arguments.engine == "packed") report["activations"] = arguments.activations;
  report["wall_seconds"] = clock.seconds();
  report["peak_bytes"] = peak_resident_bytes();
  const std::string text = report.dump(2) + "\n";
  if (!arguments.output.empty()) write_file_atomically(arguments.output, text);
  if (arguments.json) {
    fmt::print("{}", text);
    return;
  }

  print_model("model", report["model"]);
  if (reference) print_model("reference", report["reference"]);
  fmt::print("protocol    {}\n", protocol_line(protocol));
  print_loss("result", result);
  if (comparison) {
    print_loss("reference", comparison->reference);
    print_comparison(*comparison);
  }
  if (metrics) {
    fmt::print(
        "documents   word perplexity {:.4f}, byte perplexity {:.4f}, bits per byte {:.4f} "
        "({} words, {} bytes)\n",
        metrics->word_perplexity, metrics->byte_perplexity, metrics->bits_per_byte, metrics->words,
        metrics->bytes);
  }
  fmt::print("cost        {:.1f} s, {:.0f} tokens/s, peak memory {:.0f} MiB, {} threads\n",
             clock.seconds(), result.tokens_per_second(),
             static_cast<double>(peak_resident_bytes()) / kMiB, thread_count());
}

}  // namespace

void add_eval_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("eval", "Loss, perplexity, QiD and divergence on text");
  verb->footer(
      "Examples:\n"
      "  fewbit eval smollm2.gguf --data wiki.test.raw.zst --rule second_half_no_bos "
      "--context 512\n"
      "  fewbit eval OUT --reference MODEL --data wiki.test.raw --text-form hub --json\n"
      "  fewbit eval OUT --reference stories260K.bin --sample 16384 --seed 1\n"
      "Rules: " +
      join_choices(window_rule_names()) + ".");
  auto a = std::make_shared<EvalArguments>();
  verb->add_option("model", a->model, "HF or fewbit directory, .gguf, llama2.c .bin")->required();
  verb->add_option("--reference", a->reference,
                   "full-precision model: QiD, KL divergence and agreement against it");
  verb->add_option("--data", a->data, "text file, plain or .zst");
  verb->add_option("--text-form", a->text_form,
                   "file: as it is without a final newline (default); hub: WikiText lines joined "
                   "by two newlines; articles: WikiText articles detokenised, each by itself")
      ->check(CLI::IsMember(text_form_names()));
  verb->add_option("--tokens", a->tokens, "token ids: .safetensors, .jsonl, .u16, .u32");
  verb->add_option("--sample", a->sample,
                   "evaluate on this many tokens that the reference (or the model) writes itself");
  verb->add_option("--seed", a->seed, "of --sample (default 0)");
  verb->add_option("--temperature", a->temperature, "of --sample (default 1)")
      ->check(CLI::Range(0.0, 100.0));
  verb->add_option("--save-tokens", a->save_tokens, "write the sampled tokens (.safetensors)");
  verb->add_option("--rule", a->rule,
                   "window rule (default: window_bos if the tokenizer adds a BOS or with --sample, "
                   "else concat_no_bos)")
      ->check(CLI::IsMember(window_rule_names()));
  verb->add_option("--context", a->context,
                   "tokens of a window (default: the model's context, at most 2048)")
      ->check(CLI::Range(size_t{2}, size_t{1} << 24));
  verb->add_option("--stride", a->stride, "of the rule strided (default: half the context)")
      ->check(CLI::Range(size_t{1}, size_t{1} << 24));
  verb->add_option("--bos", a->bos, "BOS or prefix token in place of the model's own")
      ->check(CLI::Range(int64_t{0}, int64_t{INT32_MAX}));
  verb->add_option("--max-windows", a->max_windows, "only the first windows (default: all)");
  verb->add_option("--batch", a->batch, "windows that run together (default: about 2048 tokens)")
      ->check(CLI::Range(size_t{1}, size_t{1} << 20));
  verb->add_option("--save-base-logits", a->save_base,
                   "store the model's distributions (second_half rules; llama.cpp's format)");
  verb->add_option("--kl-base", a->kl_base, "compare with stored distributions");
  verb->add_option("--threads", a->threads, "threads (default: FEWBIT_THREADS or all processors)")
      ->check(CLI::Range(size_t{1}, size_t{4096}));
  verb->add_option("--device", a->device, "cpu (default) or cuda");
  verb->add_option("--engine", a->engine,
                   "torch (default): weights as floats; packed: the kernels of fewbit run")
      ->check(CLI::IsMember({"torch", "packed"}));
  verb->add_option("--activations", a->activations,
                   "of --engine packed: int8 (default, as fewbit run) or f32 (exact)")
      ->check(CLI::IsMember({"int8", "f32"}));
  verb->add_flag("--streamed", a->streamed, "read each block when it is needed, keep none");
  verb->add_option("-o,--output", a->output, "also write the JSON report to this file");
  verb->add_flag("--json", a->json, "print the JSON report");
  verb->callback([a] { run(*a); });
}

}  // namespace fewbit::cli
