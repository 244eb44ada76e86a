// What fewbit run and fewbit chat share: options, opening a model for generation, reporting.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fewbit/model/checkpoint.h"
#include "fewbit/runtime/batch_engine.h"

namespace fewbit::cli {

struct GenerationArguments {
  std::string model, activations = "int8", cache = "f16";
  size_t max_tokens = 256, context = 0, threads = 0;
  SamplerOptions sampling;
  std::vector<std::string> stops, logit_bias;
  bool ignore_end = false, quiet = false;
};

void add_generation_options(CLI::App& verb, GenerationArguments& arguments);

// A model ready to generate.
struct Generator {
  Checkpoint checkpoint;
  Tokenizer tokenizer;
  std::shared_ptr<const PackedModel> model;
  double load_seconds = 0;
};
Generator open_generator(GenerationArguments& arguments);

// The request for a prompt, as the arguments say.
GenerationRequest make_request(const Generator& generator, const GenerationArguments& arguments,
                               std::vector<int32_t> prompt);

// One generation and how long it took.
struct GenerationOutcome {
  std::vector<int32_t> tokens;
  std::string text;
  FinishReason finished = FinishReason::length;
  bool interrupted = false;
  GenerationUsage usage;
  double prompt_seconds = 0, text_seconds = 0;  // Up to the first token; after it.

  double prompt_rate() const;
  double text_rate() const;
};
// Runs `request` to its end, or until Ctrl-C; text goes to standard output as it comes if `show`.
GenerationOutcome generate(BatchEngine& engine, GenerationRequest request, bool show);

// One line of rates on standard error.
void report(const GenerationOutcome& outcome);

}  // namespace fewbit::cli
