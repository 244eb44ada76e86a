#include "fewbit/laws/predict.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "fewbit/base/error.h"
#include "fewbit/laws/law_data.h"
#include "fewbit/laws/scalar_minimum.h"

namespace fewbit {
namespace {

constexpr double kScaleBits = 16;

double value_at(const Law& law, std::span<const double> fitted, const LawPoint& point) {
  const std::string problem = law.form.info->problem_at(point);
  require(problem.empty(), "form {}: {}", law.form.info->name, problem);
  return law.form.value(fitted, point);
}

std::vector<double> values_of_draws(const LawWithErrors& law, const LawPoint& point) {
  std::vector<double> values;
  for (const auto& draw : law.draws) values.push_back(law.law.form.value(draw, point));
  return values;
}

Interval interval_of(std::span<const double> values, double level) {
  // Fewer draws than this say nothing about tails.
  constexpr size_t kFewestDraws = 20;
  if (values.size() < kFewestDraws) return {kMissing, kMissing};
  return percentile_interval(values, level);
}

double distance(const DataHull::Offset& offset) {
  return std::hypot(offset.ln_params, offset.ln_tokens, offset.bits);
}

void check_offset(const std::optional<LawWithErrors>& law, const LawPoint& point,
                  Prediction& prediction) {
  if (!law || law->hull.empty()) return;
  const DataHull::Offset offset = law->hull.offset(point);
  if (distance(offset) > distance(prediction.offset)) prediction.offset = offset;
}

}  // namespace

LawWithErrors published_law(const LawPreset& preset) {
  LawWithErrors result{law_of(preset), {}, {}};
  if (!preset.corners.empty()) result.hull = DataHull(preset.corners);
  return result;
}

Prediction predict(const Predictor& predictor, const LawPoint& point) {
  require(predictor.loss16 || predictor.qid, "a prediction needs a law of loss16 or of qid");
  Prediction result;
  result.point = point;
  result.loss16 = result.qid = result.loss = result.headroom = result.capped_qid = kMissing;
  result.loss16_interval = result.qid_interval = result.loss_interval = {kMissing, kMissing};
  std::vector<double> loss_draws, qid_draws;
  if (predictor.loss16) {
    result.loss16 = value_at(predictor.loss16->law, predictor.loss16->law.fitted, point);
    loss_draws = values_of_draws(*predictor.loss16, point);
    result.loss16_interval = interval_of(loss_draws, predictor.level);
    if (predictor.vocab > 0) result.headroom = std::log(predictor.vocab) - result.loss16;
  }
  check_offset(predictor.loss16, point, result);
  // A query without a bit width asks for the loss before quantization only.
  const bool with_qid = predictor.qid && (point.has(LawVariable::bits) || !predictor.loss16);
  if (with_qid) {
    result.qid = value_at(predictor.qid->law, predictor.qid->law.fitted, point);
    qid_draws = values_of_draws(*predictor.qid, point);
    result.qid_interval = interval_of(qid_draws, predictor.level);
    result.at_or_below_random = result.qid >= result.headroom;
    result.capped_qid = result.at_or_below_random ? result.headroom : result.qid;
    check_offset(predictor.qid, point, result);
  }
  if (predictor.loss16 && with_qid) {
    result.loss = result.loss16 + result.capped_qid;
    // The two laws are fitted separately: their draws are independent and pair in order. A law
    // without draws counts as exact.
    const size_t count = loss_draws.empty()  ? qid_draws.size()
                         : qid_draws.empty() ? loss_draws.size()
                                             : std::min(loss_draws.size(), qid_draws.size());
    std::vector<double> sums;
    for (size_t i = 0; i < count; ++i) {
      double sum = (loss_draws.empty() ? result.loss16 : loss_draws[i]) +
                   (qid_draws.empty() ? result.qid : qid_draws[i]);
      if (predictor.vocab > 0) sum = std::min(sum, std::log(predictor.vocab));
      sums.push_back(sum);
    }
    result.loss_interval = interval_of(sums, predictor.level);
  }
  if (result.offset.outside) {
    result.warning = "EXTRAPOLATION BEYOND THE DATA: " + describe(result.offset);
  }
  return result;
}

double tokens_for_qid(const Law& law, LawPoint point, double qid) {
  require(qid > 0, "qid {} is not positive", qid);
  const FormInfo& info = *law.form.info;
  require(info.reads(LawVariable::tokens) && law.form.log_linear(),
          "form {} cannot be solved for tokens", info.name);
  for (const LawVariable variable : info.grouped_by) {
    require(variable != LawVariable::tokens, "form {} has constants per token count", info.name);
  }
  // ln QiD = intercept + slope ln D.
  point.set(LawVariable::tokens, 1);
  const std::string problem = info.problem_at(point);
  require(problem.empty(), "form {}: {}", info.name, problem);
  std::vector<double> row(law.fitted.size());
  law.form.design(point, row);
  const double intercept = law.form.log_value(law.fitted, point, {});
  point.set(LawVariable::tokens, std::exp(1.0));
  std::vector<double> next(law.fitted.size());
  law.form.design(point, next);
  double slope = 0;
  for (size_t j = 0; j < row.size(); ++j) slope += law.fitted[j] * (next[j] - row[j]);
  require(slope != 0, "form {}: the exponent of tokens is 0", info.name);
  return std::exp((std::log(qid) - intercept) / slope);
}

double tokens_for_qid(const Law& law, double params, double bits, double qid) {
  return tokens_for_qid(law, LawPoint(params, 1, bits), qid);
}

BestTokens best_tokens(const Law& loss16, const Law& qid, double params, double bits, double low,
                       double high) {
  require(low > 0 && high > low, "token range {} to {}", low, high);
  const auto total = [&](double ln_tokens) {
    const LawPoint point(params, std::exp(ln_tokens), bits);
    return value_at(loss16, loss16.fitted, point) + value_at(qid, qid.fitted, point);
  };
  const ScalarMinimum best = golden_minimum(total, std::log(low), std::log(high));
  // Within this of an end the search has run into it.
  constexpr double kEdge = 1e-6;
  return {std::exp(best.at), best.value,
          best.at > std::log(low) + kEdge && best.at < std::log(high) - kEdge};
}

std::optional<double> smallest_bits(const Predictor& predictor, double params, double tokens,
                                    double target, std::vector<double> bit_widths) {
  require(predictor.loss16 && predictor.qid, "the smallest bit width needs both laws");
  std::sort(bit_widths.begin(), bit_widths.end());
  for (const double bits : bit_widths) {
    if (predict(predictor, LawPoint(params, tokens, bits)).loss <= target) return bits;
  }
  return std::nullopt;
}

double effective_bits(double bits, double group_size) {
  return group_size > 0 ? bits + (kScaleBits + bits) / group_size : bits;
}

std::vector<SizedLoss> pareto_front(std::vector<SizedLoss> candidates) {
  std::sort(candidates.begin(), candidates.end(), [](const SizedLoss& a, const SizedLoss& b) {
    return std::tie(a.total_bits, a.loss, a.index) < std::tie(b.total_bits, b.loss, b.index);
  });
  std::vector<SizedLoss> front;
  for (const SizedLoss& candidate : candidates) {
    if (front.empty() || candidate.loss < front.back().loss) front.push_back(candidate);
  }
  return front;
}

}  // namespace fewbit
