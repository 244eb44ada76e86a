// fewbit train: a suite of models from scratch, resumable to the bit.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>
#include <thread>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/threads.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/eval/text_tokens.h"
#include "fewbit/text/bpe_trainer.h"
#include "fewbit/text/byte_tokenizer.h"
#include "fewbit/text/corpus.h"
#include "fewbit/train/suite.h"

namespace fewbit::cli {
namespace {

struct TrainArguments {
  std::string suite, output;
  size_t workers = 0;
  double state_interval = 60;
  bool dry_run = false, json = false;
};

// The tokenizer.json of the suite: bytes, or a vocabulary trained on its texts.
std::string make_tokenizer_json(const Suite& suite) {
  if (suite.tokenizer.byte_level) return byte_tokenizer_json();
  BpeTrainerOptions options;
  options.vocabulary_size = suite.tokenizer.vocabulary;
  BpeTrainer trainer(options);
  for (const auto& path : suite.texts) {
    for_each_document(path, {}, [&](std::string&& document) { trainer.add(document); });
  }
  return trainer.train();
}

TrainingText load_text(const Suite& suite) {
  TrainingText text;
  text.tokenizer_json = make_tokenizer_json(suite);
  const Tokenizer tokenizer = Tokenizer::from_json(text.tokenizer_json);
  for (const auto& path : suite.texts) {
    const auto tokens = tokenize_text(tokenizer, path, "file");
    text.tokens.insert(text.tokens.end(), tokens.begin(), tokens.end());
  }
  text.hash = sha256_hex(std::as_bytes(std::span(text.tokens)));
  return text;
}

void print_plan(const Suite& suite) {
  fmt::print("{:<16} {:>12} {:>12} {:>10} {:>12} {:>10}  checkpoints\n", "run", "N", "tokens",
             "steps", "PFLOP", "state MiB");
  for (const TrainingRun& run : suite.runs) {
    const RunEstimate cost = estimate(run);
    fmt::print("{:<16} {:>12} {:>12} {:>10} {:>12.3f} {:>10.1f}  {}\n", run.name,
               run.spec.non_embedding_params(), run.total_steps() * run.tokens_per_step(),
               run.total_steps(), cost.flops / 1e15,
               static_cast<double>(cost.state_bytes) / (1 << 20), run.checkpoint_steps().size());
  }
}

// Runs side by side on `workers` threads, the longest first; the shards of a step use what threads
// the other runs leave, all of them once the others have ended.
void train_all(const Suite& suite, const TrainingText& text, const TrainArguments& arguments) {
  std::vector<size_t> order(suite.runs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return estimate(suite.runs[a]).flops > estimate(suite.runs[b]).flops;
  });
  uint64_t total = 0;
  for (const TrainingRun& run : suite.runs) total += run.total_steps() * run.tokens_per_step();
  Progress progress("train", total, "tokens");

  const size_t workers =
      std::min(suite.runs.size(), arguments.workers != 0 ? arguments.workers : thread_count());
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  std::vector<TrainingOutcome> outcomes(suite.runs.size());
  const auto work = [&] {
    for (size_t i = next.fetch_add(1); i < order.size(); i = next.fetch_add(1)) {
      const TrainingRun& run = suite.runs[order[i]];
      uint64_t seen = 0;
      TrainingOptions options;
      options.state_interval_seconds = arguments.state_interval;
      options.on_step = [&](uint64_t step, double loss) {
        // The first call of a resumed run counts what it did not have to do.
        const uint64_t advance = (step - seen) * run.tokens_per_step();
        seen = step;
        progress.advance(advance, fmt::format("{} loss {:.3f}", run.name, loss));
      };
      try {
        outcomes[order[i]] = with_context(run.name, [&] {
          return train(run, text, std::filesystem::path(arguments.output) / run.name, options);
        });
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        return;
      }
    }
  };
  std::vector<std::thread> pool;
  for (size_t w = 0; w < workers; ++w) pool.emplace_back(work);
  for (std::thread& thread : pool) thread.join();
  progress.finish();
  if (failure) std::rethrow_exception(failure);

  Json list = Json::array();
  for (size_t r = 0; r < suite.runs.size(); ++r) {
    const TrainingRun& run = suite.runs[r];
    if (arguments.json) {
      list.push_back({{"run", run.name},
                      {"N", run.spec.non_embedding_params()},
                      {"tokens", run.total_steps() * run.tokens_per_step()},
                      {"loss", outcomes[r].last_loss},
                      {"already_finished", outcomes[r].already_finished}});
    } else {
      fmt::print("{}: {} tokens, loss {:.4f}{}\n", run.name,
                 run.total_steps() * run.tokens_per_step(), outcomes[r].last_loss,
                 outcomes[r].already_finished ? " (finished before)" : "");
    }
  }
  if (arguments.json) fmt::print("{}\n", list.dump(2));
}

void run(const TrainArguments& arguments) {
  Suite suite = Suite::read(arguments.suite);
  if (arguments.dry_run) {
    suite.set_vocabulary(suite.tokenizer.byte_level ? 256 : suite.tokenizer.vocabulary);
    print_plan(suite);
    return;
  }
  require(!arguments.output.empty(), "--output is missing");
  const TrainingText text = load_text(suite);
  suite.set_vocabulary(Tokenizer::from_json(text.tokenizer_json).vocabulary_size());
  train_all(suite, text, arguments);
}

}  // namespace

void add_train_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("train", "Train a suite of decoder models from scratch");
  verb->footer(
      "Example:\n"
      "  fewbit train examples/quickstart/suite.toml -o out/runs\n"
      "Killed or interrupted, the same command continues to bit-identical weights.");
  auto arguments = std::make_shared<TrainArguments>();
  verb->add_option("suite", arguments->suite, "suite.toml")->required();
  verb->add_option("-o,--output", arguments->output, "directory; one folder per run in it");
  verb->add_option("--workers", arguments->workers,
                   "runs at a time (default: one for every processor)")
      ->check(CLI::Range(size_t{1}, size_t{1024}));
  verb->add_option("--state-interval", arguments->state_interval,
                   "seconds between writes of the resumable state (default 60)")
      ->check(CLI::Range(0.0, 1e6));
  verb->add_flag("--dry-run", arguments->dry_run, "print sizes, steps and cost; train nothing");
  verb->add_flag("--json", arguments->json, "machine-readable summary");
  verb->callback([arguments] { run(*arguments); });
}

}  // namespace fewbit::cli
