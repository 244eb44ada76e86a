// Forms of the loss of models trained in low precision: effective parameters (Kumar et al.,
// arXiv 2411.04330), representation capacity (Panferov et al., arXiv 2506.01863), floating-point
// formats (arXiv 2501.02423) and the noisy-channel law (arXiv 2605.23901).
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "fewbit/laws/form_parts.h"

namespace fewbit {
namespace {

using enum LawVariable;

// Effective share of the parameters below this is not told apart: keeps the logarithm finite where
// an optimiser strays to 1 - exp(-P/gamma + n) <= 0.
constexpr double kSmallestFactor = 1e-6;

// ln max(f, guard) of f = 1 - exp(-P/gamma + n); derivatives with respect to ln gamma and n, zero
// where the guard acts.
double log_precision_factor(double bits_value, double ln_gamma, double offset, double* by_ln_gamma,
                            double* by_offset) {
  const double gamma = std::exp(ln_gamma);
  const double power = std::exp(-bits_value / gamma + offset);
  const double factor = 1 - power;
  if (!(factor > kSmallestFactor)) {
    *by_ln_gamma = *by_offset = 0;
    return std::isfinite(power) ? std::log(kSmallestFactor) : std::nan("");
  }
  *by_offset = -power / factor;
  *by_ln_gamma = *by_offset * bits_value / gamma;
  return std::log(factor);
}

struct QuantizedPart {
  LawVariable bits;
  std::string suffix, meaning;
};

// L = A N_eff^-alpha + B D^-beta + E, N_eff = N times one factor for each quantized part. Fitted as
// [ln A, ln B, ln E, alpha, (beta,) ln gamma and n of each part].
Form make_effective_params(std::vector<QuantizedPart> parts, bool tied) {
  enum : size_t { kA, kB, kE, kAlpha, kBeta };
  const size_t first = tied ? kBeta : kBeta + 1;
  Form form;
  form.fitted = {{"ln A", "ln of the prefactor of size"},
                 {"ln B", "ln of the prefactor of tokens"},
                 {"ln E", "ln of the irreducible loss"},
                 {"alpha", tied ? "exponent of size and of tokens" : "exponent of size"}};
  if (!tied) form.fitted.push_back({"beta", "exponent of tokens"});
  for (size_t i = 0; i < first; ++i) {
    form.reported.push_back(report_same(i, form.fitted[i].name, form.fitted[i].meaning));
  }
  for (const QuantizedPart& part : parts) {
    const size_t at = form.fitted.size();
    form.fitted.push_back({"ln gamma_" + part.suffix, "ln of the bits scale of " + part.meaning});
    form.fitted.push_back({"n_" + part.suffix, "offset of the exponential of " + part.meaning});
    form.reported.push_back(
        report_exp(at, "gamma_" + part.suffix, "bits scale of " + part.meaning));
    form.reported.push_back(report_same(at + 1, "n_" + part.suffix, form.fitted[at + 1].meaning));
  }
  form.log_value = [parts, tied, first](std::span<const double> p, const LawPoint& at,
                                        std::span<double> gradient) {
    const double alpha = p[kAlpha], beta = tied ? p[kAlpha] : p[kBeta];
    double ln_effective = at.ln(params);
    std::array<double, 2 * kLawVariableCount> by_part;
    for (size_t i = 0; i < parts.size(); ++i) {
      ln_effective +=
          log_precision_factor(at[parts[i].bits], p[first + 2 * i], p[first + 2 * i + 1],
                               &by_part[2 * i], &by_part[2 * i + 1]);
    }
    if (std::isnan(ln_effective)) return ln_effective;
    const double terms[] = {p[kA] - alpha * ln_effective, p[kB] - beta * at.ln(tokens), p[kE]};
    double shares[3];
    const double value = log_sum_exp(terms, shares);
    if (!gradient.empty()) {
      gradient[kA] = shares[0];
      gradient[kB] = shares[1];
      gradient[kE] = shares[2];
      gradient[kAlpha] = -shares[0] * ln_effective;
      const double by_beta = -shares[1] * at.ln(tokens);
      if (tied) {
        gradient[kAlpha] += by_beta;
      } else {
        gradient[kBeta] = by_beta;
      }
      for (size_t i = 0; i < 2 * parts.size(); ++i) {
        gradient[first + i] = -shares[0] * alpha * by_part[i];
      }
    }
    return value;
  };
  form.from_reported = [first](std::span<const double> r) {
    std::vector<double> fitted(r.begin(), r.end());
    for (size_t i = first; i < fitted.size(); i += 2) fitted[i] = std::log(fitted[i]);
    return fitted;
  };
  form.starts = [count = parts.size(), tied](std::span<const LawPoint>, std::span<const double>) {
    std::vector<std::vector<double>> choices = {{5, 8, 11}, {5, 8, 11}, {0, 1}, {0.3, 0.5, 0.8}};
    if (!tied) choices.push_back({0.3, 0.5});
    for (size_t i = 0; i < count; ++i) {
      // One part: the full grid. Several: together they would be thousands of starts.
      choices.push_back(i == 0 ? std::vector<double>{0.5, 1.2} : std::vector<double>{0.5});
      choices.push_back(i == 0 ? std::vector<double>{0, 0.5} : std::vector<double>{0.5});
    }
    return grid_of_starts(choices);
  };
  return form;
}

FormInfo effective_params_form(std::string name, std::string summary, std::string equation,
                               std::vector<QuantizedPart> parts, bool tied) {
  FormInfo info;
  info.name = std::move(name);
  info.summary = std::move(summary);
  info.equation = std::move(equation);
  info.source = "Kumar et al., arXiv 2411.04330, Eq 3 and 4, with offsets";
  info.quantity = LawQuantity::loss;
  info.default_objective = FitObjective::log;
  info.variables = {params, tokens};
  for (const QuantizedPart& part : parts) info.variables.push_back(part.bits);
  info.make = [parts, tied](std::vector<FormLevel>) { return make_effective_params(parts, tied); };
  return info;
}

// L = A (N rho)^-alpha + B D^-beta + E, rho = tanh(F log_1/4 GMSE)^C. Fitted as [ln A, ln B, ln E,
// alpha, beta, ln F, ln C]. The factor L of the paper's rho is 1: formats that saturate.
Form make_capacity() {
  enum : size_t { kA, kB, kE, kAlpha, kBeta, kF, kC };
  Form form;
  form.fitted = {{"ln A", "ln of the prefactor of size"},
                 {"ln B", "ln of the prefactor of tokens"},
                 {"ln E", "ln of the irreducible loss"},
                 {"alpha", "exponent of size"},
                 {"beta", "exponent of tokens"},
                 {"ln F", "ln of the scale of the format's rate"},
                 {"ln C", "ln of the exponent of the capacity"}};
  for (size_t i = 0; i < kF; ++i) {
    form.reported.push_back(report_same(i, form.fitted[i].name, form.fitted[i].meaning));
  }
  form.reported.push_back(report_exp(kF, "F", "scale of the format's rate"));
  form.reported.push_back(report_exp(kC, "C", "exponent of the capacity"));
  form.log_value = [](std::span<const double> p, const LawPoint& at, std::span<double> gradient) {
    const double rate = -at.ln(gmse) / (2 * std::numbers::ln2);  // log base 1/4
    const double c = std::exp(p[kC]), argument = std::exp(p[kF]) * rate;
    const double tanh = std::tanh(argument), ln_tanh = std::log(tanh);
    const double ln_effective = at.ln(params) + c * ln_tanh;
    const double terms[] = {p[kA] - p[kAlpha] * ln_effective, p[kB] - p[kBeta] * at.ln(tokens),
                            p[kE]};
    double shares[3];
    const double value = log_sum_exp(terms, shares);
    if (!gradient.empty()) {
      gradient[kA] = shares[0];
      gradient[kB] = shares[1];
      gradient[kE] = shares[2];
      gradient[kAlpha] = -shares[0] * ln_effective;
      gradient[kBeta] = -shares[1] * at.ln(tokens);
      gradient[kF] = -shares[0] * p[kAlpha] * c * argument * (1 - tanh * tanh) / tanh;
      gradient[kC] = -shares[0] * p[kAlpha] * c * ln_tanh;
    }
    return value;
  };
  form.from_reported = [](std::span<const double> r) {
    std::vector<double> fitted(r.begin(), r.end());
    fitted[kF] = std::log(fitted[kF]);
    fitted[kC] = std::log(fitted[kC]);
    return fitted;
  };
  form.starts = [](std::span<const LawPoint>, std::span<const double>) {
    return grid_of_starts(
        {{2, 5, 8}, {5, 8}, {0, 0.5, 1}, {0.15, 0.35, 0.5}, {0.3, 0.5}, {-1.2, -0.6}, {0, 0.5}});
  };
  form.starts_to_optimise = 60;
  return form;
}

// L = n/N^alpha + d/D^beta + eps + D^beta/N^alpha log2(G) / (gamma (E+0.5)^delta (M+0.5)^nu), G the
// block that shares a scale. Fitted with logarithms of n, d, eps and gamma.
Form make_float_training() {
  enum : size_t { kN, kD, kEps, kAlpha, kBeta, kGamma, kDelta, kNu };
  Form form;
  form.fitted = {{"ln n", "ln of the prefactor of size"},
                 {"ln d", "ln of the prefactor of tokens"},
                 {"ln eps", "ln of the irreducible loss"},
                 {"alpha", "exponent of size"},
                 {"beta", "exponent of tokens"},
                 {"ln gamma", "ln of the divisor of the precision term"},
                 {"delta", "exponent of the exponent bits"},
                 {"nu", "exponent of the mantissa bits"}};
  for (size_t i = 0; i < form.fitted.size(); ++i) {
    form.reported.push_back(report_same(i, form.fitted[i].name, form.fitted[i].meaning));
  }
  form.log_value = [](std::span<const double> p, const LawPoint& at, std::span<double> gradient) {
    const double ln_e = std::log(at[exponent_bits] + 0.5), ln_m = std::log(at[mantissa_bits] + 0.5);
    const double ln_n = at.ln(params), ln_d = at.ln(tokens);
    const double terms[] = {p[kN] - p[kAlpha] * ln_n, p[kD] - p[kBeta] * ln_d, p[kEps],
                            p[kBeta] * ln_d - p[kAlpha] * ln_n +
                                std::log(std::log2(at[group_size])) - p[kGamma] - p[kDelta] * ln_e -
                                p[kNu] * ln_m};
    double shares[4];
    const double value = log_sum_exp(terms, shares);
    if (!gradient.empty()) {
      gradient[kN] = shares[0];
      gradient[kD] = shares[1];
      gradient[kEps] = shares[2];
      gradient[kAlpha] = -(shares[0] + shares[3]) * ln_n;
      gradient[kBeta] = (shares[3] - shares[1]) * ln_d;
      gradient[kGamma] = -shares[3];
      gradient[kDelta] = -shares[3] * ln_e;
      gradient[kNu] = -shares[3] * ln_m;
    }
    return value;
  };
  form.from_reported = [](std::span<const double> r) {
    return std::vector<double>(r.begin(), r.end());
  };
  form.starts = [](std::span<const LawPoint>, std::span<const double>) {
    return grid_of_starts(
        {{2, 5, 8}, {3, 6, 9}, {0, 0.7}, {0.2, 0.4}, {0.2, 0.5}, {8, 14}, {1, 3}, {1, 3}});
  };
  form.starts_to_optimise = 60;
  return form;
}

// L = 1/C, C = a N^alpha log2(1 + b D^beta / (c (D N)^gamma + d D^delta + 1)). The paper has a
// ninth constant e in place of 1, but b, c, d and e share a factor that cancels.
Form make_channel() {
  enum : size_t { kA, kAlpha, kB, kBeta, kC, kGamma, kD, kDelta };
  Form form;
  form.fitted = {{"ln a", "ln of the bandwidth's prefactor"},
                 {"alpha", "exponent of the bandwidth"},
                 {"ln b", "ln of the signal's prefactor"},
                 {"beta", "exponent of the signal"},
                 {"ln c", "ln of the prefactor of noise that grows with D N"},
                 {"gamma", "exponent of noise that grows with D N"},
                 {"ln d", "ln of the prefactor of noise that grows with D"},
                 {"delta", "exponent of noise that grows with D"}};
  for (size_t i = 0; i < form.fitted.size(); ++i) {
    form.reported.push_back(report_same(i, form.fitted[i].name, form.fitted[i].meaning));
  }
  form.log_value = [](std::span<const double> p, const LawPoint& at, std::span<double> gradient) {
    const double ln_n = at.ln(params), ln_d = at.ln(tokens);
    const double noise[] = {p[kC] + p[kGamma] * (ln_d + ln_n), p[kD] + p[kDelta] * ln_d, 0.0};
    double shares[3];
    const double ln_noise = log_sum_exp(noise, shares);
    const double ln_ratio = p[kB] + p[kBeta] * ln_d - ln_noise;
    const double ln_one_plus = log_add_exp(0, ln_ratio);  // ln(1 + signal / noise)
    const double value = -(p[kA] + p[kAlpha] * ln_n + std::log(ln_one_plus / std::numbers::ln2));
    if (!gradient.empty()) {
      // d value / d ln ratio: both ratio / (1 + ratio) and the logarithm of the logarithm.
      const double slope = -std::exp(ln_ratio - ln_one_plus) / ln_one_plus;
      gradient[kA] = -1;
      gradient[kAlpha] = -ln_n;
      gradient[kB] = slope;
      gradient[kBeta] = slope * ln_d;
      gradient[kC] = -slope * shares[0];
      gradient[kGamma] = -slope * shares[0] * (ln_d + ln_n);
      gradient[kD] = -slope * shares[1];
      gradient[kDelta] = -slope * shares[1] * ln_d;
    }
    return value;
  };
  form.from_reported = [](std::span<const double> r) {
    return std::vector<double>(r.begin(), r.end());
  };
  // Noise terms start at a share of e^-2 to 1 of the constant noise at the centre of the data.
  form.starts = [](std::span<const LawPoint> points, std::span<const double> values) {
    double ln_n = 0, ln_d = 0, ln_loss = 0;
    const double count = static_cast<double>(points.size());
    for (size_t i = 0; i < points.size(); ++i) {
      ln_n += points[i].ln(params) / count;
      ln_d += points[i].ln(tokens) / count;
      ln_loss += std::log(values[i]) / count;
    }
    std::vector<std::vector<double>> starts;
    for (const auto& g : grid_of_starts({{0.02, 0.05, 0.1},
                                         {0, 2, 4},
                                         {0.2, 0.5},
                                         {-2, 0},
                                         {0.2, 0.5},
                                         {-2, 0},
                                         {0.2, 0.5}})) {
      const double alpha = g[0], ln_signal = g[1], beta = g[2], gamma = g[4], delta = g[6];
      const double ln_noise = std::log(1 + std::exp(g[3]) + std::exp(g[5]));
      const double capacity = std::log2(1 + std::exp(ln_signal - ln_noise));
      starts.push_back({-ln_loss - alpha * ln_n - std::log(capacity), alpha,
                        ln_signal - beta * ln_d, beta, g[3] - gamma * (ln_d + ln_n), gamma,
                        g[5] - delta * ln_d, delta});
    }
    return starts;
  };
  form.starts_to_optimise = 60;
  return form;
}

FormInfo loss_form(std::string name, std::string summary, std::string equation, std::string source,
                   std::vector<LawVariable> variables, Form (*make)()) {
  FormInfo info;
  info.name = std::move(name);
  info.summary = std::move(summary);
  info.equation = std::move(equation);
  info.source = std::move(source);
  info.quantity = LawQuantity::loss;
  info.default_objective = FitObjective::log;
  info.variables = std::move(variables);
  info.make = [make](std::vector<FormLevel>) { return make(); };
  return info;
}

}  // namespace

std::vector<FormInfo> precision_forms() {
  const QuantizedPart weights{train_bits, "w", "the weights"};
  const QuantizedPart activations{activation_bits, "a", "the activations"};
  const QuantizedPart cache{cache_bits, "kv", "keys and values"};
  std::vector<FormInfo> forms;
  forms.push_back(effective_params_form(
      "low_precision", "effective parameters: weights trained in low precision, tied exponents",
      "L = A [N (1 - exp(-P_train/gamma_w + n_w))]^-alpha + B D^-alpha + E", {weights}, true));
  forms.push_back(effective_params_form(
      "low_precision_untied", "the same with an own exponent for tokens",
      "L = A [N (1 - exp(-P_train/gamma_w + n_w))]^-alpha + B D^-beta + E", {weights}, false));
  forms.push_back(effective_params_form(
      "low_precision_parts", "effective parameters: weights, activations and cache, tied exponents",
      "L = A [N f_w f_a f_kv]^-alpha + B D^-alpha + E, f_x = 1 - exp(-P_x/gamma_x + n_x)",
      {weights, activations, cache}, true));
  forms.push_back(loss_form("capacity", "representation capacity of the number format",
                            "L = A (N rho)^-alpha + B D^-beta + E, rho = tanh(F log_1/4 GMSE)^C",
                            "Panferov et al., arXiv 2506.01863", {params, tokens, gmse},
                            make_capacity));
  forms.push_back(loss_form(
      "float_training", "training in floating-point formats",
      "L = n/N^alpha + d/D^beta + eps + D^beta/N^alpha log2(G)/(gamma (E+0.5)^delta (M+0.5)^nu)",
      "arXiv 2501.02423", {params, tokens, exponent_bits, mantissa_bits, group_size},
      make_float_training));
  forms.back().domain_problem = [](const LawPoint& at) -> std::string {
    return at[group_size] > 1 ? "" : "group_size 1 gives log2 G = 0";
  };
  forms.push_back(loss_form(
      "channel", "noisy channel, U-shaped in tokens (eight parameters: compare before use)",
      "1/L = a N^alpha log2(1 + b D^beta / (c (D N)^gamma + d D^delta + 1))", "arXiv 2605.23901",
      {params, tokens}, make_channel));
  return forms;
}

}  // namespace fewbit
