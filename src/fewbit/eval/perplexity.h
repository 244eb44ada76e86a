// Loss of language models on running text, window by window.
//
// One pass per model: a batch of windows is run, then the logits of the scored rows are made a
// panel at a time and reduced at once, so that no logits are kept. A reference and a quantized
// model run side by side on the same windows (compare_models), or one after another, the
// reference's losses by window being kept (evaluate_model, paired_qid).
//
// All losses are nats per token. Tokens of a window are correlated, so errors are taken over
// windows: the linearised error of the ratio sum(nll) / sum(tokens) (base/statistics.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/statistics.h"
#include "fewbit/eval/base_logits.h"
#include "fewbit/eval/distance.h"
#include "fewbit/eval/windows.h"
#include "fewbit/model/language_model.h"

namespace fewbit {

struct EvaluationOptions {
  // Windows of one forward pass; 0: as many as hold about kBatchTokens tokens.
  size_t batch = 0;
  // Tokens of the tokenizer: logits beyond are padding and left out. 0: all of the model's.
  size_t vocabulary = 0;
  Progress::Mode progress = Progress::Mode::off;
  std::string label = "eval";
};

// What a model loses on each window. Windows of two results pair up if their plans are the same.
struct LossResult {
  std::vector<double> window_nll;     // Sums.
  std::vector<double> window_tokens;  // Scored tokens.
  double sum_squared_nll = 0;         // Over tokens.
  uint64_t hits = 0;                  // Targets that were the argmax.
  uint64_t tokens_run = 0;            // Through the model, scored or not.
  double seconds = 0;                 // Forward passes, heads and scoring.

  uint64_t scored_tokens() const;
  double total_nll() const;
  // Nats per token; error over windows.
  Estimate loss() const;
  // exp of the loss, error by the delta method.
  Estimate perplexity() const;
  // The error that llama.cpp prints: tokens taken as independent.
  double perplexity_token_error() const;
  double accuracy() const;
  double tokens_per_second() const;
};

// QiD = loss(quantized) - loss(reference), nats per token, with the error of the paired difference:
// sd of the differences by window over sqrt(windows), for windows of equal weight. Errors: results
// over different windows.
Estimate paired_qid(const LossResult& quantized, const LossResult& reference);

LossResult evaluate_model(LanguageModel& model, const WindowPlan& plan,
                          const EvaluationOptions& options = {});

struct ModelComparison {
  LossResult reference, quantized;
  std::vector<double> window_kld;       // Mean of each window, nats.
  std::vector<TokenComparison> tokens;  // Every scored token in window order.
  Estimate qid() const { return paired_qid(quantized, reference); }
  Estimate mean_kld() const;  // Error over windows.
  DistanceSummary distance() const { return summarize_distance(tokens); }
};

ModelComparison compare_models(LanguageModel& reference, LanguageModel& quantized,
                               const WindowPlan& plan, const EvaluationOptions& options = {});

// Runs the base model under a second-half rule and stores its distributions (base_logits.h).
LossResult save_base_logits(LanguageModel& model, const WindowPlan& plan,
                            std::span<const int32_t> tokens, const std::filesystem::path& path,
                            const EvaluationOptions& options = {});

// Compares with stored distributions; `plan` is over base.tokens() under a second-half rule with
// base.context(); under second_half_bos these begin with the stream's BOS, which the plan adds
// itself.
ModelComparison compare_with_base_file(const BaseLogitsFile& base, LanguageModel& quantized,
                                       const WindowPlan& plan,
                                       const EvaluationOptions& options = {});

// The conditions of a perplexity, without which it means nothing.
struct Protocol {
  std::string text_form;  // "file", "hub", "articles", "tokens", "sample"
  WindowRule rule = WindowRule::concat_no_bos;
  size_t context = 0;
  size_t stride = 0;  // `strided` only.
  std::optional<int32_t> bos;
  uint64_t tokens = 0;  // N of the text.
  size_t windows = 0;
  uint64_t scored_tokens = 0;
  std::string token_hash;
};
Protocol protocol_of(const WindowPlan& plan, std::string text_form);
// One line: "text=file rule=second_half_no_bos context=512 bos=none tokens=... windows=... ids=..."
std::string protocol_line(const Protocol& protocol);
Json to_json(const Protocol& protocol);

Json to_json(const Estimate& estimate);  // {"value", "standard_error"}
// Everything above; window losses too if `windows`.
Json to_json(const LossResult& result, bool windows);

}  // namespace fewbit
