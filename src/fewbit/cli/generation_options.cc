#include "fewbit/cli/generation_options.h"

#include <charconv>

#include "fewbit/base/error.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/threads.h"
#include "fewbit/model/model_text.h"

namespace fewbit::cli {
namespace {

constexpr double kMiB = 1 << 20;

// "TOKEN=BIAS"; BIAS may be -inf.
std::pair<int32_t, double> parse_bias(const std::string& text) {
  const size_t equals = text.find('=');
  int32_t token = 0;
  double bias = 0;
  const char* end = text.data() + text.size();
  bool valid = equals != std::string::npos;
  if (valid) {
    const char* sign = text.data() + equals;
    const auto id = std::from_chars(text.data(), sign, token);
    const auto value = std::from_chars(sign + 1, end, bias);
    valid = id.ec == std::errc() && id.ptr == sign && value.ec == std::errc() && value.ptr == end;
  }
  require(valid, "--logit-bias {}: should be TOKEN=BIAS, such as 11=-inf", text);
  return {token, bias};
}

double rate(size_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

}  // namespace

void add_generation_options(CLI::App& verb, GenerationArguments& a) {
  SamplerOptions& s = a.sampling;
  verb.add_option("model", a.model, "HF or fewbit directory, .gguf, llama2.c .bin")->required();
  verb.add_option("-n,--max-tokens", a.max_tokens,
                  "tokens to write (default 256; 0: until the context is full)");
  verb.add_option("--temperature", s.temperature, "0: always the most probable token (default 0.8)")
      ->check(CLI::Range(0.0, 100.0));
  verb.add_option("--top-k", s.top_k, "the k most probable tokens (default 40; 0: all)");
  verb.add_option("--top-p", s.top_p, "the fewest that are together this probable (default 0.95)")
      ->check(CLI::Range(0.0, 1.0));
  verb.add_option("--min-p", s.min_p, "those this probable relative to the first (default 0.05)")
      ->check(CLI::Range(0.0, 1.0));
  verb.add_option("--repetition-penalty", s.repetition_penalty,
                  "above 1: repeats less (default 1)");
  verb.add_option("--frequency-penalty", s.frequency_penalty, "per earlier occurrence (default 0)");
  verb.add_option("--presence-penalty", s.presence_penalty,
                  "of any earlier occurrence (default 0)");
  verb.add_option("--penalty-window", s.penalty_window,
                  "tokens that penalties look back (default 64; 0: all)");
  verb.add_option("--logit-bias", a.logit_bias,
                  "TOKEN=BIAS, added to the token's logit; repeatable");
  verb.add_option("--seed", s.seed, "the same seed writes the same text (default 0)");
  verb.add_option("--stop", a.stops, "text that ends the output; repeatable");
  verb.add_flag("--ignore-eos", a.ignore_end, "go on behind the end of the text");
  verb.add_option(
      "--context", a.context,
      "tokens of prompt and output together (default: as needed, at least 4096, at most "
      "the model's)");
  verb.add_option("--activations", a.activations, "int8 (default, fast) or f32 (exact)")
      ->check(CLI::IsMember({"int8", "f32"}));
  verb.add_option("--cache", a.cache, "keys and values as f16 (default) or f32")
      ->check(CLI::IsMember({"f16", "f32"}));
  verb.add_option("--threads", a.threads, "threads (default: FEWBIT_THREADS or all processors)")
      ->check(CLI::Range(size_t{1}, size_t{4096}));
  verb.add_flag("-q,--quiet", a.quiet, "no rates on standard error");
}

Generator open_generator(GenerationArguments& a) {
  const Stopwatch clock;
  if (a.threads > 0) set_thread_count(a.threads);
  for (const std::string& text : a.logit_bias) a.sampling.logit_bias.insert(parse_bias(text));
  a.sampling.validate();
  Checkpoint checkpoint = open_checkpoint(a.model);
  Tokenizer tokenizer = load_tokenizer(checkpoint);
  PackedModelOptions options;
  options.activations = a.activations == "f32" ? Activations::f32 : Activations::int8;
  options.cache = parse_cache_type(a.cache);
  auto model = std::make_shared<PackedModel>(checkpoint, options);
  return {std::move(checkpoint), std::move(tokenizer), std::move(model), clock.seconds()};
}

GenerationRequest make_request(const Generator& generator, const GenerationArguments& a,
                               std::vector<int32_t> prompt) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = a.max_tokens;
  request.sampling = a.sampling;
  request.stops = a.stops;
  if (!a.ignore_end) {
    request.stop_tokens = end_tokens(generator.checkpoint.spec, &generator.tokenizer);
  }
  return request;
}

double GenerationOutcome::prompt_rate() const {
  return rate(usage.prompt_tokens - usage.cached_tokens, prompt_seconds);
}
// The first token comes with the prompt.
double GenerationOutcome::text_rate() const {
  return usage.completion_tokens > 0 ? rate(usage.completion_tokens - 1, text_seconds) : 0;
}

GenerationOutcome generate(BatchEngine& engine, GenerationRequest request, bool show) {
  GenerationOutcome outcome;
  const uint64_t id = engine.submit(std::move(request));
  const Stopwatch clock;
  bool ended = false;
  while (!ended && !interrupted()) {
    for (const GenerationEvent& event : engine.step()) {
      if (outcome.tokens.empty()) outcome.prompt_seconds = clock.seconds();
      outcome.tokens.insert(outcome.tokens.end(), event.tokens.begin(), event.tokens.end());
      outcome.text += event.text;
      outcome.usage = event.usage;
      if (show && !event.text.empty()) {
        std::fwrite(event.text.data(), 1, event.text.size(), stdout);
        std::fflush(stdout);
      }
      if (event.finished) {
        outcome.finished = *event.finished;
        ended = true;
      }
    }
  }
  outcome.text_seconds = clock.seconds() - outcome.prompt_seconds;
  outcome.interrupted = !ended;
  if (!ended) engine.cancel(id);
  return outcome;
}

void report(const GenerationOutcome& o) {
  fmt::print(stderr, "prompt {} tokens", o.usage.prompt_tokens);
  if (o.usage.cached_tokens > 0) fmt::print(stderr, " ({} kept)", o.usage.cached_tokens);
  fmt::print(stderr, ", {:.1f} tokens/s; text {} tokens, {:.1f} tokens/s; peak memory {:.0f} MiB\n",
             o.prompt_rate(), o.usage.completion_tokens, o.text_rate(),
             static_cast<double>(peak_resident_bytes()) / kMiB);
}

}  // namespace fewbit::cli
