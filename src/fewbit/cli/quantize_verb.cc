// fewbit quantize: a checkpoint and a recipe in, a directory with packed codes out.
#include <fmt/format.h>

#include "fewbit/base/error.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/threads.h"
#include "fewbit/base/version.h"
#include "fewbit/calibrate/quantize_model.h"
#include "fewbit/cli/calibration_input.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/methods/registry.h"

namespace fewbit::cli {
namespace {

struct QuantizeArguments {
  std::string model, recipe, output;
  CalibrationArguments calibration;
  bool json = false, force = false, dry_run = false;
};

void print_plan(const Checkpoint& checkpoint, const Recipe& recipe) {
  fmt::print("model   {} ({}, {} blocks, {} non-embedding parameters)\n", checkpoint.path.string(),
             checkpoint.spec.architecture, checkpoint.spec.blocks.size(),
             checkpoint.spec.non_embedding_params());
  fmt::print("recipe  {}\n", recipe.text());
}

void run(const QuantizeArguments& arguments) {
  const Checkpoint checkpoint = open_checkpoint(arguments.model);
  const Recipe recipe = Recipe::read(arguments.recipe);
  const auto passes = build_passes(recipe, methods(), checkpoint.spec);
  for (const auto& pass : passes) {
    require(!pass->needs_calibration() || arguments.calibration.given(),
            "{} needs calibration text: give --calib FILE, --calib-tokens FILE or --calib-sample",
            pass->name());
  }
  if (arguments.dry_run) {
    print_plan(checkpoint, recipe);
    return;
  }
  require(!arguments.output.empty(), "--output is missing");
  require(arguments.force || !std::filesystem::exists(arguments.output),
          "{}: exists already; --force replaces it", arguments.output);
  const CalibrationSet calibration = calibration_set(checkpoint, arguments.calibration);
  const QuantizedModel model = quantize_model(checkpoint, passes, calibration, {});

  Json report = to_json(model);
  report["recipe"] = recipe.text();
  report["source"] = {{"path", checkpoint.path.string()}, {"hash", checkpoint.hash}};
  report["calibration"] = calibration.description;
  report["seed"] = arguments.calibration.seed;
  report["fewbit_version"] = kVersion;
  report["threads"] = thread_count();
  write_quantized_model(arguments.output, arguments.force, checkpoint, model, report);
  const Checkpoint written = open_checkpoint(arguments.output);
  report["tensor_bytes"] = written.tensor_bytes;
  report["peak_bytes"] = peak_resident_bytes();
  if (arguments.json) {
    fmt::print("{}\n", report.dump(2));
    return;
  }
  fmt::print(
      "{}: {} layers at {:.4f} bits per weight ({} weights, {} bytes), all tensors {} bytes\n",
      arguments.output, model.layers.size(), model.bits_per_weight(), model.quantized_weights(),
      model.stored_bytes(), written.tensor_bytes);
  fmt::print("{:.1f} s, peak memory {:.0f} MiB\n", model.seconds,
             static_cast<double>(peak_resident_bytes()) / (1 << 20));
}

}  // namespace

void add_quantize_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("quantize", "Quantize a checkpoint by a recipe");
  verb->footer(
      "Examples:\n"
      "  fewbit quantize smollm2.gguf --recipe rtn:bits=4,group_size=64 -o smollm2-rtn4\n"
      "  fewbit quantize MODEL --recipe \"gptq:bits=3,group_size=64 | rtn:bits=8,layers=embed\" "
      "\\\n"
      "      --calib text.txt.zst -o OUT\n"
      "  fewbit quantize stories260K.bin --recipe gptq:bits=3 --calib-sample -o OUT\n"
      "`fewbit methods` lists what a recipe may name.");
  auto arguments = std::make_shared<QuantizeArguments>();
  verb->add_option("model", arguments->model, "HF directory, .gguf, llama2.c .bin")->required();
  verb->add_option("--recipe", arguments->recipe, "one line, or a .toml file")->required();
  verb->add_option("-o,--output", arguments->output, "directory to write");
  add_calibration_options(*verb, arguments->calibration);
  verb->add_flag("--force", arguments->force, "replace the output if it exists");
  verb->add_flag("--dry-run", arguments->dry_run, "check everything, quantize nothing");
  verb->add_flag("--json", arguments->json, "machine-readable report on standard output");
  verb->callback([arguments] { run(*arguments); });
}

}  // namespace fewbit::cli
