#include "fewbit/eval/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/eval/toy_models.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using testing::ToyModel;

constexpr int32_t kBos = 0;

std::vector<int32_t> random_tokens(size_t count, size_t vocabulary, uint64_t seed) {
  RandomStream random(seed, "tokens");
  std::vector<int32_t> tokens(count);
  for (int32_t& t : tokens) t = static_cast<int32_t>(random.below(vocabulary));
  return tokens;
}

WindowOptions options(WindowRule rule, size_t context, size_t stride = 0) {
  WindowOptions o;
  o.rule = rule;
  o.context = context;
  o.stride = stride;
  if (window_rule_needs_bos(rule)) o.bos = kBos;
  return o;
}

// Logits from the last `memory` tokens, mixed by a fixed hash; memory 0: the same for all.
ToyModel hashed_model(size_t vocabulary, size_t memory, uint64_t seed, float noise = 0) {
  return ToyModel(vocabulary, [=](std::span<const int32_t> prefix, std::span<float> row) {
    uint64_t state = seed;
    for (size_t i = prefix.size() - std::min(memory, prefix.size()); i < prefix.size(); ++i) {
      state = (state ^ static_cast<uint64_t>(prefix[i] + 1)) * 0x9e3779b97f4a7c15u;
    }
    RandomStream random(state, "toy");
    for (float& z : row) z = static_cast<float>(2 * random.normal());
    RandomStream disturbance(state, "noise");
    for (float& z : row) z += noise * static_cast<float>(disturbance.normal());
  });
}

TEST(PerplexityTest, UniformLogitsGiveTheVocabularyUnderEveryRule) {
  ToyModel model(37, [](std::span<const int32_t>, std::span<float> row) {
    std::fill(row.begin(), row.end(), 1.5f);
  });
  const std::vector<int32_t> tokens = random_tokens(200, 37, 1);
  for (const std::string& name : window_rule_names()) {
    const WindowPlan plan(tokens, options(parse_window_rule(name), 16));
    const LossResult result = evaluate_model(model, plan);
    EXPECT_NEAR(result.perplexity().value, 37, 1e-12 * 37) << name;
    EXPECT_NEAR(result.perplexity().standard_error, 0, 1e-10) << name;
    EXPECT_EQ(result.scored_tokens(), plan.scored_tokens()) << name;
  }
}

TEST(PerplexityTest, StridedAndRollingAgreeForAModelWithoutContext) {
  ToyModel model = hashed_model(20, 0, 5);
  const std::vector<int32_t> tokens = random_tokens(101, 20, 2);
  const LossResult rolling =
      evaluate_model(model, WindowPlan(tokens, options(WindowRule::rolling_prefix, 8)));
  const LossResult strided =
      evaluate_model(model, WindowPlan(tokens, options(WindowRule::strided, 8, 3)));
  std::vector<double> lp(20);
  Matrix row(1, 20);
  model.forward({tokens.data(), 1, 1})->logits(0, row.view());
  log_softmax_row(row.row(0), lp);
  EXPECT_EQ(rolling.scored_tokens(), strided.scored_tokens() + 1);
  EXPECT_NEAR(rolling.total_nll(), strided.total_nll() - lp[tokens[0]], 1e-10);
}

TEST(PerplexityTest, BatchingChangesNothing) {
  ToyModel model = hashed_model(50, 3, 6);
  const std::vector<int32_t> tokens = random_tokens(333, 50, 3);
  for (const std::string& name : window_rule_names()) {
    const WindowPlan plan(tokens, options(parse_window_rule(name), 16));
    EvaluationOptions one, many;
    one.batch = 1;
    many.batch = 7;
    EXPECT_EQ(evaluate_model(model, plan, one).window_nll,
              evaluate_model(model, plan, many).window_nll)
        << name;
  }
}

