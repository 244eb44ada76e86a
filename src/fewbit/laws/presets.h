// Published constants of scaling laws, with every digit that a source gives.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fewbit/laws/form.h"

namespace fewbit {

struct LawPreset {
  std::string name;
  std::string form;
  std::string summary;
  std::string source;
  std::vector<FormLevel> levels;  // of a form with constants per level
  // Reported parameters by name. A preset that lacks some of its form's parameters (a paper that
  // gives exponents only) can be compared with a fit but predicts nothing.
  std::vector<std::pair<std::string, double>> values;
  // Corners of the sizes, tokens and bit widths that it was fitted to, where they are known.
  std::vector<LawPoint> corners;
  // Entries of the vocabulary of the models; 0: unknown.
  double vocab = 0;

  bool complete() const;
  // NaN if the paper does not give it.
  double value(std::string_view parameter) const;
};

std::span<const LawPreset> law_presets();
// Error that lists the names.
const LawPreset& find_law_preset(std::string_view name);
// Error if the preset is not complete.
Law law_of(const LawPreset& preset);

// Entries of the Pythia tokenizer, the vocabulary of the published QiD laws.
inline constexpr double kPythiaVocabulary = 50277;

// Parameters outside embedding and head of a GPT-NeoX block stack: 12 L d^2 + 13 L d + 2 d.
double pythia_params(double layers, double width);

}  // namespace fewbit
