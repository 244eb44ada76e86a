// Profile likelihood intervals: one parameter is fixed, the others are refitted, and the interval
// is where the objective has risen by the chi-squared quantile times s^2 (`weighted`: by the
// quantile, weights held at the optimum).
#pragma once

#include <string>
#include <vector>

#include "fewbit/base/statistics.h"
#include "fewbit/laws/fit.h"

namespace fewbit {

struct ProfileInterval {
  std::string name;  // of a fitted parameter
  double value = 0;
  Interval interval;  // an end that was not found within 50 standard errors is infinite
};

// One for each fitted parameter. Error for the objective huber, whose rise has no such scale.
std::vector<ProfileInterval> profile_intervals(const LawData& data, const FitResult& fit,
                                               double level = 0.95);

}  // namespace fewbit
