#include "fewbit/eval/token_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/eval/base_logits.h"
#include "fewbit/eval/distance.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

Matrix random_logits(size_t rows, size_t columns, uint64_t seed, double deviation = 3) {
  Matrix m(rows, columns);
  RandomStream(seed, "logits").fill_normal(m.values(), 0, deviation);
  return m;
}

std::vector<int32_t> random_targets(size_t rows, size_t columns, uint64_t seed) {
  RandomStream random(seed, "targets");
  std::vector<int32_t> targets(rows);
  for (int32_t& t : targets) t = static_cast<int32_t>(random.below(columns));
  return targets;
}

std::vector<TokenComparison> compare(const Matrix& p, const Matrix& q,
                                     const std::vector<int32_t>& targets) {
  std::vector<TokenComparison> out(targets.size());
  compare_rows(p.view(), q.view(), targets, out);
  return out;
}

TEST(TokenLossTest, EqualsTheDefinitionAtEveryRowLength) {
  // Lengths around the widths of vectors, where tails matter.
  for (size_t columns = 1; columns < 70; ++columns) {
    const Matrix p = random_logits(3, columns, 1), q = random_logits(3, columns, 2);
    const std::vector<int32_t> targets = random_targets(3, columns, 3);
    std::vector<TokenScore> scores(3);
    score_rows(p.view(), targets, scores);
    const auto compared = compare(p, q, targets);
    std::vector<double> lp(columns), lq(columns);
    for (size_t r = 0; r < 3; ++r) {
      log_softmax_row(p.row(r), lp);
      log_softmax_row(q.row(r), lq);
      double total = 0, kld = 0;
      for (size_t v = 0; v < columns; ++v) {
        total += std::exp(lp[v]);
        kld += std::exp(lp[v]) * (lp[v] - lq[v]);
      }
      EXPECT_NEAR(total, 1, 1e-14);
      EXPECT_NEAR(scores[r].nll, -lp[targets[r]], 1e-13);
      EXPECT_NEAR(compared[r].nll_base, -lp[targets[r]], 1e-13);
      EXPECT_NEAR(compared[r].nll_quantized, -lq[targets[r]], 1e-13);
      EXPECT_NEAR(compared[r].kld, kld, 1e-13);
      EXPECT_NEAR(compared[r].p_diff, std::exp(lq[targets[r]]) - std::exp(lp[targets[r]]), 1e-14);
    }
  }
}

TEST(TokenLossTest, UniformLogitsLoseTheLogarithmOfTheVocabulary) {
  const Matrix logits(2, 77, 5.0f);
  const std::vector<int32_t> targets{0, 76};
  std::vector<TokenScore> scores(2);
  score_rows(logits.view(), targets, scores);
  EXPECT_DOUBLE_EQ(scores[0].nll, std::log(77.0));
  EXPECT_TRUE(scores[0].hit);  // Of equal logits the first is the argmax.
  EXPECT_FALSE(scores[1].hit);
}

TEST(TokenLossTest, ArgmaxTakesTheLowestOfEqualValues) {
  for (const size_t columns : {5u, 16u, 40u, 100u}) {
    for (size_t at = 0; at + 1 < columns; ++at) {
      std::vector<float> row(columns, -1);
      row[at] = row[columns - 1] = 2;
      EXPECT_EQ(row_sum(row).argmax, at);
    }
  }
}

TEST(TokenLossTest, AModelHasNoDistanceFromItself) {
  const Matrix p = random_logits(20, 333, 4);
  for (const TokenComparison& c : compare(p, p, random_targets(20, 333, 5))) {
    EXPECT_EQ(c.kld, 0);
    EXPECT_EQ(c.p_diff, 0);
    EXPECT_TRUE(c.same_top);
  }
}

TEST(TokenLossTest, AConstantAddedToARowChangesNothing) {
  const Matrix p = random_logits(8, 200, 6), q = random_logits(8, 200, 7);
  Matrix shifted = q;
  // A power of two, so that the sums of the test itself stay nearly exact.
  for (float& z : shifted.values()) z += 8;
  const std::vector<int32_t> targets = random_targets(8, 200, 8);
  const auto plain = compare(p, q, targets), moved = compare(p, shifted, targets);
  for (size_t r = 0; r < 8; ++r) {
    EXPECT_NEAR(plain[r].kld, moved[r].kld, 1e-5);
    EXPECT_NEAR(plain[r].nll_quantized, moved[r].nll_quantized, 1e-5);
  }
}

