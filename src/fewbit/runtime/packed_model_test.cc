#include "fewbit/runtime/packed_model.h"

#include <gtest/gtest.h>

#include <hwy/highway.h>
#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/runtime/packed_language_model.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

constexpr PackedModelOptions kExact{Activations::f32, CacheType::f32, 512};

struct Expected {
  BasicMatrix<int32_t> tokens;  // [1, length]
  Matrix logits;                // [length, vocabulary]
};

Expected read_expected(const SafetensorsFile& file, const std::string& logits_name) {
  const std::vector<int64_t> ids = to_integers(file.tensor("input_ids"));
  const TensorView& logits = file.tensor(logits_name);
  return {BasicMatrix<int32_t>(1, ids.size(), std::vector<int32_t>(ids.begin(), ids.end())),
          Matrix(logits.shape.at(0), logits.shape.at(1), to_floats(logits))};
}

Matrix logits_of(const PackedModel& model, const Panel& hidden) {
  Matrix logits(hidden.rows(), model.spec().vocab_size);
  model.logits(hidden.view(), logits.view());
  return logits;
}

// Logits of every position, `step` tokens at a time.
Matrix all_logits(const PackedModel& model, std::span<const int32_t> tokens, size_t step) {
  KvCache cache = model.make_cache(tokens.size());
  Matrix logits(tokens.size(), model.spec().vocab_size);
  for (size_t first = 0; first < tokens.size(); first += step) {
    const size_t count = std::min(step, tokens.size() - first);
    const Panel hidden = model.run({{&cache, tokens.subspan(first, count), true}});
    model.logits(hidden.view(), logits.view().rows_from(first, count));
  }
  return logits;
}

// Largest |a - b| / (1 + |b|).
double worst_difference(const Matrix& a, const Matrix& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double want = b.values()[i];
    worst = std::max(worst, std::abs(a.values()[i] - want) / (1 + std::abs(want)));
  }
  return worst;
}

// Root of the summed squared differences, relative to that of `b`.
double relative_distance(const Matrix& a, const Matrix& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double want = b.values()[i];
    difference += std::pow(a.values()[i] - want, 2);
    norm += want * want;
  }
  return std::sqrt(difference / norm);
}

FEWBIT_FIXTURE_TEST_FOLDERS(PackedModelsFixture, "models") {
  if (path().filename() == "bitnet") {
    EXPECT_THROW(open_checkpoint(path()), Error);
    return;
  }
  const SafetensorsFile file = SafetensorsFile::open(path() / "expected.safetensors");
  const Expected expected = read_expected(file, "logits");
  const Checkpoint checkpoint = open_checkpoint(path());
  const PackedModel exact(checkpoint, kExact);
  for (const size_t step : {expected.tokens.cols(), size_t{5}, size_t{1}}) {
    const Matrix logits = all_logits(exact, expected.tokens.row(0), step);
    ASSERT_EQ(logits.size(), expected.logits.size());
    EXPECT_LE(worst_difference(logits, expected.logits), 5e-5) << "in steps of " << step;
  }
  // Rounding keys and values to f16 moves a logit by some 2^-11 of what attention contributes.
  const PackedModel half(checkpoint, {Activations::f32, CacheType::f16, 512});
  EXPECT_LE(relative_distance(all_logits(half, expected.tokens.row(0), 1), expected.logits), 1e-3);
}

FEWBIT_FIXTURE_TEST(PackedGgufModelFixture, "gguf", ".gguf") {
  std::filesystem::path expected_path = path();
  expected_path.replace_extension(".expected.safetensors");
  const SafetensorsFile file = SafetensorsFile::open(expected_path);
  const Expected expected = read_expected(file, "logits_float_activations");
  const Checkpoint checkpoint = open_checkpoint(path());
  const PackedModel exact(checkpoint, kExact);
  const Matrix logits = all_logits(exact, expected.tokens.row(0), 7);
  ASSERT_EQ(logits.size(), expected.logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    ASSERT_NEAR(logits.values()[i], expected.logits.values()[i], 2e-4);
  }
  // What int8 activations cost llama.cpp on the same file is 1.3 %.
  const PackedModel fast(checkpoint, {});
  EXPECT_LE(relative_distance(all_logits(fast, expected.tokens.row(0), 7), expected.logits), 0.03);
}

