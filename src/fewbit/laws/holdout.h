// Hold-out checks: how well does a law predict rows it has not seen, and does it beat simple rules?
//
// Errors are predicted against observed: log error ln predicted - ln observed, relative error
// predicted/observed - 1, over the held-out rows with positive values.
#pragma once

#include <string>
#include <vector>

#include "fewbit/laws/fit.h"

namespace fewbit {

struct HoldOutErrors {
  size_t rows = 0;
  double rms_log_error = kMissing;
  double mean_log_error = kMissing;  // its sign tells over- from underestimation
  double mean_abs_relative_error = kMissing;
};
HoldOutErrors hold_out_errors(std::span<const double> predicted, std::span<const double> observed);

struct HoldOutFit {
  std::string left_out;  // the run, or the rule of an extrapolation
  std::string problem;   // why there was no fit; empty if there was
  size_t train_rows = 0;
  std::vector<double> fitted, reported;
  HoldOutErrors errors;
};

// The fit without each run in turn, tested on that run. Error if rows have no run.
std::vector<HoldOutFit> leave_one_run_out(const LawData& data, const FitResult& fit);
// rms log error over all left-out rows together; NaN if a fit failed.
double pooled_rms_log_error(const std::vector<HoldOutFit>& fits);

struct Baseline {
  std::string name;
  HoldOutErrors errors;
};
struct Extrapolation {
  double max_params = 0, max_tokens = 0;  // of the training rows
  HoldOutFit fit;
  // What the law has to beat: a constant for each bit width, the nearest training row of the same
  // bit width, the law without tokens. QiD only.
  std::vector<Baseline> baselines;
};

// Trains on the smaller half of the sizes and the earlier half of the token counts, tests on the
// rest. A limit of 0 means the middle of the distinct values.
Extrapolation extrapolate(const LawData& data, const FitResult& fit, double max_params = 0,
                          double max_tokens = 0);

}  // namespace fewbit