TEST(TokenLossTest, DivergenceGrowsWithNoiseAndBoundsTotalVariation) {
  const size_t rows = 50, columns = 128;
  const Matrix p = random_logits(rows, columns, 9);
  const Matrix noise = random_logits(rows, columns, 10, 1);
  const std::vector<int32_t> targets = random_targets(rows, columns, 11);
  double before = 0;
  for (const float level : {0.1f, 0.3f, 1.0f, 3.0f}) {
    Matrix q = p;
    for (size_t i = 0; i < q.size(); ++i) q.values()[i] += level * noise.values()[i];
    double mean = 0;
    std::vector<double> lp(columns), lq(columns);
    const auto compared = compare(p, q, targets);
    for (size_t r = 0; r < rows; ++r) {
      mean += compared[r].kld / rows;
      EXPECT_GE(compared[r].kld, -1e-9);
      log_softmax_row(p.row(r), lp);
      log_softmax_row(q.row(r), lq);
      double variation = 0;
      for (size_t v = 0; v < columns; ++v) {
        variation += std::abs(std::exp(lp[v]) - std::exp(lq[v])) / 2;
      }
      EXPECT_LE(variation, std::sqrt(compared[r].kld / 2) + 1e-9);
    }
    EXPECT_GT(mean, before);
    before = mean;
  }
}

TEST(TokenLossTest, MaskedLogitsHaveNoProbability) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Matrix p(1, 40, 0.0f), q(1, 40, 0.0f);
  for (size_t v = 20; v < 40; ++v) p(0, v) = q(0, v) = -kInfinity;
  const auto c = compare(p, q, {3})[0];
  EXPECT_DOUBLE_EQ(c.nll_base, std::log(20.0));
  EXPECT_EQ(c.kld, 0);
  // A token that only the quantized model rules out is infinitely surprising.
  q(0, 5) = -kInfinity;
  EXPECT_EQ(compare(p, q, {3})[0].kld, kInfinity);
}

TEST(TokenLossTest, LogitsThatAreNotFiniteAreRefused) {
  Matrix bad(1, 40, 0.0f);
  std::vector<TokenScore> scores(1);
  const std::vector<int32_t> target{0};
  for (const size_t at : {0u, 17u, 39u}) {
    for (const float value :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      bad(0, at) = value;
      EXPECT_THROW(score_rows(bad.view(), target, scores), Error);
      bad(0, at) = 0;
    }
  }
  EXPECT_THROW(score_rows(bad.view(), std::vector<int32_t>{40}, scores), Error);
  EXPECT_THROW(score_rows(bad.view(), std::vector<int32_t>{-1}, scores), Error);
}

TEST(TokenLossTest, DoesNotDependOnTheNumberOfThreads) {
  const Matrix p = random_logits(64, 5000, 12), q = random_logits(64, 5000, 13);
  const std::vector<int32_t> targets = random_targets(64, 5000, 14);
  const size_t threads = thread_count();
  set_thread_count(1);
  const auto one = compare(p, q, targets);
  set_thread_count(3);
  const auto three = compare(p, q, targets);
  set_thread_count(threads);
  for (size_t r = 0; r < 64; ++r) {
    EXPECT_EQ(one[r].kld, three[r].kld);
    EXPECT_EQ(one[r].nll_base, three[r].nll_base);
  }
}

TEST(DistanceTest, ErrorsAreZeroForFewTokens) {
  const Matrix p = random_logits(10, 30, 15), q = random_logits(10, 30, 16);
  const DistanceSummary s = summarize_distance(compare(p, q, random_targets(10, 30, 17)));
  EXPECT_EQ(s.ppl_base.standard_error, 0);
  EXPECT_EQ(s.kld.mean.standard_error, 0);
  EXPECT_GT(s.kld.mean.value, 0);
  EXPECT_NEAR(s.ratio.value, s.ppl_quantized.value / s.ppl_base.value, 1e-12 * s.ratio.value);
}

TEST(BaseLogitsTest, AFileGivesBackItsTokensAndDistributions) {
  const testing::TemporaryDirectory folder;
  const size_t context = 5, vocabulary = 31, chunks = 2, rows = context - 1 - context / 2;
  const Matrix logits = random_logits(chunks * rows, vocabulary, 18);
  const std::vector<int32_t> tokens = random_targets(chunks * context, vocabulary, 19);
  BaseLogitsWriter writer(folder / "base.dat", context, vocabulary, tokens);
  writer.write_rows(logits.view().rows_from(0, 1));
  writer.write_rows(logits.view().rows_from(1, chunks * rows - 1));
  writer.commit();
  const BaseLogitsFile file = BaseLogitsFile::open(folder / "base.dat");
  EXPECT_EQ(file.tokens(), tokens);
  ASSERT_EQ(file.chunks(), chunks);
  ASSERT_EQ(file.vocabulary(), vocabulary);
  std::vector<uint16_t> storage;
  std::vector<double> lp(vocabulary);
  for (size_t r = 0; r < chunks * rows; ++r) {
    const BaseRecord record = file.record(r / rows, r % rows, storage);
    log_softmax_row(logits.row(r), lp);
    for (size_t v = 0; v < vocabulary; ++v) {
      // Half a step of 16 / 65535, and the rounding of float.
      EXPECT_NEAR(record.log_prob(v), lp[v], 1.3e-4);
    }
  }
}

