#include "fewbit/eval/distance.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr size_t kFewestForError = 10;

struct Quantile {
  double fraction;
  const char* key;
};
constexpr std::array<Quantile, 8> kKldQuantiles{{{0.999, "p999"},
                                                 {0.99, "p99"},
                                                 {0.95, "p95"},
                                                 {0.90, "p90"},
                                                 {0.50, "median"},
                                                 {0.10, "p10"},
                                                 {0.05, "p05"},
                                                 {0.01, "p01"}}};
constexpr std::array<Quantile, 11> kProbabilityQuantiles{{{0.999, "p999"},
                                                          {0.99, "p99"},
                                                          {0.95, "p95"},
                                                          {0.90, "p90"},
                                                          {0.75, "p75"},
                                                          {0.50, "median"},
                                                          {0.25, "p25"},
                                                          {0.10, "p10"},
                                                          {0.05, "p05"},
                                                          {0.01, "p01"},
                                                          {0.001, "p001"}}};

Distribution distribution(std::vector<double> values, std::span<const Quantile> quantiles) {
  Distribution result;
  result.mean = token_mean(values);
  std::sort(values.begin(), values.end());
  result.min = values.front();
  result.max = values.back();
  for (const Quantile& q : quantiles) {
    result.quantiles.push_back({q.fraction, q.key, quantile_sorted(values, q.fraction)});
  }
  return result;
}

double mean_product(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum / static_cast<double>(a.size());
}

void add_estimate(Json& json, const std::string& key, const Estimate& estimate) {
  json[key] = estimate.value;
  json[key + "_unc"] = estimate.standard_error;
}

void add_distribution(Json& json, const std::string& prefix, const Distribution& d) {
  json[prefix + "_mean"] = d.mean.value;
  json[prefix + "_unc"] = d.mean.standard_error;
  json[prefix + "_max"] = d.max;
  json[prefix + "_min"] = d.min;
  for (const QuantileValue& q : d.quantiles) json[prefix + "_" + q.key] = q.value;
}

}  // namespace

Estimate token_mean(std::span<const double> values) {
  require(!values.empty(), "mean of no tokens");
  const double n = static_cast<double>(values.size());
  double sum = 0;
  for (const double v : values) sum += v;
  const double mean = sum / n;
  if (values.size() <= kFewestForError) return {mean, 0};
  // Centred: the same number as mean(x^2) - mean(x)^2 without its cancellation.
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {mean, std::sqrt(squares / n / (n - 1))};
}

DistanceSummary summarize_distance(std::span<const TokenComparison> tokens) {
  require(!tokens.empty(), "no scored tokens to compare");
  const size_t count = tokens.size();
  const double n = static_cast<double>(count);
  std::vector<double> base(count), quantized(count), kld(count), shift(count);
  double same = 0;
  for (size_t i = 0; i < count; ++i) {
    base[i] = tokens[i].nll_base;
    quantized[i] = tokens[i].nll_quantized;
    kld[i] = tokens[i].kld;
    shift[i] = tokens[i].p_diff;
    same += tokens[i].same_top ? 1 : 0;
  }

  DistanceSummary s;
  s.count = count;
  const Estimate b = token_mean(base), q = token_mean(quantized);
  s.ppl_base = {std::exp(b.value), std::exp(b.value) * b.standard_error};
  s.ppl_quantized = {std::exp(q.value), std::exp(q.value) * q.standard_error};

  double covariance = 0;
  if (count > kFewestForError) {
    double sum = 0;
    for (size_t i = 0; i < count; ++i) sum += (quantized[i] - q.value) * (base[i] - b.value);
    covariance = sum / n / (n - 1);
  }
  const double errors = q.standard_error * b.standard_error;
  s.correlation = errors > 0 ? covariance / errors : 0;
  // The variance of a difference may come out a rounding error below zero.
  const auto root = [](double variance) { return std::sqrt(std::max(0.0, variance)); };
  s.ln_ratio = {q.value - b.value, root(q.standard_error * q.standard_error +
                                        b.standard_error * b.standard_error - 2 * covariance)};
  s.ratio.value = std::exp(s.ln_ratio.value);
  s.ratio.standard_error = s.ratio.value * s.ln_ratio.standard_error;
  const double uq = s.ppl_quantized.standard_error, ub = s.ppl_base.standard_error;
  s.ppl_difference = {
      s.ppl_quantized.value - s.ppl_base.value,
      root(uq * uq + ub * ub - 2 * s.ppl_quantized.value * s.ppl_base.value * covariance)};

  std::vector<double> squares(count);
  for (size_t i = 0; i < count; ++i) squares[i] = shift[i] * shift[i];
  const Estimate square = token_mean(squares);
  s.p_diff_rms.value = std::sqrt(mean_product(shift, shift));
  if (s.p_diff_rms.value > 0) {
    s.p_diff_rms.standard_error = 0.5 / s.p_diff_rms.value * square.standard_error;
  }
  s.kld = distribution(std::move(kld), kKldQuantiles);
  s.p_diff = distribution(std::move(shift), kProbabilityQuantiles);
  const double share = same / n;
  s.same_top = {share, count > 1 ? std::sqrt(share * (1 - share) / (n - 1)) : 0};
  return s;
}

Json to_json(const DistanceSummary& s) {
  Json json;
  json["count"] = s.count;
  add_estimate(json, "ppl_q", s.ppl_quantized);
  add_estimate(json, "ppl_base", s.ppl_base);
  json["cor"] = s.correlation;
  add_estimate(json, "ln_ratio", s.ln_ratio);
  add_estimate(json, "ratio", s.ratio);
  add_estimate(json, "ppl_diff", s.ppl_difference);
  add_distribution(json, "kld", s.kld);
  add_distribution(json, "dp", s.p_diff);
  add_estimate(json, "dp_rms", s.p_diff_rms);
  add_estimate(json, "same_top", s.same_top);
  return json;
}

}  // namespace fewbit
