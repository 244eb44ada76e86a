// fewbit study: runs a plan, tells where it stands, exports its rows.
#include <fmt/format.h>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/study/export.h"
#include "fewbit/study/runner.h"

namespace fewbit::cli {
namespace {

struct StudyArguments {
  std::string plan, output, directory, export_path;
  size_t workers = 1;
  bool retry_failed = false, json = false;
};

void print_counts(std::map<JobState, size_t> counts) {
  fmt::print("{} done, {} failed, {} running, {} pending\n", counts[JobState::done],
             counts[JobState::failed], counts[JobState::running], counts[JobState::pending]);
}

void run(const StudyArguments& arguments) {
  const StudyPlan plan = StudyPlan::read(arguments.plan);
  const std::filesystem::path directory =
      arguments.output.empty() ? std::filesystem::path(arguments.plan).replace_extension("study")
                               : std::filesystem::path(arguments.output);
  StudyStore store = StudyStore::open(directory);
  const auto counts = run_study(
      plan, store, {.workers = arguments.workers, .retry_failed = arguments.retry_failed});
  fmt::print("{}: ", directory.string());
  print_counts(counts);
  for (const Job& job : store.jobs()) {
    if (job.state != JobState::failed) continue;
    fmt::print("failed: {} {} {}: {}\n", job_kind_name(job.kind),
               job.spec.value("checkpoint", std::string()), job.spec.value("recipe", std::string()),
               job.error);
  }
}

void print_status(const StudyArguments& arguments) {
  const StudyStore store = StudyStore::open_read_only(arguments.directory);
  auto counts = store.counts();
  if (!arguments.json) {
    print_counts(counts);
    return;
  }
  Json failed = Json::array();
  for (const Job& job : store.jobs()) {
    if (job.state == JobState::failed) {
      failed.push_back({{"job", job.key}, {"spec", job.spec}, {"error", job.error}});
    }
  }
  fmt::print("{}\n", Json{{"done", counts[JobState::done]},
                          {"failed", counts[JobState::failed]},
                          {"running", counts[JobState::running]},
                          {"pending", counts[JobState::pending]},
                          {"failures", failed}}
                         .dump(2));
}

void export_rows(const StudyArguments& arguments) {
  const std::string csv = study_csv(StudyStore::open_read_only(arguments.directory));
  if (arguments.export_path.empty()) {
    fmt::print("{}", csv);
  } else {
    write_file_atomically(arguments.export_path, csv);
  }
}

}  // namespace

void add_study_verb(CLI::App& app) {
  CLI::App* verb =
      app.add_subcommand("study", "Measure checkpoints x recipes x seeds x datasets, resumable");
  verb->footer(
      "Examples:\n"
      "  fewbit study examples/quickstart/study.toml -o out/study --workers 2\n"
      "  fewbit study status out/study\n"
      "  fewbit study export out/study -o rows.csv");
  auto arguments = std::make_shared<StudyArguments>();
  verb->add_option("plan", arguments->plan, "study.toml");
  verb->add_option("-o,--output", arguments->output,
                   "directory of the study (default: the plan's name with .study)");
  verb->add_option("--workers", arguments->workers, "jobs at a time (default 1)")
      ->check(CLI::Range(size_t{1}, size_t{1024}));
  verb->add_flag("--retry-failed", arguments->retry_failed, "run failed jobs again");

  CLI::App* status = verb->add_subcommand("status", "How far a study is");
  status->add_option("directory", arguments->directory, "of the study")->required();
  status->add_flag("--json", arguments->json, "machine-readable, with every failure");
  CLI::App* rows = verb->add_subcommand("export", "Write the measurements as CSV");
  rows->add_option("directory", arguments->directory, "of the study")->required();
  rows->add_option("-o,--output", arguments->export_path, "file (default: standard output)");

  status->callback([arguments] { print_status(*arguments); });
  rows->callback([arguments] { export_rows(*arguments); });
  verb->callback([verb, arguments] {
    if (!verb->get_subcommands().empty()) return;
    require(!arguments->plan.empty(), "study: name a plan (study.toml), or status or export");
    run(*arguments);
  });
}

}  // namespace fewbit::cli
