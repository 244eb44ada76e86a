// Forms of quantization-induced degradation (Ouyang et al., arXiv 2411.17691, and its rivals).
#include <array>
#include <cmath>

#include "fewbit/laws/form_parts.h"

namespace fewbit {
namespace {

using enum LawVariable;

constexpr const char* kOuyang = "Ouyang et al., arXiv 2411.17691";
constexpr const char* kKumar = "Kumar et al., arXiv 2411.04330";
constexpr const char* kChen = "Chen et al., arXiv 2505.14302";

struct LogLinearForm {
  std::string name, summary, equation, source;
  std::vector<LawVariable> variables, grouped_by;
  std::vector<LogLinearTerm> terms;
  std::optional<Reciprocal> reciprocal = std::nullopt;
  std::function<std::string(const LawPoint&)> domain_problem = nullptr;
};

FormInfo qid_form(LogLinearForm form) {
  FormInfo info;
  info.name = form.name;
  info.summary = form.summary;
  info.equation = form.equation;
  info.source = form.source;
  info.variables = form.variables;
  info.grouped_by = form.grouped_by;
  info.domain_problem = form.domain_problem;
  info.make = [terms = form.terms, grouped_by = form.grouped_by,
               reciprocal = form.reciprocal](std::vector<FormLevel> levels) {
    return make_log_linear(terms, std::move(levels), grouped_by, reciprocal);
  };
  return info;
}

LogLinearTerm ratio_term() {
  return {"beta", "exponent of the tokens per parameter",
          [](const LawPoint& at) { return at.ln(tokens) - at.ln(params); }};
}

LogLinearTerm group_term(std::string name) {
  return {std::move(name), "exponent of log2 of the group size",
          [](const LawPoint& at) { return std::log(std::log2(at[group_size])); }};
}

LogLinearTerm learning_rate_term() {
  return {"kappa", "exponent of the remaining share of the peak learning rate (in the denominator)",
          [](const LawPoint& at) { return -at.ln(lr_ratio); }};
}

std::string group_domain(const LawPoint& at) {
  return at[group_size] > 1 ? "" : "group_size 1 gives log2 G = 0";
}

// delta = C_T e^(-P/gamma) D^gamma_D / N^gamma_N (1 - e^(-C_w (P_train - P))): after training in
// P_train bits (Eq 8). Fitted as [ln C_T, gamma_D, gamma_N, 1/gamma, ln C_w].
Form make_trained_low() {
  constexpr size_t kLnC = 0, kTokens = 1, kSize = 2, kInverse = 3, kLnCw = 4;
  Form form;
  form.fitted = {{"ln C_T", "ln of the prefactor"},
                 {"gamma_D", "exponent of the training tokens"},
                 {"gamma_N", "exponent of the model size (in the denominator)"},
                 {"1/gamma_post", "reciprocal of the bits over which QiD falls by e"},
                 {"ln C_w", "ln of the rate at which robustness is lost per bit"}};
  form.log_value = [](std::span<const double> p, const LawPoint& at, std::span<double> gradient) {
    const double rate = std::exp(p[kLnCw]), gap = at[train_bits] - at[bits];
    const double decay = std::exp(-rate * gap);
    if (!gradient.empty()) {
      gradient[kLnC] = 1;
      gradient[kTokens] = at.ln(tokens);
      gradient[kSize] = -at.ln(params);
      gradient[kInverse] = -at[bits];
      gradient[kLnCw] = rate * gap * decay / -std::expm1(-rate * gap);
    }
    return p[kLnC] + p[kTokens] * at.ln(tokens) - p[kSize] * at.ln(params) -
           p[kInverse] * at[bits] + std::log(-std::expm1(-rate * gap));
  };
  form.reported = {report_same(kLnC, "ln C_T", form.fitted[kLnC].meaning),
                   report_same(kTokens, "gamma_D", form.fitted[kTokens].meaning),
                   report_same(kSize, "gamma_N", form.fitted[kSize].meaning),
                   {"gamma_post", "bits over which QiD falls by e", -kInfinity, kInfinity,
                    [](std::span<const double> p, std::span<double> gradient) {
                      if (!gradient.empty()) {
                        std::fill(gradient.begin(), gradient.end(), 0.0);
                        gradient[kInverse] = -1 / (p[kInverse] * p[kInverse]);
                      }
                      return 1 / p[kInverse];
                    }},
                   report_exp(kLnCw, "C_w", "rate at which robustness is lost per bit")};
  form.from_reported = [](std::span<const double> r) {
    return std::vector<double>{r[kLnC], r[kTokens], r[kSize], 1 / r[kInverse], std::log(r[kLnCw])};
  };
  form.starts = [](std::span<const LawPoint> points, std::span<const double> values) {
    // The prefactor follows from the other parameters: it centres the residuals.
    auto starts = grid_of_starts({{0}, {0.2, 0.6}, {0.1, 0.4}, {0.7, 1.7}, {-2, -0.5, 1}});
    for (auto& start : starts) {
      double sum = 0, count = 0;
      for (size_t i = 0; i < points.size(); ++i) {
        if (!(values[i] > 0)) continue;
        const LawPoint& at = points[i];
        sum += std::log(values[i]) - start[kTokens] * at.ln(tokens) + start[kSize] * at.ln(params) +
               start[kInverse] * at[bits] -
               std::log(-std::expm1(-std::exp(start[kLnCw]) * (at[train_bits] - at[bits])));
        ++count;
      }
      if (count > 0) start[kLnC] = sum / count;
    }
    return starts;
  };
  return form;
}

}  // namespace

std::vector<FormInfo> qid_forms() {
  std::vector<FormInfo> forms;
  forms.push_back(qid_form({"unified",
                            "power laws in tokens, size and bits",
                            "QiD = k D^beta / (N^alpha P^gamma)",
                            std::string(kOuyang) + ", Eq 8",
                            {params, tokens, bits},
                            {},
                            {intercept_term(), tokens_term(), size_term(), bits_power_term()}}));
  forms.push_back(qid_form(
      {"per_bits",
       "separate constants for each bit width",
       "QiD = k_P D^beta_P / N^alpha_P",
       std::string(kOuyang) + ", Table 1",
       {params, tokens, bits},
       {bits},
       {intercept_term("ln k", true), tokens_term("beta", true), size_term("alpha", true)}}));
  forms.push_back(qid_form({"categorical",
                            "one prefactor per bit width, shared exponents",
                            "QiD = k_P D^beta / N^alpha",
                            "free intercept per bit width",
                            {params, tokens, bits},
                            {bits},
                            {intercept_term("ln k", true), tokens_term(), size_term()}}));
  forms.push_back(
      qid_form({"exponential",
                "exponential in bits",
                "QiD = k D^beta / N^alpha exp(-P / gamma)",
                std::string(kKumar) + ", Eq 2",
                {params, tokens, bits},
                {},
                {intercept_term(), tokens_term(), size_term(), inverse_bits_scale_term()},
                Reciprocal{"1/gamma", "gamma"}}));
  forms.push_back(qid_form({"ratio",
                            "tokens per parameter only (beta = alpha)",
                            "QiD = k (D/N)^beta / P^gamma",
                            "unified form with tied exponents",
                            {params, tokens, bits},
                            {},
                            {intercept_term(), ratio_term(), bits_power_term()}}));
  forms.push_back(qid_form({"no_tokens",
                            "without training tokens",
                            "QiD = k / (N^alpha P^gamma)",
                            "baseline: unified form without D",
                            {params, bits},
                            {},
                            {intercept_term(), size_term(), bits_power_term()}}));
  forms.push_back(qid_form({"constant",
                            "one constant per bit width",
                            "QiD = k_P",
                            "baseline: neither N nor D",
                            {bits},
                            {bits},
                            {intercept_term("ln k", true)}}));
  forms.push_back(qid_form({"tokens",
                            "tokens; one prefactor for each size and bit width",
                            "QiD = b_NP D^beta",
                            std::string(kOuyang) + ", Eq 5",
                            {params, tokens, bits},
                            {params, bits},
                            {intercept_term("ln b", true), tokens_term()}}));
  forms.push_back(qid_form({"size",
                            "size; one prefactor for each token count and bit width",
                            "QiD = a_DP / N^alpha",
                            std::string(kOuyang) + ", Eq 6",
                            {params, tokens, bits},
                            {tokens, bits},
                            {intercept_term("ln a", true), size_term()}}));
  forms.push_back(qid_form({"bits",
                            "bits; one prefactor for each size and token count",
                            "QiD = c_ND / P^gamma",
                            std::string(kOuyang) + ", Eq 7",
                            {params, tokens, bits},
                            {params, tokens},
                            {intercept_term("ln c", true), bits_power_term()}}));
  forms.push_back(qid_form(
      {"unified_group",
       "unified form with a group-size term",
       "QiD = k D^beta (log2 G)^gamma_G / (N^alpha P^gamma)",
       std::string(kOuyang) + " with the group term of " + kChen,
       {params, tokens, bits, group_size},
       {},
       {intercept_term(), tokens_term(), size_term(), bits_power_term(), group_term("gamma_G")},
       std::nullopt,
       group_domain}));
  forms.push_back(qid_form(
      {"unified_lr",
       "unified form with a learning-rate term",
       "QiD = k D^beta / (N^alpha P^gamma) (lr/lr_peak)^-kappa",
       "tests the critique of Catalan-Tatjer et al., arXiv 2510.06213",
       {params, tokens, bits, lr_ratio},
       {},
       {intercept_term(), tokens_term(), size_term(), bits_power_term(), learning_rate_term()}}));
  forms.push_back(qid_form(
      {"qat_group",
       "quantization-aware training with group size",
       "QiD = k D^gamma_D (log2 G)^gamma_G / N^gamma_N",
       kChen,
       {params, tokens, group_size},
       {},
       {intercept_term(), size_term("gamma_N"), tokens_term("gamma_D"), group_term("gamma_G")},
       std::nullopt,
       group_domain}));
  forms.push_back(qid_form({"qat_group_no_tokens",
                            "quantization-aware training with group size, without tokens",
                            "QiD = k (log2 G)^gamma_G / N^gamma_N",
                            std::string("baseline of ") + kChen,
                            {params, group_size},
                            {},
                            {intercept_term(), size_term("gamma_N"), group_term("gamma_G")},
                            std::nullopt,
                            group_domain}));

  FormInfo trained_low;
  trained_low.name = "trained_low";
  trained_low.summary = "quantized after training in low precision";
  trained_low.equation =
      "QiD = C_T exp(-P/gamma_post) D^gamma_D / N^gamma_N (1 - exp(-C_w (P_train - P)))";
  trained_low.source = std::string(kKumar) + ", Eq 8";
  trained_low.variables = {params, tokens, bits, train_bits};
  trained_low.domain_problem = [](const LawPoint& at) -> std::string {
    return at[train_bits] > at[bits] ? "" : "bits is not below train_bits: the law gives 0";
  };
  trained_low.make = [](std::vector<FormLevel>) { return make_trained_low(); };
  forms.push_back(std::move(trained_low));
  return forms;
}

}  // namespace fewbit
