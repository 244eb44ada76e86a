// Bootstrap of the unified law by non-linear least squares on QiD itself. Driven by
// law_bootstrap.py: reads the rows once, then one line of JSON for each empty line on standard
// input.
#include <fmt/format.h>

#include <cstdlib>
#include <iostream>
#include <string>

#include "fewbit/base/json.h"
#include "fewbit/base/progress.h"
#include "fewbit/laws/bootstrap.h"
#include "fewbit/laws/law_csv.h"

int main(int argc, char** argv) {
  using namespace fewbit;
  if (argc != 4) {
    fmt::print(stderr, "usage: {} ROWS.csv OBJECTIVE DRAWS\n", argv[0]);
    return 2;
  }
  try {
    const LawData data = read_law_csv(argv[1], {});
    FitOptions options;
    options.objective = read_fit_objective(argv[2]);
    const FitResult fit = fit_law(data, find_law_form("unified"), options, RowRules{});
    BootstrapOptions bootstrap_options;
    bootstrap_options.draws = static_cast<size_t>(read_quantity(argv[3], "draws"));
    for (std::string line; std::getline(std::cin, line); ++bootstrap_options.seed) {
      const Stopwatch clock;
      const BootstrapResult result = bootstrap(data, fit, bootstrap_options);
      const double seconds = clock.seconds();
      std::cout << Json{{"seconds", seconds},
                        {"params", fit.law.fitted},
                        {"standard_errors", result.standard_errors}}
                       .dump()
                << std::endl;
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 2;
  }
  return 0;
}
