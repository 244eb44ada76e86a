// fewbit train: a suite of models, in full precision or under quantizers, resumable to the bit.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <map>
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
#include "fewbit/io/gguf_metadata.h"
#include "fewbit/model/model_text.h"
#include "fewbit/model/write_checkpoint.h"
#include "fewbit/text/bpe_trainer.h"
#include "fewbit/text/byte_tokenizer.h"
#include "fewbit/text/corpus.h"
#include "fewbit/train/rate_range.h"
#include "fewbit/train/run_estimate.h"
#include "fewbit/train/suite.h"

namespace fewbit::cli {
namespace {

// A tokenizer.json of a large vocabulary has tens of megabytes.
constexpr size_t kMaxCompanionBytes = size_t{1} << 30;

struct TrainArguments {
  std::string suite, output, rate_range;
  uint64_t rate_steps = 100;
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

TrainingText tokenized(const Suite& suite, const Tokenizer& tokenizer) {
  TrainingText text;
  for (const auto& path : suite.texts) {
    const auto tokens = tokenize_text(tokenizer, path, "file");
    text.tokens.insert(text.tokens.end(), tokens.begin(), tokens.end());
  }
  text.hash = sha256_hex(std::as_bytes(std::span(text.tokens)));
  return text;
}

// The text for models from scratch, with the suite's tokenizer.
TrainingText load_text(const Suite& suite) {
  const std::string json = make_tokenizer_json(suite);
  TrainingText text = tokenized(suite, Tokenizer::from_json(json));
  text.files["tokenizer.json"] = json;
  return text;
}

// The text for runs that start from a checkpoint, with its tokenizer.
TrainingText load_text(const Suite& suite, const std::filesystem::path& init) {
  const Checkpoint checkpoint = open_checkpoint(init);
  TrainingText text = tokenized(suite, load_tokenizer(checkpoint));
  for (const auto& file : companion_files(checkpoint)) {
    text.files[file.filename().string()] = read_text_file(file, kMaxCompanionBytes);
  }
  if (checkpoint.kind == CheckpointKind::gguf && checkpoint.tokenizer.gguf) {
    text.files[kGgufTokenizerName] = gguf_metadata_bytes(*checkpoint.tokenizer.gguf);
  }
  return text;
}

// The text of every run: one for all models from scratch, one for each checkpoint started from.
using Texts = std::map<std::filesystem::path, TrainingText>;

Texts load_texts(const Suite& suite) {
  Texts texts;
  for (const TrainingRun& run : suite.runs) {
    if (texts.contains(run.init)) continue;
    texts[run.init] = run.init.empty() ? load_text(suite) : load_text(suite, run.init);
  }
  return texts;
}

std::string human_seconds(double seconds) {
  if (seconds < 100) return fmt::format("{:.0f} s", seconds);
  const auto minutes = static_cast<uint64_t>(seconds / 60);
  return minutes < 120 ? fmt::format("{} min", minutes)
                       : fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
}

// What training would take: counted, and timed on a few updates of every run, one at a time.
void print_plan(const Suite& suite, bool json) {
  constexpr double kMebibyte = 1 << 20;
  Json list = Json::array();
  if (!json) {
    fmt::print("{:<20} {:>11} {:>12} {:>8} {:>9} {:>10} {:>10} {:>9}  checkpoints\n", "run", "N",
               "tokens", "steps", "PFLOP", "time", "memory MiB", "codes MiB");
  }
  for (const TrainingRun& run : suite.runs) {
    const RunEstimate cost = estimate(run, thread_count());
    const double seconds = with_context(run.name, [&] { return timed_step(run); }) *
                           static_cast<double>(run.total_steps());
    const uint64_t tokens = run.total_steps() * run.tokens_per_step();
    list.push_back({{"run", run.name},
                    {"N", run.spec.non_embedding_params()},
                    {"tokens", tokens},
                    {"steps", run.total_steps()},
                    {"flops", cost.flops},
                    {"seconds", seconds},
                    {"memory_bytes", cost.memory_bytes()},
                    {"packed_bytes", cost.packed_bytes},
                    {"quantizer", run.quantizers.plan.text()},
                    {"checkpoints", run.checkpoint_steps().size()}});
    if (json) continue;
    fmt::print("{:<20} {:>11} {:>12} {:>8} {:>9.3f} {:>10} {:>10.0f} {:>9.2f}  {}\n", run.name,
               run.spec.non_embedding_params(), tokens, run.total_steps(), cost.flops / 1e15,
               human_seconds(seconds), static_cast<double>(cost.memory_bytes()) / kMebibyte,
               static_cast<double>(cost.packed_bytes) / kMebibyte, run.checkpoint_steps().size());
  }
  if (json) {
    fmt::print("{}\n", list.dump(2));
  } else {
    fmt::print("Time: of a few updates made now, one run at a time.\n");
  }
}

// "1e-5:1e-1".
RateRange parse_range(const std::string& text, uint64_t steps) {
  RateRange range;
  range.steps = steps;
  const size_t colon = text.find(':');
  try {
    require(colon != std::string::npos, "no colon");
    range.from = std::stod(text.substr(0, colon));
    range.to = std::stod(text.substr(colon + 1));
  } catch (const std::exception&) {
    fail("--lr-range: '{}' is not FROM:TO, two learning rates", text);
  }
  return range;
}

void test_rates(const Suite& suite, const Texts& texts, const TrainArguments& arguments) {
  const RateRange range = parse_range(arguments.rate_range, arguments.rate_steps);
  Json list = Json::array();
  for (const TrainingRun& run : suite.runs) {
    const RateRangeResult result = with_context(
        run.name, [&] { return test_rate_range(run, texts.at(run.init).tokens, range); });
    std::string table = "learning_rate,loss,smoothed\n";
    for (const RatePoint& point : result.points) {
      table += fmt::format("{:.6e},{:.6f},{:.6f}\n", point.rate, point.loss, point.smoothed);
    }
    if (!arguments.output.empty()) {
      std::filesystem::create_directories(arguments.output);
      write_file_atomically(std::filesystem::path(arguments.output) / (run.name + "-lr-range.csv"),
                            table);
    }
    list.push_back({{"run", run.name},
                    {"lowest", result.lowest},
                    {"suggested", result.suggested},
                    {"learning_rate", run.rate_of(run.schedule.warmup_steps)}});
    if (!arguments.json) {
      fmt::print("{}: lowest loss at {:.3g} after {} steps, suggested learning rate {:.2g}\n",
                 run.name, result.lowest, result.points.size(), result.suggested);
    }
  }
  if (arguments.json) fmt::print("{}\n", list.dump(2));
}

// Runs side by side on `workers` threads, the longest first; the shards of a step use what threads
// the other runs leave, all of them once the others have ended.
void train_all(const Suite& suite, const Texts& texts, const TrainArguments& arguments) {
  std::vector<size_t> order(suite.runs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return estimate(suite.runs[a], 1).flops > estimate(suite.runs[b], 1).flops;
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
        if (step < seen) seen = step;  // Gone back after a spike.
        const uint64_t advance = (step - seen) * run.tokens_per_step();
        seen = step;
        progress.advance(advance, fmt::format("{} loss {:.3f}", run.name, loss));
      };
      try {
        outcomes[order[i]] = with_context(run.name, [&] {
          return train(run, texts.at(run.init), std::filesystem::path(arguments.output) / run.name,
                       options);
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
    print_plan(suite, arguments.json);
    return;
  }
  require(!arguments.output.empty() || !arguments.rate_range.empty(), "--output is missing");
  const Texts texts = load_texts(suite);
  if (const auto own = texts.find({}); own != texts.end()) {
    suite.set_vocabulary(
        Tokenizer::from_json(own->second.files.at("tokenizer.json")).vocabulary_size());
  }
  if (!arguments.rate_range.empty()) {
    test_rates(suite, texts, arguments);
  } else {
    train_all(suite, texts, arguments);
  }
}

}  // namespace

void add_train_verb(CLI::App& app) {
  CLI::App* verb =
      app.add_subcommand("train", "Train a suite of decoder models, at full or low precision");
  verb->footer(
      "Example:\n"
      "  fewbit train examples/quickstart/suite.toml -o out/runs\n"
      "  fewbit train suite.toml --dry-run\n"
      "  fewbit train suite.toml --lr-range 1e-5:1e-1\n"
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
  verb->add_flag("--dry-run", arguments->dry_run,
                 "print sizes, steps, time and memory; train nothing");
  verb->add_option(
      "--lr-range", arguments->rate_range,
      "FROM:TO: try rising learning rates on every run instead of training it; with -o "
      "also as tables");
  verb->add_option("--lr-steps", arguments->rate_steps, "steps of --lr-range (default 100)")
      ->check(CLI::Range(uint64_t{2}, uint64_t{1} << 32));
  verb->add_flag("--json", arguments->json, "machine-readable summary");
  verb->callback([arguments] { run(*arguments); });
}

}  // namespace fewbit::cli
