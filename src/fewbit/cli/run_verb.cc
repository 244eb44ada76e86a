// fewbit run: continues a text.
#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <iterator>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/threads.h"
#include "fewbit/base/version.h"
#include "fewbit/cli/generation_options.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/model/model_text.h"

namespace fewbit::cli {
namespace {

constexpr size_t kDefaultContext = 4096;

struct RunArguments : GenerationArguments {
  std::string prompt, prompt_file;
  bool has_prompt = false, raw = false, parse_special = false, json = false, echo = false;
};

std::string read_prompt(const RunArguments& a) {
  require(a.has_prompt != !a.prompt_file.empty(),
          "give one of --prompt TEXT and --prompt-file FILE (- is standard input)");
  if (a.has_prompt) return a.prompt;
  if (a.prompt_file != "-") return read_text_file(a.prompt_file);
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

size_t context_for(const ModelSpec& spec, const RunArguments& a, size_t prompt_tokens) {
  if (a.context > 0) return a.context;
  const size_t wanted = a.max_tokens == 0 ? spec.context : prompt_tokens + a.max_tokens;
  return std::min(spec.context, std::max(kDefaultContext, wanted));
}

Json to_json(const Generator& generator, const GenerationOutcome& o) {
  return {
      {"fewbit_version", kVersion},
      {"model", generator.checkpoint.path.string()},
      {"text", o.text},
      {"tokens", o.tokens},
      {"finish_reason", o.interrupted                      ? "interrupted"
                        : o.finished == FinishReason::stop ? "stop"
                                                           : "length"},
      {"usage",
       {{"prompt_tokens", o.usage.prompt_tokens},
        {"completion_tokens", o.usage.completion_tokens}}},
      {"timings",
       {{"load_seconds", generator.load_seconds},
        {"prompt_seconds", o.prompt_seconds},
        {"prompt_tokens_per_second", o.prompt_rate()},
        {"text_seconds", o.text_seconds},
        {"text_tokens_per_second", o.text_rate()}}},
      {"bytes_per_token", generator.model->weights().bytes_per_token(generator.checkpoint.spec)},
      {"peak_bytes", peak_resident_bytes()},
      {"threads", thread_count()}};
}

void run(RunArguments& a) {
  const std::string text = read_prompt(a);
  const Generator generator = open_generator(a);
  std::vector<int32_t> prompt =
      generator.tokenizer.encode(text, {.add_special = !a.raw, .parse_special = a.parse_special});
  // A model that has no BOS still needs something to go on from.
  if (prompt.empty()) {
    const std::optional<int32_t> start = prefix_token(generator.checkpoint, &generator.tokenizer);
    require(start.has_value(), "the prompt is empty, and the model has no BOS to begin with");
    prompt.push_back(*start);
  }
  BatchEngine::Options options;
  options.context = context_for(generator.checkpoint.spec, a, prompt.size());
  BatchEngine engine(generator.model, generator.tokenizer, options);
  if (a.echo && !a.json) fmt::print("{}", text);
  const GenerationOutcome outcome =
      generate(engine, make_request(generator, a, std::move(prompt)), /*show=*/!a.json);
  if (a.json) {
    fmt::print("{}\n",
               to_json(generator, outcome).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("\n");
  }
  std::fflush(stdout);
  if (!a.quiet && !a.json) report(outcome);
  if (outcome.interrupted) throw Interrupted();
}

}  // namespace

void add_run_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("run", "Continue a text, token by token");
  verb->footer(
      "Examples:\n"
      "  fewbit run smollm2.gguf --prompt \"The capital of France is\" -n 32 --temperature 0\n"
      "  fewbit run OUT --prompt-file letter.txt --seed 7 --stop \"Yours\"\n"
      "  echo \"Once upon a time\" | fewbit run stories260K.bin --prompt-file - --json");
  auto a = std::make_shared<RunArguments>();
  add_generation_options(*verb, *a);
  CLI::Option* prompt = verb->add_option("-p,--prompt", a->prompt, "the text to continue");
  verb->add_option("-f,--prompt-file", a->prompt_file, "a file that holds it; -: standard input")
      ->excludes(prompt);
  verb->add_flag("--raw", a->raw, "put no BOS in front");
  verb->add_flag("--parse-special", a->parse_special,
                 "control tokens written in the prompt (<|im_start|>) are those tokens");
  verb->add_flag("--echo", a->echo, "print the prompt too");
  verb->add_flag("--json", a->json, "print one JSON object at the end");
  verb->callback([a, prompt] {
    a->has_prompt = prompt->count() > 0;
    run(*a);
  });
}

}  // namespace fewbit::cli