TEST(PerplexityTest, PairsAreTheTwoModelsAlone) {
  ToyModel reference = hashed_model(40, 2, 7), quantized = hashed_model(40, 2, 7, 0.3f);
  const std::vector<int32_t> tokens = random_tokens(500, 40, 4);
  const WindowPlan plan(tokens, options(WindowRule::window_bos, 20));
  const ModelComparison pair = compare_models(reference, quantized, plan);
  const LossResult alone = evaluate_model(quantized, plan);
  const LossResult base = evaluate_model(reference, plan);
  for (size_t w = 0; w < plan.size(); ++w) {
    EXPECT_NEAR(pair.quantized.window_nll[w], alone.window_nll[w], 1e-11);
    EXPECT_NEAR(pair.reference.window_nll[w], base.window_nll[w], 1e-11);
  }
  const Estimate qid = paired_qid(alone, base);
  EXPECT_NEAR(qid.value, alone.loss().value - base.loss().value, 1e-12);
  EXPECT_NEAR(pair.qid().value, qid.value, 1e-11);
  // Windows of equal weight: the error is that of the paired differences of window means.
  std::vector<double> a, b;
  for (size_t w = 0; w < plan.size(); ++w) {
    a.push_back(alone.window_nll[w] / alone.window_tokens[w]);
    b.push_back(base.window_nll[w] / base.window_tokens[w]);
  }
  EXPECT_NEAR(qid.standard_error, paired_difference(a, b).standard_error, 1e-12);
  EXPECT_NEAR(pair.mean_kld().value, pair.distance().kld.mean.value, 1e-12);
  EXPECT_GT(pair.mean_kld().value, 0);
}

TEST(PerplexityTest, AModelAgainstItselfHasNoDegradation) {
  ToyModel model = hashed_model(30, 2, 8);
  const std::vector<int32_t> tokens = random_tokens(200, 30, 5);
  const ModelComparison pair =
      compare_models(model, model, WindowPlan(tokens, options(WindowRule::concat_no_bos, 10)));
  EXPECT_EQ(pair.qid().value, 0);
  EXPECT_EQ(pair.qid().standard_error, 0);
  EXPECT_EQ(pair.mean_kld().value, 0);
  EXPECT_EQ(pair.distance().same_top.value, 1);
}

TEST(PerplexityTest, PaddedVocabularyIsLeftOutOnBothSides) {
  const auto logits = [](float padding) {
    return [padding](std::span<const int32_t> prefix, std::span<float> row) {
      for (size_t v = 0; v < row.size(); ++v) {
        row[v] = v < 30 ? static_cast<float>((prefix.back() * 7 + 3 * v) % 11) : padding;
      }
    };
  };
  ToyModel reference(30, logits(0)), padded(32, logits(50));
  const std::vector<int32_t> tokens = random_tokens(100, 30, 6);
  const WindowPlan plan(tokens, options(WindowRule::concat_no_bos, 10));
  EXPECT_THROW(compare_models(reference, padded, plan), Error);
  EvaluationOptions o;
  o.vocabulary = 30;
  const ModelComparison pair = compare_models(reference, padded, plan, o);
  EXPECT_EQ(pair.qid().value, 0);
  EXPECT_EQ(pair.mean_kld().value, 0);
  o.vocabulary = 31;
  EXPECT_THROW(compare_models(reference, padded, plan, o), Error);
}

TEST(PerplexityTest, LossesOverDifferentWindowsDoNotPair) {
  ToyModel model = hashed_model(30, 2, 8);
  const std::vector<int32_t> tokens = random_tokens(200, 30, 5);
  const LossResult a =
      evaluate_model(model, WindowPlan(tokens, options(WindowRule::concat_no_bos, 10)));
  const LossResult b =
      evaluate_model(model, WindowPlan(tokens, options(WindowRule::concat_no_bos, 20)));
  EXPECT_THROW(paired_qid(a, b), Error);
}

TEST(PerplexityTest, AStoredBaseGivesTheDistancesOfTheModelItself) {
  const testing::TemporaryDirectory folder;
  ToyModel reference = hashed_model(41, 2, 9), quantized = hashed_model(41, 2, 9, 0.5f);
  const std::vector<int32_t> tokens = random_tokens(300, 41, 7);
  for (const WindowRule rule : {WindowRule::second_half_bos, WindowRule::second_half_no_bos}) {
    const WindowPlan plan(tokens, options(rule, 16));
    const ModelComparison direct = compare_models(reference, quantized, plan);
    save_base_logits(reference, plan, tokens, folder / "base.dat");
    const BaseLogitsFile file = BaseLogitsFile::open(folder / "base.dat");
    ASSERT_EQ(file.chunks(), plan.size());
    std::span<const int32_t> stored = file.tokens();
    if (rule == WindowRule::second_half_bos) {
      EXPECT_EQ(stored.front(), kBos);
      stored = stored.subspan(1);
    }
    const WindowPlan again(stored, options(rule, 16));
    const ModelComparison coded = compare_with_base_file(file, quantized, again);
    ASSERT_EQ(coded.tokens.size(), direct.tokens.size());
    EXPECT_NEAR(coded.mean_kld().value, direct.mean_kld().value, 1e-3);
    EXPECT_NEAR(coded.qid().value, direct.qid().value, 1e-4);
    EXPECT_EQ(coded.distance().same_top.value, direct.distance().same_top.value);
  }
  EXPECT_THROW(save_base_logits(reference, WindowPlan(tokens, options(WindowRule::strided, 16)),
                                tokens, folder / "other.dat"),
               Error);
}

