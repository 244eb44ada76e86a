// What `fewbit law` says about a fit and a comparison, as text and as JSON.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/laws/bootstrap.h"
#include "fewbit/laws/compare.h"
#include "fewbit/laws/fit.h"
#include "fewbit/laws/holdout.h"
#include "fewbit/laws/presets.h"
#include "fewbit/laws/profile.h"

namespace fewbit::cli {

// The same rows under another objective, or each bit width alone.
struct AlternativeFit {
  std::string form;
  FitObjective objective = FitObjective::log;
  std::string problem;  // why there is no fit; empty if there is
  std::optional<FitResult> fit;
};

struct LawReport {
  LawData data;
  FitResult fit;
  std::optional<BootstrapResult> bootstrap;
  std::vector<AlternativeFit> alternatives;
  std::vector<HoldOutFit> left_out;
  std::optional<Extrapolation> extrapolation;
  std::vector<ProfileInterval> profiles;
  const LawPreset* preset = nullptr;  // published constants to compare with
};

// QiD laws depend on the objective more than their standard errors tell: the fit under log, linear
// and weighted, and each bit width alone under the same three.
std::vector<AlternativeFit> alternative_fits(const LawData& data, const FormInfo& form,
                                             const FitOptions& options, const RowRules& rules);

// The vocabulary that the rows or the rules give; 0 if they do not.
double vocabulary_of(const LawData& data, const RowRules& rules);

Json to_json(const LawReport& report);
void print_report(const LawReport& report);
void print_comparison(const Comparison& comparison);

}  // namespace fewbit::cli
