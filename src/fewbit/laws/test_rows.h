// Rows of measurements for tests, made from a known law.
#pragma once

#include <cmath>
#include <string>

#include "fewbit/base/random.h"
#include "fewbit/laws/fit.h"
#include "fewbit/laws/presets.h"

namespace fewbit {

// QiD of the published unified law on a grid of sizes x token counts x bit widths, times log-normal
// noise. Runs are the sizes.
inline LawData unified_rows(double noise, uint64_t seed = 1) {
  const Law law = law_of(find_law_preset("ouyang-unified"));
  RandomStream random(seed, "unified rows");
  LawData data;
  data.source = "rows";
  const double sizes[][2] = {{12, 768}, {24, 1024}, {16, 2048}, {32, 2560}, {32, 4096}, {36, 5120}};
  for (const auto& [layers, width] : sizes) {
    const double params = pythia_params(layers, width);
    for (const double steps : {512.0, 2000.0, 8000.0, 32000.0, 98000.0}) {
      for (const double bits : {2.0, 3.0, 4.0}) {
        LawRow row;
        row.run = fmt::format("{:.0f}", params);
        row.method = "gptq";
        row.point = LawPoint(params, steps * 2097152, bits);
        row.qid = law.value(row.point) * std::exp(noise * random.normal());
        data.rows.push_back(row);
      }
    }
  }
  return data;
}

inline FitOptions with_objective(FitObjective objective) {
  FitOptions options;
  options.objective = objective;
  return options;
}

}  // namespace fewbit
