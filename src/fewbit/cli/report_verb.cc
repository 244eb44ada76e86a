// fewbit report: a study in, one self-contained page out.
#include <fmt/format.h>

#include "fewbit/base/file.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/study/report_data.h"
#include "fewbit/study/report_page.h"

namespace fewbit::cli {
namespace {

struct ReportArguments {
  std::string directory, output;
  ReportOptions options;
  bool json = false;
};

void run(const ReportArguments& arguments) {
  const Json data = report_data(StudyStore::open_read_only(arguments.directory), arguments.options);
  write_file_atomically(arguments.output, render_report(data));
  if (arguments.json) {
    fmt::print("{}\n", data.at("fits").dump(2));
  } else {
    fmt::print("{}\nreport: {}\n", fit_summary(data), arguments.output);
  }
}

}  // namespace

void add_report_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("report", "Write one self-contained page about a study");
  verb->footer("Example:\n  fewbit report out/study -o report.html");
  auto arguments = std::make_shared<ReportArguments>();
  verb->add_option("study", arguments->directory, "directory of the study")->required();
  verb->add_option("-o,--output", arguments->output, "file to write")->required();
  verb->add_option("--bootstrap", arguments->options.bootstrap_draws,
                   "draws of the clustered bootstrap (default 1000)")
      ->check(CLI::Range(size_t{0}, size_t{1000000}));
  verb->add_option("--seed", arguments->options.seed, "of the bootstrap (default 0)");
  verb->add_flag("--json", arguments->json, "print the fits as JSON");
  verb->callback([arguments] { run(*arguments); });
}

}  // namespace fewbit::cli