// The vector code of every instruction set that this processor has.
TEST(PackedModelTest, EveryInstructionSetGivesTheExpectedLogits) {
  for (const char* name : {"llama", "gemma2", "gpt_neox"}) {
    const std::filesystem::path path = testing::test_data_root() / "models" / name;
    const Expected expected =
        read_expected(SafetensorsFile::open(path / "expected.safetensors"), "logits");
    const PackedModel model(open_checkpoint(path), kExact);
    for (uint64_t left = static_cast<uint64_t>(hwy::SupportedTargets()); left != 0;
         left &= left - 1) {
      const auto target = static_cast<int64_t>(left & (~left + 1));
      hwy::SetSupportedTargetsForTest(target);
      const Matrix logits = all_logits(model, expected.tokens.row(0), 9);
      hwy::SetSupportedTargetsForTest(0);
      EXPECT_LE(worst_difference(logits, expected.logits), 5e-5)
          << name << " on " << hwy::TargetName(target);
    }
  }
}

Checkpoint open_family(const std::string& name) {
  return open_checkpoint(testing::test_data_root() / "models" / name);
}

std::vector<int32_t> some_tokens(size_t count, size_t vocabulary, std::string_view purpose) {
  std::vector<int32_t> tokens(count);
  RandomStream random(11, purpose);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(vocabulary));
  return tokens;
}

class PackedFamilyTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Families, PackedFamilyTest,
                         ::testing::Values("llama", "mistral", "qwen2", "qwen3", "mixtral",
                                           "gemma2", "gemma3", "gpt_neox", "opt", "gpt2"),
                         [](const auto& family) { return family.param; });

TEST_P(PackedFamilyTest, SequencesOfOneStepGetTheBitsThatTheyGetAlone) {
  const PackedModel model(open_family(GetParam()));
  const auto a = some_tokens(21, model.spec().vocab_size, "a");
  const auto b = some_tokens(40, model.spec().vocab_size, "b");
  const Matrix alone_a = all_logits(model, a, 7), alone_b = all_logits(model, b, 40);
  KvCache cache_a = model.make_cache(64), cache_b = model.make_cache(64);
  const std::span<const int32_t> left(a), right(b);
  const auto check = [&](const Panel& hidden, const Matrix& alone, size_t row, size_t at) {
    const Matrix logits = logits_of(model, hidden);
    EXPECT_TRUE(std::ranges::equal(logits.row(row), alone.row(at))) << at;
  };
  // A long chunk beside one token, then tokens of both.
  Panel hidden = model.run({{&cache_b, right.first(1)}});
  hidden = model.run({{&cache_a, left.first(16)}, {&cache_b, right.subspan(1, 1)}});
  check(hidden, alone_a, 0, 15);
  check(hidden, alone_b, 1, 1);
  hidden = model.run({{&cache_b, right.subspan(2, 30), true}, {&cache_a, left.subspan(16, 1)}});
  for (size_t t = 0; t < 30; ++t) check(hidden, alone_b, t, 2 + t);
  check(hidden, alone_a, 30, 16);
}

TEST_P(PackedFamilyTest, TheNumberOfThreadsChangesNoBit) {
  const PackedModel model(open_family(GetParam()));
  const auto tokens = some_tokens(50, model.spec().vocab_size, "threads");
  const size_t before = thread_count();
  set_thread_count(1);
  const Matrix one = all_logits(model, tokens, 50);
  set_thread_count(5);
  const Matrix many = all_logits(model, tokens, 50);
  set_thread_count(before);
  EXPECT_EQ(one, many);
}

TEST_P(PackedFamilyTest, ATruncatedCacheGoesOnAsIfNothingHadFollowed) {
  const PackedModel model(open_family(GetParam()), kExact);
  const auto tokens = some_tokens(30, model.spec().vocab_size, "truncate");
  const std::span<const int32_t> all(tokens);
  KvCache cache = model.make_cache(60);
  model.run({{&cache, all}});
  cache.truncate(12);
  const Matrix logits = logits_of(model, model.run({{&cache, all.subspan(12, 5)}}));
  const Matrix expected = all_logits(model, all.first(17), 17);
  EXPECT_TRUE(std::ranges::equal(logits.row(0), expected.row(16)));
}