TEST(BaseLogitsTest, DamagedFilesAreRefused) {
  const testing::TemporaryDirectory folder;
  const std::vector<int32_t> tokens(10, 3);
  BaseLogitsWriter writer(folder / "base.dat", 5, 8, tokens);
  EXPECT_THROW(writer.commit(), Error);
  writer.write_rows(Matrix(4, 8).view());
  writer.commit();
  const std::string good = read_text_file(folder / "base.dat");
  const auto refused = [&](std::string bytes) {
    write_file_atomically(folder / "bad.dat", bytes);
    EXPECT_THROW(BaseLogitsFile::open(folder / "bad.dat"), Error);
  };
  for (size_t length = 0; length < good.size(); ++length) refused(good.substr(0, length));
  refused(good + '\0');
  for (size_t at = 8; at < 60; ++at) {
    for (const char value : {'\x7f', '\xff'}) {
      std::string bytes = good;
      bytes[at] = value;
      refused(bytes);
    }
  }
}

// Golden values: per-token numbers, summary, and the coded base with what is computed from it.
class DistanceFixture {
 public:
  explicit DistanceFixture(const SafetensorsFile& file)
      : base(matrix(file.tensor("base_logits"))), quantized(matrix(file.tensor("q_logits"))) {
    for (const int64_t t : to_integers(file.tensor("tokens"))) {
      tokens.push_back(static_cast<int32_t>(t));
    }
  }
  Matrix base, quantized;
  std::vector<int32_t> tokens;

 private:
  static Matrix matrix(const TensorView& t) { return {t.shape[0], t.shape[1], to_floats(t)}; }
};

bool is_distance_case(const SafetensorsFile& file) { return file.contains("base_logits"); }

FEWBIT_FIXTURE_TEST(TokenDistanceFixture, "evaluation", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (!is_distance_case(file)) GTEST_SKIP() << "another kind of case";
  const DistanceFixture fixture(file);
  const auto compared = compare(fixture.base, fixture.quantized, fixture.tokens);
  const auto nll_base = to_floats(file.tensor("nll_base")), nll_q = to_floats(file.tensor("nll_q"));
  const auto kld = to_floats(file.tensor("kld")), p_diff = to_floats(file.tensor("p_diff"));
  const auto same = to_integers(file.tensor("top1_same"));
  for (size_t t = 0; t < compared.size(); ++t) {
    EXPECT_NEAR(compared[t].nll_base, nll_base[t], 1e-5);
    EXPECT_NEAR(compared[t].nll_quantized, nll_q[t], 1e-5);
    EXPECT_NEAR(compared[t].kld, kld[t], 2e-6 + 1e-5 * std::abs(kld[t]));
    EXPECT_NEAR(compared[t].p_diff, p_diff[t], 1e-5);
    EXPECT_EQ(compared[t].same_top, same[t] != 0);
  }
  const Json expected = parse_json(file.metadata("exact_stats"), "exact_stats");
  const Json actual = to_json(summarize_distance(compared));
  EXPECT_EQ(actual.size(), expected.size());
  for (const auto& [key, value] : expected.items()) {
    ASSERT_TRUE(actual.contains(key)) << key;
    const double want = value.get<double>();
    const double tolerance = std::abs(want) < 1e-6 ? 1e-9 : 1e-6 * std::abs(want);
    EXPECT_NEAR(actual[key].get<double>(), want, tolerance) << key;
  }
}

FEWBIT_FIXTURE_TEST(CodedBaseFixture, "evaluation", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (!is_distance_case(file)) GTEST_SKIP() << "another kind of case";
  const DistanceFixture fixture(file);
  const size_t vocabulary = fixture.base.cols(), size = base_record_size(vocabulary);
  const TensorView& stored = file.tensor("ref_logprob_u16");
  ASSERT_EQ(stored.shape[1], 2 * size);
  const auto ref_kld = to_floats(file.tensor("ref_kld"));
  const auto ref_p_diff = to_floats(file.tensor("ref_p_diff"));
  for (size_t r = 0; r < fixture.tokens.size(); ++r) {
    std::vector<uint16_t> mine(size), theirs(size);
    encode_base_row(fixture.base.row(r), mine);
    std::memcpy(theirs.data(), stored.bytes.data() + r * 2 * size, 2 * size);
    const BaseRecord a = parse_base_record(mine, vocabulary);
    const BaseRecord b = parse_base_record(theirs, vocabulary);
    EXPECT_NEAR(a.scale, b.scale, 1e-6f * b.scale);
    EXPECT_NEAR(a.min_log_prob, b.min_log_prob, 1e-5f);
    for (size_t v = 0; v < vocabulary; ++v) {
      ASSERT_LE(std::abs(int{a.codes[v]} - int{b.codes[v]}), 1) << r << ' ' << v;
    }
    for (const BaseRecord& base : {a, b}) {
      const TokenComparison c =
          compare_with_base(base, fixture.quantized.row(r), fixture.tokens[r]);
      EXPECT_NEAR(c.kld, ref_kld[r], 2e-4);
      EXPECT_NEAR(c.p_diff, ref_p_diff[r], 2e-4);
    }
  }
}

}  // namespace
}  // namespace fewbit
