// Forms of the loss before quantization: Kaplan et al. (arXiv 2001.08361) and Hoffmann et al.
// (arXiv 2203.15556).
#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "fewbit/laws/form_parts.h"

namespace fewbit {
namespace {

using enum LawVariable;

// L = ((Nc/N)^r + Dc/D)^alpha_D with r = alpha_N / alpha_D. Fitted as [r ln Nc, ln Dc, ln r,
// ln alpha_D], in which ln L = alpha_D logaddexp(r ln Nc - r ln N, ln Dc - ln D) is smooth and free
// of bounds. The first coordinate is r ln Nc because ln Nc alone and r are nearly collinear.
enum Kaplan : size_t { kRatioLnNc, kLnDc, kLnRatio, kLnAlphaD, kKaplanSize };

double kaplan_log_value(std::span<const double> p, const LawPoint& at, std::span<double> gradient) {
  const double ratio = std::exp(p[kLnRatio]), alpha_d = std::exp(p[kLnAlphaD]);
  const double u = p[kRatioLnNc] - ratio * at.ln(params), v = p[kLnDc] - at.ln(tokens);
  const double l = log_add_exp(u, v);
  if (!gradient.empty()) {
    const double share_u = std::exp(u - l), share_v = std::exp(v - l);
    gradient[kRatioLnNc] = alpha_d * share_u;
    gradient[kLnDc] = alpha_d * share_v;
    gradient[kLnRatio] = -alpha_d * share_u * ratio * at.ln(params);
    gradient[kLnAlphaD] = alpha_d * l;
  }
  return alpha_d * l;
}

// For fixed r and alpha_D the form is linear in (Nc^r, Dc): L^(1/alpha_D) = Nc^r N^-r + Dc D^-1.
std::vector<std::vector<double>> kaplan_starts(std::span<const LawPoint> points,
                                               std::span<const double> values) {
  // A coefficient that comes out negative is set to this, on columns scaled to a maximum of 1.
  constexpr double kSmallestCoefficient = 1e-6;
  std::vector<std::vector<double>> starts;
  const auto n = static_cast<Eigen::Index>(points.size());
  for (const double ratio : {0.05, 0.1, 0.2, 0.4, 0.8}) {
    for (const double alpha_d : {0.05, 0.1, 0.2, 0.4, 0.6}) {
      Eigen::MatrixXd columns(n, 2);
      // Columns differ by ten decades: scale them, by logarithms.
      double top_n = -kInfinity, top_d = -kInfinity;
      for (const LawPoint& at : points) {
        top_n = std::max(top_n, -ratio * at.ln(params));
        top_d = std::max(top_d, -at.ln(tokens));
      }
      for (Eigen::Index i = 0; i < n; ++i) {
        const LawPoint& at = points[static_cast<size_t>(i)];
        // Rows are divided by L^(1/alpha_D): relative errors.
        const double row = std::log(values[static_cast<size_t>(i)]) / alpha_d;
        columns(i, 0) = std::exp(-ratio * at.ln(params) - top_n - row);
        columns(i, 1) = std::exp(-at.ln(tokens) - top_d - row);
      }
      const Eigen::RowVector2d scale = columns.colwise().maxCoeff();
      if (!(scale.minCoeff() > 0) || !std::isfinite(scale.maxCoeff())) continue;
      columns.array().rowwise() /= scale.array();
      Eigen::Vector2d solution = columns.colPivHouseholderQr().solve(Eigen::VectorXd::Ones(n));
      solution = solution.cwiseMax(kSmallestCoefficient);
      starts.push_back({std::log(solution[0] / scale[0]) - top_n,
                        std::log(solution[1] / scale[1]) - top_d, std::log(ratio),
                        std::log(alpha_d)});
    }
  }
  return starts;
}

Form make_kaplan() {
  Form form;
  form.fitted = {{"r ln Nc", "alpha_N / alpha_D times ln Nc"},
                 {"ln Dc", "ln of the token scale"},
                 {"ln r", "ln of alpha_N / alpha_D"},
                 {"ln alpha_D", "ln of the exponent of tokens"}};
  form.log_value = kaplan_log_value;
  form.starts = kaplan_starts;
  form.reported = {{"ln Nc", "ln of the size scale", -kInfinity, kInfinity,
                    [](std::span<const double> p, std::span<double> gradient) {
                      const double ratio = std::exp(p[kLnRatio]), value = p[kRatioLnNc] / ratio;
                      if (!gradient.empty()) {
                        std::fill(gradient.begin(), gradient.end(), 0.0);
                        gradient[kRatioLnNc] = 1 / ratio;
                        gradient[kLnRatio] = -value;
                      }
                      return value;
                    }},
                   report_same(kLnDc, "ln Dc", "ln of the token scale"),
                   {"alpha_N", "exponent of size", 0, kInfinity,
                    [](std::span<const double> p, std::span<double> gradient) {
                      const double value = std::exp(p[kLnRatio] + p[kLnAlphaD]);
                      if (!gradient.empty()) {
                        std::fill(gradient.begin(), gradient.end(), 0.0);
                        gradient[kLnRatio] = gradient[kLnAlphaD] = value;
                      }
                      return value;
                    }},
                   report_exp(kLnAlphaD, "alpha_D", "exponent of tokens")};
  form.from_reported = [](std::span<const double> r) {
    const double ratio = r[2] / r[3];
    return std::vector<double>{ratio * r[0], r[1], std::log(ratio), std::log(r[3])};
  };
  return form;
}

// ln L = logsumexp(a - alpha ln N, b - beta ln D, e) with a, b, e = ln A, ln B, ln E.
enum Chinchilla : size_t { kA, kB, kE, kAlpha, kBeta, kChinchillaSize };

double chinchilla_log_value(std::span<const double> p, const LawPoint& at,
                            std::span<double> gradient) {
  const double terms[] = {p[kA] - p[kAlpha] * at.ln(params), p[kB] - p[kBeta] * at.ln(tokens),
                          p[kE]};
  if (gradient.empty()) return log_sum_exp(terms, {});
  double shares[3];
  const double value = log_sum_exp(terms, shares);
  gradient[kA] = shares[0];
  gradient[kB] = shares[1];
  gradient[kE] = shares[2];
  gradient[kAlpha] = -shares[0] * at.ln(params);
  gradient[kBeta] = -shares[1] * at.ln(tokens);
  return value;
}

Form make_chinchilla() {
  Form form;
  form.fitted = {{"ln A", "ln of the prefactor of size"},
                 {"ln B", "ln of the prefactor of tokens"},
                 {"ln E", "ln of the irreducible loss"},
                 {"alpha", "exponent of size"},
                 {"beta", "exponent of tokens"}};
  for (size_t i = 0; i < kChinchillaSize; ++i) {
    form.reported.push_back(report_same(i, form.fitted[i].name, form.fitted[i].meaning));
  }
  form.log_value = chinchilla_log_value;
  form.from_reported = [](std::span<const double> r) {
    return std::vector<double>(r.begin(), r.end());
  };
  // The grid of Hoffmann et al., approach 3: 4500 starts, of which the best 40 are optimised.
  form.starts = [](std::span<const LawPoint>, std::span<const double>) {
    return grid_of_starts({{0, 5, 10, 15, 20, 25},
                           {0, 5, 10, 15, 20, 25},
                           {-1, -0.5, 0, 0.5, 1},
                           {0, 0.5, 1, 1.5, 2},
                           {0, 0.5, 1, 1.5, 2}});
  };
  form.starts_to_optimise = 40;
  return form;
}

}  // namespace

std::vector<FormInfo> loss_forms() {
  FormInfo kaplan;
  kaplan.name = "kaplan";
  kaplan.summary = "joint law of size and tokens without an irreducible term";
  kaplan.equation = "L = ((Nc/N)^(alpha_N/alpha_D) + Dc/D)^alpha_D";
  kaplan.source = "Kaplan et al., arXiv 2001.08361, Eq 1.5";
  kaplan.quantity = LawQuantity::loss16;
  kaplan.default_objective = FitObjective::log;
  kaplan.variables = {params, tokens};
  kaplan.make = [](std::vector<FormLevel>) { return make_kaplan(); };

  FormInfo chinchilla;
  chinchilla.name = "chinchilla";
  chinchilla.summary = "irreducible loss plus power laws in size and tokens";
  chinchilla.equation = "L = E + A/N^alpha + B/D^beta";
  chinchilla.source = "Hoffmann et al., arXiv 2203.15556, approach 3";
  chinchilla.quantity = LawQuantity::loss16;
  chinchilla.default_objective = FitObjective::huber;
  chinchilla.variables = {params, tokens};
  chinchilla.make = [](std::vector<FormLevel>) { return make_chinchilla(); };
  return {kaplan, chinchilla};
}

}  // namespace fewbit