// Rings of blocks with a window, around several times.
TEST(PackedModelTest, LongSequencesUnderAWindowEqualThoseOfAWholeCache) {
  Checkpoint checkpoint = open_family("mistral");
  checkpoint.spec.context = 1000;
  ASSERT_GT(checkpoint.spec.blocks[0].window, 0u);
  PackedModelOptions small = kExact;
  small.chunk = 16;
  const PackedModel ringed(checkpoint, small), whole(checkpoint, kExact);
  const auto tokens = some_tokens(400, checkpoint.spec.vocab_size, "long");
  KvCache ring = ringed.make_cache(400);
  EXPECT_LT(ring.bytes(), whole.make_cache(400).bytes());
  const Matrix expected = all_logits(whole, tokens, 400);
  for (size_t first = 0; first < tokens.size(); first += 16) {
    const size_t count = std::min<size_t>(16, tokens.size() - first);
    const Panel hidden = ringed.run({{&ring, std::span(tokens).subspan(first, count)}});
    const Matrix logits = logits_of(ringed, hidden);
    ASSERT_TRUE(std::ranges::equal(logits.row(0), expected.row(first + count - 1))) << first;
  }
  EXPECT_FALSE(ring.can_truncate(100));
  EXPECT_TRUE(ring.can_truncate(395));
  EXPECT_THROW(ring.truncate(100), Error);
  ring.truncate(0);  // An empty sequence needs nothing.
}

TEST(PackedModelTest, SplitSpansOfKeysMergeToTheWholeSoftmax) {
  Checkpoint checkpoint = open_family("llama");
  checkpoint.spec.context = 4000;
  PackedModelOptions options = kExact;
  options.chunk = 4000;
  const PackedModel model(checkpoint, options);
  const auto tokens = some_tokens(2600, checkpoint.spec.vocab_size, "spans");
  const Matrix together = all_logits(model, tokens, 2600), pieces = all_logits(model, tokens, 333);
  EXPECT_EQ(together, pieces);
}

TEST(PackedModelTest, WrongStepsAreRefusedAndChangeNothing) {
  const PackedModel model(open_family("gpt2"));
  EXPECT_THROW(model.make_cache(65), Error);
  KvCache cache = model.make_cache(8);
  const std::vector<int32_t> nine(9, 1), outside = {128}, negative = {-1}, one = {1};
  EXPECT_THROW(model.run({{&cache, nine}}), Error);
  EXPECT_THROW(model.run({{&cache, outside}}), Error);
  EXPECT_THROW(model.run({{&cache, negative}}), Error);
  EXPECT_THROW(model.run({{&cache, {}}}), Error);
  EXPECT_THROW(model.run({{&cache, one}, {&cache, one}}), Error);
  EXPECT_THROW(model.run(std::span<const SequenceRun>()), Error);
  EXPECT_EQ(cache.length(), 0u);
}

TEST(PackedModelTest, TheLanguageModelInterfaceGivesTheSameLogits) {
  const auto model = std::make_shared<PackedModel>(open_family("gemma3"), kExact);
  const auto tokens = some_tokens(24, model->spec().vocab_size, "interface");
  PackedLanguageModel interface(model);
  const auto result = interface.forward({tokens.data(), 2, 12});
  ASSERT_EQ(result->rows(), 24u);
  Matrix logits(12, model->spec().vocab_size);
  result->logits(12, logits.view());
  EXPECT_EQ(logits, all_logits(*model, std::span(tokens).subspan(12), 12));
}

TEST(KvCacheTest, SizesAreThoseOfTheFormula) {
  const ModelSpec spec = open_family("llama").spec;
  const KvCache cache(spec, CacheType::f16, 128, 32);
  EXPECT_EQ(cache.bytes(), 2 * spec.blocks.size() * spec.kv_heads * spec.head_size * 128 * 2);
  EXPECT_THROW(KvCache(spec, CacheType::f16, 0, 32), Error);
  EXPECT_THROW(KvCache(spec, CacheType::f32, SIZE_MAX / 2, 32), Error);
  EXPECT_THROW(parse_cache_type("q8"), Error);
}

}  // namespace
}  // namespace fewbit
