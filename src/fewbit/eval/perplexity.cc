#include "fewbit/eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "fewbit/base/error.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/threads.h"

namespace fewbit {
namespace {

// Tokens of a forward pass: enough rows for the matrix products to run at full speed while the
// activations of a small model still fit the caches.
constexpr size_t kBatchTokens = 2048;
// Logits in memory at a time and model: the head's weights are read once a panel, so a panel must
// hold many rows; beyond this size it only leaves the caches.
constexpr size_t kPanelLogits = size_t{8} << 20;
constexpr size_t kFewestPanelRows = 16, kMostPanelRows = 512;

size_t panel_rows(size_t vocabulary) {
  return std::clamp(kPanelLogits / vocabulary, kFewestPanelRows, kMostPanelRows);
}

// Vocabulary on which models are compared.
size_t scored_vocabulary(std::span<LanguageModel* const> models, size_t wanted) {
  const size_t first = models.front()->spec().vocab_size;
  for (const LanguageModel* model : models) {
    const size_t size = model->spec().vocab_size;
    if (wanted == 0) {
      require(size == first,
              "models of {} and {} tokens: give the vocabulary of their tokenizer, so that padded "
              "rows can be left out",
              first, size);
    } else {
      require(wanted <= size, "a vocabulary of {} tokens, but a model that knows {}", wanted, size);
    }
  }
  return wanted == 0 ? first : wanted;
}

// A panel of logits of every model, for consecutive targets of one window.
struct Panel {
  size_t window = 0;        // Index in the plan.
  size_t first_target = 0;  // Within the window.
  std::span<const int32_t> targets;
  std::vector<MatrixView<const float>> logits;  // One a model, cut to the vocabulary.
};

// Runs `models` over the plan, side by side. `seconds[m]`: time spent in model m.
void run_windows(std::span<LanguageModel* const> models, const WindowPlan& plan,
                 const EvaluationOptions& options, std::span<double> seconds, uint64_t& tokens_run,
                 const std::function<void(const Panel&)>& visit,
                 const std::function<std::string()>& note) {
  const size_t vocabulary = scored_vocabulary(models, options.vocabulary);
  std::vector<std::vector<float>> buffers(models.size());
  Progress progress(options.label, plan.size(), "windows", options.progress);
  std::vector<Window> batch;
  std::vector<int32_t> tokens;
  for (size_t next = 0; next < plan.size();) {
    throw_if_interrupted();
    batch.clear();
    batch.push_back(plan.window(next));
    const size_t length = batch.front().input.size();
    const size_t most =
        options.batch > 0 ? options.batch : std::max<size_t>(1, kBatchTokens / length);
    while (batch.size() < most && next + batch.size() < plan.size()) {
      Window window = plan.window(next + batch.size());
      if (window.input.size() != length) break;
      batch.push_back(std::move(window));
    }
    tokens.clear();
    for (const Window& window : batch) {
      tokens.insert(tokens.end(), window.input.begin(), window.input.end());
    }
    std::vector<std::unique_ptr<ForwardResult>> results;
    for (size_t m = 0; m < models.size(); ++m) {
      const Stopwatch clock;
      results.push_back(models[m]->forward({tokens.data(), batch.size(), length}));
      seconds[m] += clock.seconds();
    }
    tokens_run += tokens.size();
    for (size_t b = 0; b < batch.size(); ++b) {
      const Window& window = batch[b];
      const size_t rows = panel_rows(models.front()->spec().vocab_size);
      for (size_t first = 0; first < window.targets.size(); first += rows) {
        const size_t count = std::min(rows, window.targets.size() - first);
        Panel panel;
        panel.window = next + b;
        panel.first_target = first;
        panel.targets = std::span(window.targets).subspan(first, count);
        for (size_t m = 0; m < models.size(); ++m) {
          const Stopwatch clock;
          const size_t columns = models[m]->spec().vocab_size;
          buffers[m].resize(std::max(buffers[m].size(), count * columns));
          const MatrixView<float> logits(buffers[m].data(), count, columns);
          results[m]->logits(b * length + window.first_row + first, logits);
          panel.logits.push_back(MatrixView<const float>(logits).cols_from(0, vocabulary));
          seconds[m] += clock.seconds();
        }
        with_context(fmt::format("window {}", panel.window), [&] { visit(panel); });
      }
    }
    next += batch.size();
    progress.advance(batch.size(), note());
  }
  progress.finish();
}

LossResult empty_result(const WindowPlan& plan) {
  LossResult result;
  result.window_nll.resize(plan.size());
  result.window_tokens.resize(plan.size());
  return result;
}

void add_token(LossResult& result, size_t window, double nll, bool hit) {
  result.window_nll[window] += nll;
  result.window_tokens[window] += 1;
  result.sum_squared_nll += nll * nll;
  result.hits += hit ? 1 : 0;
}

std::string running_perplexity(const LossResult& result) {
  const double tokens =
      std::accumulate(result.window_tokens.begin(), result.window_tokens.end(), 0.0);
  return tokens > 0 ? fmt::format("ppl {:.4f}", std::exp(result.total_nll() / tokens)) : "";
}

void require_second_half(const WindowPlan& plan) {
  const WindowRule rule = plan.options().rule;
  require(rule == WindowRule::second_half_bos || rule == WindowRule::second_half_no_bos,
          "base files hold the rows of {} or {}, not of {}",
          window_rule_name(WindowRule::second_half_bos),
          window_rule_name(WindowRule::second_half_no_bos), window_rule_name(rule));
}

LossResult run_single(LanguageModel& model, const WindowPlan& plan,
                      const EvaluationOptions& options,
                      const std::function<void(const Panel&)>& also) {
  LossResult result = empty_result(plan);
  LanguageModel* const models[] = {&model};
  std::vector<TokenScore> scores;
  double scoring = 0;
  run_windows(
      models, plan, options, std::span(&result.seconds, 1), result.tokens_run,
      [&](const Panel& panel) {
        const Stopwatch clock;
        scores.resize(panel.targets.size());
        score_rows(panel.logits[0], panel.targets, scores);
        for (const TokenScore& s : scores) add_token(result, panel.window, s.nll, s.hit);
        scoring += clock.seconds();
        if (also) also(panel);
      },
      [&] { return running_perplexity(result); });
  result.seconds += scoring;
  return result;
}

// Adds compared tokens of one panel to both results.
void add_comparisons(ModelComparison& result, size_t window,
                     std::span<const TokenComparison> tokens) {
  for (const TokenComparison& c : tokens) {
    add_token(result.reference, window, c.nll_base, c.hit_base);
    add_token(result.quantized, window, c.nll_quantized, c.hit_quantized);
    result.window_kld[window] += c.kld;
  }
  result.tokens.insert(result.tokens.end(), tokens.begin(), tokens.end());
}

ModelComparison empty_comparison(const WindowPlan& plan) {
  ModelComparison result;
  result.reference = empty_result(plan);
  result.quantized = empty_result(plan);
  result.window_kld.resize(plan.size());
  result.tokens.reserve(plan.scored_tokens());
  return result;
}

// From sums to means by window.
void finish(ModelComparison& result) {
  for (size_t w = 0; w < result.window_kld.size(); ++w) {
    result.window_kld[w] /= result.quantized.window_tokens[w];
  }
}

}  // namespace

uint64_t LossResult::scored_tokens() const {
  double sum = 0;
  for (const double count : window_tokens) sum += count;
  return static_cast<uint64_t>(sum);
}

double LossResult::total_nll() const {
  double sum = 0;
  for (const double nll : window_nll) sum += nll;
  return sum;
}

Estimate LossResult::loss() const { return cluster_ratio(window_nll, window_tokens); }

Estimate LossResult::perplexity() const {
  const Estimate l = loss();
  return {std::exp(l.value), std::exp(l.value) * l.standard_error};
}

double LossResult::perplexity_token_error() const {
  const double n = static_cast<double>(scored_tokens());
  if (n < 2) return 0;
  const double mean = total_nll() / n;
  return std::exp(mean) * std::sqrt(std::max(0.0, sum_squared_nll / n - mean * mean) / (n - 1));
}

double LossResult::accuracy() const {
  return static_cast<double>(hits) / static_cast<double>(scored_tokens());
}

double LossResult::tokens_per_second() const {
  return seconds > 0 ? static_cast<double>(tokens_run) / seconds : 0;
}

Estimate paired_qid(const LossResult& quantized, const LossResult& reference) {
  require(quantized.window_tokens == reference.window_tokens,
          "the losses are over different windows: {} and {} of them", quantized.window_nll.size(),
          reference.window_nll.size());
  std::vector<double> differences(quantized.window_nll.size());
  for (size_t w = 0; w < differences.size(); ++w) {
    differences[w] = quantized.window_nll[w] - reference.window_nll[w];
  }
  return cluster_ratio(differences, quantized.window_tokens);
}

LossResult evaluate_model(LanguageModel& model, const WindowPlan& plan,
                          const EvaluationOptions& options) {
  return run_single(model, plan, options, {});
}

Estimate ModelComparison::mean_kld() const {
  std::vector<double> totals(window_kld.size());
  for (size_t w = 0; w < totals.size(); ++w) totals[w] = window_kld[w] * quantized.window_tokens[w];
  return cluster_ratio(totals, quantized.window_tokens);
}

ModelComparison compare_models(LanguageModel& reference, LanguageModel& quantized,
                               const WindowPlan& plan, const EvaluationOptions& options) {
  ModelComparison result = empty_comparison(plan);
  LanguageModel* const models[] = {&reference, &quantized};
  std::vector<TokenComparison> tokens;
  double seconds[2] = {}, scoring = 0;
  uint64_t tokens_run = 0;
  run_windows(
      models, plan, options, seconds, tokens_run,
      [&](const Panel& panel) {
        const Stopwatch clock;
        tokens.resize(panel.targets.size());
        compare_rows(panel.logits[0], panel.logits[1], panel.targets, tokens);
        add_comparisons(result, panel.window, tokens);
        scoring += clock.seconds();
      },
      [&] { return running_perplexity(result.quantized); });
  result.reference.tokens_run = result.quantized.tokens_run = tokens_run;
  result.reference.seconds = seconds[0] + scoring / 2;
  result.quantized.seconds = seconds[1] + scoring / 2;
  finish(result);
  return result;
}

LossResult save_base_logits(LanguageModel& model, const WindowPlan& plan,
                            std::span<const int32_t> tokens, const std::filesystem::path& path,
                            const EvaluationOptions& options) {
  require_second_half(plan);
  LanguageModel* const models[] = {&model};
  const size_t context = plan.options().context;
  // Windows tile the stream, which under second_half_bos begins with a BOS.
  std::vector<int32_t> stream;
  if (plan.options().rule == WindowRule::second_half_bos) stream.push_back(*plan.options().bos);
  stream.insert(stream.end(), tokens.begin(), tokens.end());
  require(stream.size() >= plan.size() * context, "{} tokens for {} windows", stream.size(),
          plan.size());
  stream.resize(plan.size() * context);
  BaseLogitsWriter writer(path, context, scored_vocabulary(models, options.vocabulary), stream);
  LossResult result = run_single(model, plan, options,
                                 [&](const Panel& panel) { writer.write_rows(panel.logits[0]); });
  writer.commit();
  return result;
}

ModelComparison compare_with_base_file(const BaseLogitsFile& base, LanguageModel& quantized,
                                       const WindowPlan& plan, const EvaluationOptions& options) {
  require_second_half(plan);
  require(plan.options().context == base.context() && plan.size() <= base.chunks(),
          "a base file of {} windows of {} tokens for {} windows of {}", base.chunks(),
          base.context(), plan.size(), plan.options().context);
  EvaluationOptions same = options;
  if (same.vocabulary == 0) same.vocabulary = base.vocabulary();
  require(same.vocabulary == base.vocabulary(), "a base file of {} tokens for a vocabulary of {}",
          base.vocabulary(), same.vocabulary);
  ModelComparison result = empty_comparison(plan);
  LanguageModel* const models[] = {&quantized};
  std::vector<TokenComparison> tokens;
  double scoring = 0;
  run_windows(
      models, plan, same, std::span(&result.quantized.seconds, 1), result.quantized.tokens_run,
      [&](const Panel& panel) {
        const Stopwatch clock;
        tokens.resize(panel.targets.size());
        parallel_for(panel.targets.size(), [&](size_t r) {
          std::vector<uint16_t> storage;
          const BaseRecord record = base.record(panel.window, panel.first_target + r, storage);
          tokens[r] = compare_with_base(record, panel.logits[0].row(r), panel.targets[r]);
        });
        add_comparisons(result, panel.window, tokens);
        scoring += clock.seconds();
      },
      [&] { return running_perplexity(result.quantized); });
  result.quantized.seconds += scoring;
  finish(result);
  return result;
}

Protocol protocol_of(const WindowPlan& plan, std::string text_form) {
  Protocol p;
  p.text_form = std::move(text_form);
  p.rule = plan.options().rule;
  p.context = plan.options().context;
  p.stride = plan.options().stride;
  if (window_rule_needs_bos(p.rule)) p.bos = plan.options().bos;
  p.tokens = plan.tokens();
  p.windows = plan.size();
  p.scored_tokens = plan.scored_tokens();
  p.token_hash = plan.token_hash();
  return p;
}

std::string protocol_line(const Protocol& p) {
  constexpr size_t kHashDigits = 16;
  return fmt::format(
      "text={} rule={} context={}{} bos={} tokens={} windows={} scored={} ids=sha256:{}",
      p.text_form, window_rule_name(p.rule), p.context,
      p.stride > 0 ? fmt::format(" stride={}", p.stride) : "",
      p.bos ? std::to_string(*p.bos) : "none", p.tokens, p.windows, p.scored_tokens,
      p.token_hash.substr(0, kHashDigits));
}

Json to_json(const Protocol& p) {
  Json json;
  json["text_form"] = p.text_form;
  json["rule"] = window_rule_name(p.rule);
  json["context"] = p.context;
  json["stride"] = p.stride > 0 ? Json(p.stride) : Json(nullptr);
  json["bos"] = p.bos ? Json(*p.bos) : Json(nullptr);
  json["tokens"] = p.tokens;
  json["windows"] = p.windows;
  json["scored_tokens"] = p.scored_tokens;
  json["token_sha256"] = p.token_hash;
  json["line"] = protocol_line(p);
  return json;
}

Json to_json(const Estimate& estimate) {
  return {{"value", estimate.value}, {"standard_error", estimate.standard_error}};
}

Json to_json(const LossResult& result, bool windows) {
  Json json;
  json["loss_nats_per_token"] = to_json(result.loss());
  json["perplexity"] = to_json(result.perplexity());
  json["perplexity_token_error"] = result.perplexity_token_error();
  json["next_token_accuracy"] = result.accuracy();
  json["scored_tokens"] = result.scored_tokens();
  json["tokens_run"] = result.tokens_run;
  json["seconds"] = result.seconds;
  json["tokens_per_second"] = result.tokens_per_second();
  if (windows) {
    json["window_nll"] = result.window_nll;
    json["window_tokens"] = result.window_tokens;
  }
  return json;
}

}  // namespace fewbit