TEST(PerplexityTest, ProtocolNamesTheRule) {
  const std::vector<int32_t> tokens = random_tokens(100, 30, 6);
  const Protocol p = protocol_of(WindowPlan(tokens, options(WindowRule::strided, 10, 5)), "file");
  EXPECT_THAT(protocol_line(p),
              ::testing::StartsWith("text=file rule=strided context=10 stride=5 bos=none "
                                    "tokens=100 windows=19 scored=99 ids=sha256:"));
}

// Seven rules on a toy model whose logits depend on the position inside the window.
FEWBIT_FIXTURE_TEST(WindowRuleFixture, "evaluation", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (!file.contains("A")) GTEST_SKIP() << "another kind of case";
  const TensorView& table = file.tensor("A");
  const size_t vocabulary = table.shape[0];
  const std::vector<float> a = to_floats(table);
  std::vector<int32_t> tokens;
  for (const int64_t t : to_integers(file.tensor("tokens"))) {
    tokens.push_back(static_cast<int32_t>(t));
  }
  const auto whole = [&](const char* key) { return std::stoul(file.metadata(key)); };
  // The rule itself is in double; a float of it is what a model would hand out, so the test's
  // tolerance of 1e-8 needs logits whose rounding averages out: 6e-8 each over 2000 tokens.
  ToyModel model(vocabulary, [&](std::span<const int32_t> prefix, std::span<float> row) {
    const double position = static_cast<double>(std::min<size_t>(prefix.size() - 1, 16));
    const double weight = 0.5 + 0.5 * position / 16;
    for (size_t v = 0; v < row.size(); ++v) {
      row[v] = static_cast<float>(weight * a[static_cast<size_t>(prefix.back()) * vocabulary + v]);
    }
  });
  const Json expected = parse_json(file.metadata("expected"), "expected");
  for (const auto& [name, want] : expected.items()) {
    SCOPED_TRACE(name);
    WindowOptions o;
    o.rule = parse_window_rule(name);
    o.context = whole("L");
    if (o.rule == WindowRule::strided) o.stride = whole("stride");
    o.bos = static_cast<int32_t>(whole("bos"));
    const WindowPlan plan(tokens, o);
    const LossResult result = evaluate_model(model, plan);
    EXPECT_EQ(plan.size(), want["windows"].get<size_t>());
    EXPECT_EQ(result.scored_tokens(), want["scored"].get<uint64_t>());
    const double mean = want["mean_nll"].get<double>(), ppl = want["ppl"].get<double>();
    EXPECT_NEAR(result.loss().value, mean, 1e-8 * mean);
    EXPECT_NEAR(result.perplexity().value, ppl, 1e-8 * ppl);
    if (want.contains("ppl_unc")) {
      EXPECT_NEAR(result.perplexity_token_error(), want["ppl_unc"].get<double>(), 1e-7);
    }
    if (want.contains("total_ll")) {
      EXPECT_NEAR(-result.total_nll(), want["total_ll"].get<double>(), 1e-4);
      EXPECT_EQ(plan.window(plan.size() - 1).input.size(),
                want["last_window_input_len"].get<size_t>());
      EXPECT_EQ(plan.window(plan.size() - 1).targets.size(),
                want["last_window_target_len"].get<size_t>());
    }
    if (want.contains("first_window_nll")) {
      const double count = result.window_tokens.front();
      EXPECT_NEAR(result.window_nll.front() / count, want["first_window_nll"].get<double>(), 1e-6);
      EXPECT_NEAR(result.window_nll.back() / count, want["last_window_nll"].get<double>(), 1e-6);
    }
  }
}

}  // namespace
}  // namespace fewbit
