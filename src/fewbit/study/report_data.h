// The data behind a report: the rows of a study and the laws fitted to them, in the format of
// docs/formats/report-data.md.
#pragma once

#include <cstdint>
#include <string>

#include "fewbit/base/json.h"
#include "fewbit/study/store.h"

namespace fewbit {

struct ReportOptions {
  size_t bootstrap_draws = 1000;
  uint64_t seed = 0;
};

// Rows that are done, reference rows as 16-bit ones, the unified QiD law per method and dataset and
// the laws of the loss before quantization. A law that cannot be fitted (too few rows, one bit
// width, ...) becomes a note that says why.
Json report_data(const StudyStore& store, const ReportOptions& options);

// The fitted exponents beside the published ones, one line per fit, for a terminal.
std::string fit_summary(const Json& report_data);

}  // namespace fewbit
