#include "fewbit/laws/predict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/laws/bootstrap.h"
#include "fewbit/laws/fit_json.h"
#include "fewbit/laws/test_rows.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;

Predictor published() {
  Predictor predictor;
  predictor.loss16 = LawWithErrors{law_of(find_law_preset("pythia-kaplan")), {}, {}};
  predictor.qid = LawWithErrors{law_of(find_law_preset("ouyang-unified")), {}, {}};
  predictor.vocab = kPythiaVocabulary;
  return predictor;
}

TEST(PredictTest, TokensForAQidInvertTheLaw) {
  for (const char* name : {"ouyang-unified", "ouyang-per-bits", "kumar-ptq"}) {
    const Law law = law_of(find_law_preset(name));
    for (const double bits : {2.0, 3.0, 4.0}) {
      for (const double tokens : {1e9, 3e11, 2e13}) {
        const double qid = law.value(LawPoint(7e9, tokens, bits));
        EXPECT_NEAR(tokens_for_qid(law, 7e9, bits, qid) / tokens, 1, 1e-12) << name;
      }
    }
  }
  const Law unified = law_of(find_law_preset("ouyang-unified"));
  EXPECT_THROW(tokens_for_qid(unified, 7e9, 3, -1), Error);
  EXPECT_THROW(tokens_for_qid(law_of(find_law_preset("hoffmann")), 7e9, 3, 2), Error);
}

TEST(PredictTest, SensitivitiesAreThoseOfTheExponents) {
  const Law law = law_of(find_law_preset("ouyang-unified"));
  const auto at = [&](double n, double d, double p) { return law.value(LawPoint(n, d, p)); };
  EXPECT_NEAR(at(1e9, 2e11, 3) / at(1e9, 1e11, 3), 1.44, 5e-3);
  EXPECT_NEAR(at(2e9, 1e11, 3) / at(1e9, 1e11, 3), 0.855, 5e-4);
  EXPECT_NEAR(at(1e9, 1e11, 3) / at(1e9, 1e11, 4), 4.86, 5e-3);
  EXPECT_NEAR(at(1e9, 1e11, 2) / at(1e9, 1e11, 4), 45.2, 5e-2);
}

TEST(PredictTest, LossIsCutAtTheUniformGuess) {
  const Predictor predictor = published();
  const Prediction hot = predict(predictor, LawPoint(7e9, 1e14, 2));
  EXPECT_TRUE(hot.at_or_below_random);
  EXPECT_NEAR(hot.loss, std::log(kPythiaVocabulary), 1e-12);
  EXPECT_NEAR(hot.qid, 50.3, 0.05);
  const Prediction cool = predict(predictor, LawPoint(7e9, 1e12, 4));
  EXPECT_FALSE(cool.at_or_below_random);
  EXPECT_NEAR(cool.loss, cool.loss16 + cool.qid, 1e-12);
  // Without a bit width: the loss before quantization alone.
  EXPECT_NEAR(predict(predictor, LawPoint(7e9, 1e12)).loss16, 2.776, 5e-4);
  EXPECT_TRUE(std::isnan(predict(predictor, LawPoint(7e9, 1e12)).qid));
}

TEST(PredictTest, PlansWithThePublishedLaws) {
  const Predictor predictor = published();
  const BestTokens best = best_tokens(predictor.loss16->law, predictor.qid->law, 70e9, 4);
  EXPECT_NEAR(best.tokens, 4.0e11, 0.05e11);
  EXPECT_TRUE(best.inside);
  EXPECT_FALSE(best_tokens(predictor.loss16->law, predictor.qid->law, 70e9, 4, 1e8, 1e10).inside);
  const auto bits = smallest_bits(predictor, 7e9, 1e12, 3.3, {4, 2, 3});
  ASSERT_TRUE(bits);
  EXPECT_EQ(*bits, 3);
  EXPECT_FALSE(smallest_bits(predictor, 7e9, 1e12, 2.5, {2, 3, 4}));
  EXPECT_NEAR(effective_bits(4, 128), 4.15625, 1e-12);
  EXPECT_EQ(effective_bits(4, 0), 4);
}

