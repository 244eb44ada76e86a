// Bootstrap of a fit: by row, or by training run (cluster), the unit that is independent.
//
// Each draw is refitted with the fit's own objective from the full-data optimum. Draw i depends on
// (seed, i) only, so that results are the same for any number of threads. A draw that does not
// determine the parameters (a bit width or all but one model size missing) is drawn again.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fewbit/base/statistics.h"
#include "fewbit/laws/fit.h"

namespace fewbit {

struct BootstrapOptions {
  size_t draws = 1000;
  uint64_t seed = 0;
  bool by_run = false;
  double level = 0.95;
};

struct BootstrapResult {
  BootstrapOptions options;
  size_t clusters = 0;  // runs, or rows
  size_t redrawn = 0;   // draws that were replaced
  // Parameters of each draw.
  std::vector<std::vector<double>> fitted, reported;
  // Of the reported parameters: percentile intervals (type 7) and standard deviations (ddof 1).
  std::vector<Interval> intervals;
  std::vector<double> standard_errors;
};

// Error for by_run if rows have no run or all have the same.
BootstrapResult bootstrap(const LawData& data, const FitResult& fit,
                          const BootstrapOptions& options);

// Puts the intervals into the fit's parameters and, from the draws, its reference value.
void apply_bootstrap(const BootstrapResult& bootstrap, FitResult& fit);

// Rows of each run, runs in order of appearance.
struct RunGroups {
  std::vector<std::string> names;
  std::vector<std::vector<uint32_t>> rows;  // indices into the rows of the fit
};
RunGroups group_by_run(const LawData& data, std::span<const size_t> rows);

}  // namespace fewbit
