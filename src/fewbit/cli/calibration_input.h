// The calibration sequences of `fewbit quantize`: windows of a text, of a file of token ids, or
// what the model writes itself.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "fewbit/calibrate/walk.h"
#include "fewbit/model/checkpoint.h"

namespace fewbit::cli {

struct CalibrationArguments {
  std::string text, tokens;
  bool sample = false;
  size_t sequences = 64, length = 0, batch = 4;
  uint64_t seed = 0;

  bool given() const { return sample || !text.empty() || !tokens.empty(); }
};

void add_calibration_options(CLI::App& verb, CalibrationArguments& arguments);

// An undefined set if nothing is given. Errors: two sources, a model without the tokenizer that the
// text needs, ids outside the vocabulary.
CalibrationSet calibration_set(const Checkpoint& checkpoint, const CalibrationArguments& arguments);

}  // namespace fewbit::cli