TEST(PredictTest, ParetoFrontKeepsWhatNothingBeats) {
  const auto front =
      pareto_front({{10, 3.0, 0}, {20, 2.5, 1}, {15, 3.1, 2}, {30, 2.5, 3}, {40, 2.0, 4}});
  std::vector<size_t> kept;
  for (const SizedLoss& candidate : front) kept.push_back(candidate.index);
  EXPECT_EQ(kept, (std::vector<size_t>{0, 1, 4}));
}

TEST(HullTest, TellsInsideFromOutsideAndByHowMuch) {
  std::vector<LawPoint> points;
  for (const double n : {1e8, 1e9}) {
    for (const double d : {1e10, 1e12}) {
      for (const double p : {2.0, 4.0}) points.emplace_back(n, d, p);
    }
  }
  const DataHull hull{points};
  EXPECT_FALSE(hull.offset(LawPoint(3e8, 1e11, 3)).outside);
  EXPECT_FALSE(hull.offset(points[0]).outside);
  EXPECT_FALSE(hull.offset(LawPoint(1e9, 1e11, 4)).outside);
  const auto beyond = hull.offset(LawPoint(1e9 * std::exp(2.0), 1e10 * std::exp(-1.0), 5));
  EXPECT_TRUE(beyond.outside);
  EXPECT_NEAR(beyond.ln_params, 2, 1e-9);
  EXPECT_NEAR(beyond.ln_tokens, -1, 1e-9);
  EXPECT_NEAR(beyond.bits, 1, 1e-9);
  EXPECT_THAT(describe(beyond), HasSubstr("N is 2.00 e-folds above"));
  // One bit width only: the hull is flat.
  const DataHull flat{std::span(points).first(1)};
  EXPECT_TRUE(flat.offset(LawPoint(2e8, 1e10, 2)).outside);
  // A triangle: outside although every coordinate is within its range.
  const std::vector<LawPoint> corners = {LawPoint(1e8, 1e10), LawPoint(1e9, 1e10),
                                         LawPoint(1e8, 1e12)};
  EXPECT_TRUE(DataHull(corners).offset(LawPoint(0.99e9, 0.99e12)).outside);
  EXPECT_FALSE(DataHull(corners).offset(LawPoint(1.5e8, 2e10)).outside);
}

TEST(FitJsonTest, ALawReadBackPredictsTheSame) {
  const LawData data = unified_rows(0.15);
  for (const char* form : {"unified", "per_bits", "exponential"}) {
    const FitResult fit =
        fit_law(data, find_law_form(form), with_objective(FitObjective::log), RowRules{});
    const auto draws = bootstrap(data, fit, {.draws = 50, .seed = 1});
    const Json document = parse_json(to_json(data, fit, &draws).dump(), "fit");
    const LawWithErrors law = law_from_json(document);
    const LawPoint point(1e9, 1e11, 3);
    EXPECT_EQ(law.law.value(point), fit.law.value(point)) << form;
    EXPECT_EQ(law.draws, draws.fitted) << form;
    Predictor predictor;
    predictor.qid = law;
    const Prediction inside = predict(predictor, point);
    EXPECT_LT(inside.qid_interval.low, inside.qid);
    EXPECT_GT(inside.qid_interval.high, inside.qid);
    EXPECT_EQ(inside.warning, "");
    EXPECT_THAT(predict(predictor, LawPoint(1e9, 1e14, 3)).warning, HasSubstr("EXTRAPOLATION"));
  }
}

TEST(FitJsonTest, DocumentsThatDoNotFitAreRefused) {
  const LawData data = unified_rows(0.15);
  const FitResult fit =
      fit_law(data, find_law_form("per_bits"), with_objective(FitObjective::log), RowRules{});
  const Json good = to_json(data, fit, nullptr);
  EXPECT_NO_THROW(law_from_json(good));
  const auto refuses = [&](const char* key, Json value) {
    Json bad = good;
    bad[key] = std::move(value);
    EXPECT_THROW(law_from_json(bad), Error) << key;
  };
  refuses("schema", 99);
  refuses("form", "nothing");
  refuses("fitted", Json::array());
  refuses("levels", Json::array());
  refuses("levels", {{2.0, 3.0}});
  refuses("draws", {{1.0, 2.0}});
  EXPECT_THROW(law_from_json(Json::array()), Error);
}

}  // namespace
}  // namespace fewbit
