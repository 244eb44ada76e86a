#include "fewbit/laws/presets.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/options.h"
#include "fewbit/base/statistics.h"

namespace fewbit {
namespace {

using Values = std::vector<std::pair<std::string, double>>;

LawPreset chinchilla(std::string name, std::string summary, std::string source, double ln_a,
                     double ln_b, double ln_e, double alpha, double beta) {
  return {
      name,    "chinchilla",
      summary, source,
      {},      {{"ln A", ln_a}, {"ln B", ln_b}, {"ln E", ln_e}, {"alpha", alpha}, {"beta", beta}}};
}

LawPreset qat_group(std::string name, std::string setting, double k, double gamma_n, double gamma_d,
                    double gamma_g) {
  return {
      name,
      "qat_group",
      "quantization-aware training, " + setting,
      "Chen et al., arXiv 2505.14302",
      {},
      {{"ln k", std::log(k)}, {"gamma_N", gamma_n}, {"gamma_D", gamma_d}, {"gamma_G", gamma_g}}};
}

// One law per bit width that reproduces all 48 entries of Table 1 to its printed rounding. Inferred
// from the table: the paper does not print them. Rounding one of them spoils the reproduction.
LawPreset ouyang_per_bits() {
  struct Width {
    double bits, k, beta, alpha;
  };
  constexpr Width kWidths[] = {{2, 3.808835275e-4, 0.52387226, 0.22505612},
                               {3, 1.170198884e-5, 0.67273057, 0.35468416},
                               {4, 6.1322724961e-6, 0.6550601982, 0.3835030759}};
  LawPreset preset{"ouyang-per-bits", "per_bits",
                   "QiD of GPTQ-quantized Pythia models, one law per bit width",
                   "Ouyang et al., arXiv 2411.17691, inferred from Table 1"};
  for (const Width& width : kWidths) {
    preset.levels.push_back({width.bits});
    const std::string suffix = fmt::format("[P={:g}]", width.bits);
    preset.values.push_back({"ln k" + suffix, std::log(width.k)});
    preset.values.push_back({"beta" + suffix, width.beta});
    preset.values.push_back({"alpha" + suffix, width.alpha});
  }
  return preset;
}

const Values kKumarLoss = {{"ln A", std::log(4.299e3)}, {"ln B", std::log(1.806e4)},
                           {"ln E", std::log(2.7648)},  {"alpha", 0.4965},
                           {"gamma_w", 2.6745},         {"n_w", 0.3037}};

Values joined(Values head, const Values& tail) {
  head.insert(head.end(), tail.begin(), tail.end());
  return head;
}

// Ranges of the studies, for warnings of extrapolation.
std::vector<LawPoint> corners(Interval params, Interval tokens) {
  return {LawPoint(params.low, tokens.low), LawPoint(params.low, tokens.high),
          LawPoint(params.high, tokens.low), LawPoint(params.high, tokens.high)};
}

std::vector<LawPoint> with_bits(const std::vector<LawPoint>& points, Interval bits) {
  std::vector<LawPoint> result;
  for (LawPoint point : points) {
    for (const double width : {bits.low, bits.high}) {
      point.set(LawVariable::bits, width);
      result.push_back(point);
    }
  }
  return result;
}

// What a preset was fitted to, by the start of its name.
void add_ranges(std::vector<LawPreset>& presets) {
  constexpr double kPythiaStepTokens = 2097152;
  const auto pythia = corners({pythia_params(12, 768), pythia_params(36, 5120)},
                              {512 * kPythiaStepTokens, 98000 * kPythiaStepTokens});
  const auto kumar = corners({30e6, 220e6}, {1.5e9, 26e9});
  const auto chen = corners({74e6, 595e6}, {10e9, 100e9});
  for (LawPreset& preset : presets) {
    if (preset.name.starts_with("ouyang") || preset.name.starts_with("pythia")) {
      preset.vocab = kPythiaVocabulary;
      preset.corners = preset.form == "kaplan" ? pythia : with_bits(pythia, {2, 4});
    } else if (preset.name.starts_with("kumar")) {
      preset.corners = kumar;
    } else if (preset.name.starts_with("chen")) {
      preset.corners = chen;
    }
  }
}

std::vector<LawPreset> make_presets() {
  const std::string ouyang = "Ouyang et al., arXiv 2411.17691";
  const std::string kumar = "Kumar et al., arXiv 2411.04330, Table 2";
  std::vector<LawPreset> presets;
  presets.push_back(
      {"ouyang-unified",
       "unified",
       "QiD of GPTQ-quantized Pythia models",
       ouyang + ", Fig 6",
       {},
       {{"ln k", std::log(0.017)}, {"beta", 0.5251}, {"alpha", 0.2261}, {"gamma", 5.4967}}});
  presets.push_back(ouyang_per_bits());
  presets.push_back({"ouyang-tokens",
                     "tokens",
                     "exponent of tokens alone",
                     ouyang + ", Fig 3",
                     {},
                     {{"beta", 0.5316}}});
  presets.push_back({"ouyang-size",
                     "size",
                     "exponent of size alone",
                     ouyang + ", Fig 4",
                     {},
                     {{"alpha", 0.2276}}});
  presets.push_back({"ouyang-bits",
                     "bits",
                     "exponent of bits alone",
                     ouyang + ", Fig 5",
                     {},
                     {{"gamma", 5.4812}}});
  presets.push_back({"pythia-kaplan",
                     "kaplan",
                     "loss of Pythia models on RefinedWeb",
                     ouyang + ", Fig 7",
                     {},
                     {{"ln Nc", std::log(4.74e19)},
                      {"ln Dc", std::log(7.63e10)},
                      {"alpha_N", 0.045},
                      {"alpha_D", 0.399}}});
  presets.push_back({"kaplan-2020",
                     "kaplan",
                     "loss of the original models on WebText2",
                     "Kaplan et al., arXiv 2001.08361, joint fit",
                     {},
                     {{"ln Nc", std::log(6.4e13)},
                      {"ln Dc", std::log(1.8e13)},
                      {"alpha_N", 0.076},
                      {"alpha_D", 0.103}}});
  presets.push_back(chinchilla("hoffmann", "loss of Chinchilla's models, unrounded constants",
                               "Hoffmann et al., arXiv 2203.15556, TeX source", 6.0073404,
                               6.0179186, 0.5267228, 0.33917084, 0.2849083));
  presets.push_back(chinchilla("hoffmann-rounded", "the same as printed",
                               "Hoffmann et al., arXiv 2203.15556", std::log(406.4),
                               std::log(410.7), std::log(1.69), 0.34, 0.28));
  presets.push_back(chinchilla("epoch", "refit of Chinchilla's models, free Huber scale",
                               "Besiroglu et al., arXiv 2404.10102", std::log(482.006),
                               std::log(2085.434), std::log(1.81686), 0.34781, 0.36585));
  presets.push_back(chinchilla("epoch-huber", "refit of Chinchilla's models, Huber 1e-3",
                               "notebook of Besiroglu et al., arXiv 2404.10102", std::log(477.84),
                               std::log(2143.86), std::log(1.81724), 0.34731, 0.36718));
  presets.push_back(
      {"kumar-ptq",
       "exponential",
       "QiD after training in 16 bits",
       kumar,
       {},
       {{"ln k", std::log(0.0598)}, {"beta", 0.5068}, {"alpha", 0.3439}, {"gamma", 0.5907}}});
  presets.push_back({"kumar-ptq-offset",
                     "exponential",
                     "the same with the paper's b as an offset of the exponential",
                     kumar,
                     {},
                     {{"ln k", std::log(0.0598) + 1.1277},
                      {"beta", 0.5068},
                      {"alpha", 0.3439},
                      {"gamma", 0.5907}}});
  presets.push_back({"kumar-weights",
                     "low_precision",
                     "loss of models trained with low-bit weights",
                     kumar,
                     {},
                     kKumarLoss});
  presets.push_back(
      {"kumar-parts",
       "low_precision_parts",
       "loss of models trained with low-bit weights, activations and cache",
       kumar,
       {},
       joined(kKumarLoss,
              {{"gamma_a", 2.2102}, {"n_a", 1.4072}, {"gamma_kv", 0.9578}, {"n_kv", 2.4185}})});
  presets.push_back({"kumar-weights-float",
                     "low_precision",
                     "bits scale of floating-point weights",
                     kumar,
                     {},
                     {{"gamma_w", 2.8111}, {"n_w", 0.1240}}});
  presets.push_back(qat_group("chen-w4a4", "W4A4", 0.1582, 0.2186, 0.0745, 0.7779));
  presets.push_back(qat_group("chen-w4a16", "W4A16", 0.2522, 0.3589, 0.1610, 0.3533));
  presets.push_back(qat_group("chen-w16a4", "W16A4", 0.1004, 0.1816, 0.0331, 0.9812));
  presets.push_back(
      qat_group("chen-w4a4-fc2", "W4A4 with 8-bit FC2 inputs", 0.3519, 0.2637, 0.0964, 0.3407));
  presets.push_back(
      qat_group("chen-w16a4-fc2", "W16A4 with 8-bit FC2 inputs", 0.1273, 0.2347, 0.0827, 0.4491));
  presets.push_back(
      {"panferov-llama",
       "capacity",
       "capacity of formats, Llama on C4",
       "Panferov et al., arXiv 2506.01863, Table 3",
       {},
       {{"ln E", std::log(1.3)}, {"alpha", 0.13}, {"beta", 0.33}, {"F", 0.41}, {"C", 1.39}}});
  presets.push_back(
      {"panferov-olmo2",
       "capacity",
       "capacity of formats, OLMo2 on ClimbMix (with a factor 0.84 on rho)",
       "Panferov et al., arXiv 2506.01863, Table 3",
       {},
       {{"ln E", std::log(1.4)}, {"alpha", 0.18}, {"beta", 0.26}, {"F", 0.37}, {"C", 1.24}}});
  add_ranges(presets);
  return presets;
}

}  // namespace

bool LawPreset::complete() const {
  // The levels of a partial preset of a form with levels are unknown.
  const FormInfo& info = find_law_form(form);
  if (!info.grouped_by.empty() && levels.empty()) return false;
  const Form bound = info.bind_levels(levels);
  return std::all_of(
      bound.reported.begin(), bound.reported.end(),
      [&](const ReportedParameter& parameter) { return !std::isnan(value(parameter.name)); });
}

double LawPreset::value(std::string_view parameter) const {
  for (const auto& [parameter_name, number] : values) {
    if (parameter_name == parameter) return number;
  }
  return std::nan("");
}

std::span<const LawPreset> law_presets() {
  static const std::vector<LawPreset> presets = make_presets();
  return presets;
}

const LawPreset& find_law_preset(std::string_view name) {
  std::vector<std::string> names;
  for (const LawPreset& preset : law_presets()) {
    if (preset.name == name) return preset;
    names.push_back(preset.name);
  }
  fail("preset '{}' is not known; allowed: {}", name, join_choices(names));
}

Law law_of(const LawPreset& preset) {
  require(preset.complete(), "preset {}: {} does not give all constants of form {}", preset.name,
          preset.source, preset.form);
  Law law;
  law.form = find_law_form(preset.form).bind_levels(preset.levels);
  std::vector<double> reported;
  for (const ReportedParameter& parameter : law.form.reported) {
    reported.push_back(preset.value(parameter.name));
  }
  law.fitted = law.form.from_reported(reported);
  return law;
}

double pythia_params(double layers, double width) {
  return 12 * layers * width * width + 13 * layers * width + 2 * width;
}

}  // namespace fewbit
