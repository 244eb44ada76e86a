// Forms side by side on the same rows.
#pragma once

#include <string>
#include <vector>

#include "fewbit/laws/fit.h"

namespace fewbit {

struct ComparedForm {
  std::string form;
  std::string problem;  // why it could not be fitted; empty if it could
  FitResult fit;
  double delta_aic = kMissing;     // above the lowest AIC
  double left_out_rms = kMissing;  // rms log error over leave-one-run-out; NaN without runs
  double extrapolation_rms = kMissing;
};

struct Comparison {
  FitObjective objective = FitObjective::log;
  size_t rows = 0;
  std::vector<ComparedForm> forms;  // by AIC, forms that could not be fitted last
  std::vector<std::string> warnings;
};

// Forms of the quantity that a comparison takes unless told otherwise.
std::vector<std::string> default_comparison(LawQuantity quantity);

// All forms must predict the same quantity. A form for which no row has what it reads is set aside;
// the others are fitted to the rows that all of them can use.
Comparison compare_forms(const LawData& data, const std::vector<std::string>& forms,
                         const FitOptions& options, const RowRules& rules);

}  // namespace fewbit
