#include "fewbit/runtime/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fewbit/base/error.h"
#include "fewbit/runtime/stop_filter.h"

namespace fewbit {
namespace {

// Everything off: the softmax of the logits.
SamplerOptions plain() {
  SamplerOptions options;
  options.temperature = 1;
  options.top_k = 0;
  options.top_p = 1;
  options.min_p = 0;
  return options;
}

// Logits of these probabilities.
std::vector<float> logits_of(std::vector<double> probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

std::vector<int32_t> tokens_of(const std::vector<TokenProbability>& choices) {
  std::vector<int32_t> tokens;
  for (const TokenProbability& choice : choices) tokens.push_back(choice.token);
  return tokens;
}

std::vector<TokenProbability> choices(const SamplerOptions& options,
                                      std::span<const float> logits) {
  return Sampler(options, logits.size()).distribution(logits);
}

const std::vector<float> kLogits = logits_of({0.1, 0.4, 0.05, 0.25, 0.2});

TEST(SamplerTest, WithEverythingOffItIsTheSoftmax) {
  const auto result = choices(plain(), kLogits);
  EXPECT_EQ(tokens_of(result), (std::vector<int32_t>{1, 3, 4, 0, 2}));
  const double expected[] = {0.4, 0.25, 0.2, 0.1, 0.05};
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(result[i].probability, expected[i], 1e-7);
}

TEST(SamplerTest, GreedyTakesTheFirstOfEqualLogits) {
  SamplerOptions options = plain();
  options.temperature = 0;
  const std::vector<float> logits = {1, 3, 2, 3};
  EXPECT_EQ(Sampler(options, 4).sample(logits), 1);
}

TEST(SamplerTest, TopKKeepsTheLargestAndRenormalises) {
  SamplerOptions options = plain();
  options.top_k = 2;
  const auto result = choices(options, kLogits);
  EXPECT_EQ(tokens_of(result), (std::vector<int32_t>{1, 3}));
  EXPECT_NEAR(result[0].probability, 0.4 / 0.65, 1e-7);
  const std::vector<float> ties = {1, 1, 1, 1};
  EXPECT_EQ(tokens_of(choices(options, ties)), (std::vector<int32_t>{0, 1}));
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachTheMass) {
  SamplerOptions options = plain();
  for (const auto& [p, count] : {std::pair{0.39, 1}, {0.41, 2}, {0.64, 2}, {0.66, 3}, {0.97, 5}}) {
    options.top_p = p;
    EXPECT_EQ(choices(options, kLogits).size(), static_cast<size_t>(count)) << p;
  }
  options.top_p = 0;
  EXPECT_EQ(tokens_of(choices(options, kLogits)), std::vector<int32_t>{1});
}

TEST(SamplerTest, MinPIsRelativeToTheMostProbable) {
  SamplerOptions options = plain();
  options.min_p = 0.49;  // Of 0.4.
  EXPECT_EQ(tokens_of(choices(options, kLogits)), (std::vector<int32_t>{1, 3, 4}));
}

TEST(SamplerTest, TemperatureComesLastAndLeavesTheChoiceOfTokensAlone) {
  SamplerOptions options = plain();
  options.top_p = 0.6;
  options.temperature = 2;
  const auto result = choices(options, kLogits);
  EXPECT_EQ(tokens_of(result), (std::vector<int32_t>{1, 3}));
  const double a = std::sqrt(0.4), b = std::sqrt(0.25);
  EXPECT_NEAR(result[0].probability, a / (a + b), 1e-7);
}

TEST(SamplerTest, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  SamplerOptions options = plain();
  options.repetition_penalty = 2;
  Sampler sampler(options, 3);
  sampler.accept(0);
  sampler.accept(1);
  const std::vector<float> logits = {2, -1, 0.5};
  const double a = std::exp(1.0), b = std::exp(-2.0), c = std::exp(0.5);
  for (const TokenProbability& choice : sampler.distribution(logits)) {
    const double expected = choice.token == 0 ? a : choice.token == 1 ? b : c;
    EXPECT_NEAR(choice.probability, expected / (a + b + c), 1e-7);
  }
}

TEST(SamplerTest, FrequencyCountsAndPresenceDoesNot) {
  SamplerOptions options = plain();
  options.frequency_penalty = 0.5;
  options.presence_penalty = 0.25;
  Sampler sampler(options, 2);
  sampler.accept(1);
  sampler.accept(1);
  const std::vector<float> logits = {0, 0};
  const auto result = sampler.distribution(logits);
  EXPECT_EQ(tokens_of(result), (std::vector<int32_t>{0, 1}));
  EXPECT_NEAR(std::log(result[0].probability / result[1].probability), 1.25, 1e-6);
}

TEST(SamplerTest, PenaltiesForgetWhatHasLeftTheWindow) {
  SamplerOptions options = plain();
  options.repetition_penalty = 2;
  options.penalty_window = 2;
  options.temperature = 0;
  Sampler sampler(options, 3);
  const std::vector<float> logits = {3, 2, 1};
  sampler.accept(0);
  EXPECT_EQ(sampler.sample(logits), 1);
  sampler.accept(2);
  sampler.accept(2);
  EXPECT_EQ(sampler.sample(logits), 0);
}

TEST(SamplerTest, BiasMovesALogitAndMayForbidAToken) {
  SamplerOptions options = plain();
  options.logit_bias = {{1, -std::numeric_limits<double>::infinity()}, {2, 10}, {99, 5}};
  const auto result = choices(options, kLogits);
  EXPECT_EQ(tokens_of(result), (std::vector<int32_t>{2, 3, 4, 0}));
  options.temperature = 0;
  EXPECT_EQ(Sampler(options, 5).sample(kLogits), 2);
}

TEST(SamplerTest, RowsWithoutATokenAreNeverChosen) {
  SamplerOptions options = plain();
  options.temperature = 0;
  const std::vector<float> logits = {0, 1, 100};
  EXPECT_EQ(Sampler(options, 2).sample(logits), 1);
  EXPECT_THROW(Sampler(options, 4).sample(logits), Error);
}

TEST(SamplerTest, DrawsFollowTheDistribution) {
  // Chi-square of 20,000 draws over 5 tokens; 18.5 is exceeded once in a thousand seeds.
  Sampler sampler(plain(), 5);
  const double expected[] = {0.1, 0.4, 0.05, 0.25, 0.2};
  constexpr int kDraws = 20000;
  int counts[5] = {};
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.sample(kLogits)];
  double chi_square = 0;
  for (int i = 0; i < 5; ++i) {
    const double mean = expected[i] * kDraws;
    chi_square += (counts[i] - mean) * (counts[i] - mean) / mean;
  }
  EXPECT_LT(chi_square, 18.5);
}

TEST(SamplerTest, TheSeedDecides) {
  const auto draw = [](uint64_t seed) {
    SamplerOptions options = plain();
    options.seed = seed;
    Sampler sampler(options, 5);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 32; ++i) tokens.push_back(sampler.sample(kLogits));
    return tokens;
  };
  EXPECT_EQ(draw(7), draw(7));
  EXPECT_NE(draw(7), draw(8));
}

TEST(SamplerTest, OptionsOutOfRangeAreRefusedByName) {
  const auto refused = [](auto change, const char* name) {
    SamplerOptions options;
    change(options);
    try {
      options.validate();
      ADD_FAILURE() << name << " was accepted";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr(name));
    }
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  refused([](auto& o) { o.temperature = -1; }, "temperature");
  refused([&](auto& o) { o.temperature = nan; }, "temperature");
  refused([](auto& o) { o.top_p = 1.5; }, "top_p");
  refused([](auto& o) { o.min_p = -0.1; }, "min_p");
  refused([](auto& o) { o.repetition_penalty = 0; }, "repetition_penalty");
  refused([&](auto& o) { o.logit_bias[3] = nan; }, "logit_bias");
}

TEST(SamplerTest, LogitsThatAreNoNumbersAreRefused) {
  const std::vector<float> logits = {0, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_THROW(Sampler(plain(), 2).sample(logits), Error);
}

// Whole text through a filter, `step` bytes at a time; '|' stands where a stop ended it.
std::string filtered(const std::vector<std::string>& stops, std::string_view text, size_t step) {
  StopFilter filter(stops);
  std::string shown;
  for (size_t i = 0; i < text.size(); i += step) shown += filter.push(text.substr(i, step));
  shown += filter.finish();
  return filter.stopped() ? shown + "|" + *filter.stopped() : shown;
}

TEST(StopFilterTest, TheTextEndsBeforeTheFirstStopHoweverItIsCut) {
  for (size_t step = 1; step <= 12; ++step) {
    EXPECT_EQ(filtered({"END"}, "one EN two END three", step), "one EN two |END");
    EXPECT_EQ(filtered({"aab"}, "aaab", step), "a|aab");
    EXPECT_EQ(filtered({"x", "yy"}, "ab y yyx", step), "ab y |yy");
    EXPECT_EQ(filtered({"bcd", "abc"}, "zabcd", step), "z|abc");
    EXPECT_EQ(filtered({"nothing"}, "not a thing noth", step), "not a thing noth");
    EXPECT_EQ(filtered({}, "free", step), "free");
    // A longer stop that stays incomplete hides no shorter one.
    EXPECT_EQ(filtered({"abcX", "bc"}, "abc", step), "a|bc");
  }
  EXPECT_THROW(StopFilter({""}), Error);
}

TEST(StopFilterTest, TextIsHeldBackNoLongerThanItMayBecomeAStop) {
  StopFilter filter({"\nUser:"});
  EXPECT_EQ(filter.push("Hello\nUs"), "Hello");
  EXPECT_EQ(filter.push("ual"), "\nUsual");
  EXPECT_EQ(filter.push("\nUser: no"), "");
  EXPECT_EQ(filter.stopped(), "\nUser:");
  EXPECT_EQ(filter.push("more"), "");
}

}  // namespace
}  // namespace fewbit
