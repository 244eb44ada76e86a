#include "fewbit/eval/sampled_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/eval/perplexity.h"
#include "fewbit/eval/token_file.h"
#include "fewbit/eval/toy_models.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryDirectory;
using testing::ToyModel;

// Two tokens; the next differs from the last with probability 3/4.
ToyModel alternating_model() {
  return ToyModel(2, [](std::span<const int32_t> prefix, std::span<float> row) {
    row[static_cast<size_t>(prefix.back())] = 0;
    row[static_cast<size_t>(1 - prefix.back())] = std::log(3.0f);
  });
}

TEST(SampledTokensTest, FrequenciesAreTheModelsProbabilities) {
  ToyModel model = alternating_model();
  SampleOptions options;
  options.sequences = 100;
  options.length = 50;
  const auto sequences = sample_sequences(model, options);
  double changes = 0;
  for (const auto& sequence : sequences) {
    ASSERT_EQ(sequence.size(), 50u);
    int32_t before = options.bos;
    for (const int32_t token : sequence) {
      changes += token != before;
      before = token;
    }
  }
  // 5000 draws: five standard deviations.
  EXPECT_NEAR(changes / 5000, 0.75, 5 * std::sqrt(0.75 * 0.25 / 5000));
}

TEST(SampledTokensTest, SequencesDoNotDependOnHowManyThereAre) {
  ToyModel model = alternating_model();
  SampleOptions few, many;
  few.sequences = 3;
  many.sequences = 10;
  few.length = many.length = 20;
  many.batch = 4;
  const auto a = sample_sequences(model, few), b = sample_sequences(model, many);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(a[i], b[i]);
  EXPECT_NE(b[0], b[1]);
  many.seed = 1;
  EXPECT_NE(sample_sequences(model, many), b);
}

TEST(SampledTokensTest, TemperatureZeroTakesTheMostLikely) {
  ToyModel model = alternating_model();
  SampleOptions options;
  options.length = 4;
  options.temperature = 0;
  EXPECT_THAT(sample_sequences(model, options)[0], ::testing::ElementsAre(1, 0, 1, 0));
}

TEST(SampledTokensTest, RiseOfLossOnOwnTextIsTheDivergence) {
  ToyModel model = alternating_model();
  // The same preference, weaker: KL = 3/4 ln(3/4 / 3/5) + 1/4 ln(1/4 / 2/5).
  ToyModel weaker(2, [](std::span<const int32_t> prefix, std::span<float> row) {
    row[static_cast<size_t>(prefix.back())] = 0;
    row[static_cast<size_t>(1 - prefix.back())] = std::log(1.5f);
  });
  SampleOptions sampling;
  sampling.sequences = 400;
  sampling.length = 31;
  const auto sequences = sample_sequences(model, sampling);
  const std::vector<std::span<const int32_t>> documents(sequences.begin(), sequences.end());
  WindowOptions windows;
  windows.rule = WindowRule::window_bos;
  windows.context = 32;
  windows.bos = 0;
  const ModelComparison pair = compare_models(model, weaker, WindowPlan(documents, windows));
  const double kl = 0.75 * std::log(0.75 / 0.6) + 0.25 * std::log(0.25 / 0.4);
  EXPECT_NEAR(pair.mean_kld().value, kl, 1e-6);
  EXPECT_NEAR(pair.qid().value, kl, 5 * pair.qid().standard_error);
}

TEST(TokenFileTest, EveryFormGivesItsDocuments) {
  const TemporaryDirectory folder;
  const std::vector<std::vector<int32_t>> documents{{1, 2, 70000}, {4, 5, 6}};
  write_token_file(folder / "t.safetensors", documents, "test");
  EXPECT_EQ(read_token_file(folder / "t.safetensors"), documents);
  write_file_atomically(folder / "t.jsonl",
                        "[1, 2, 70000]\n\n{\"source\": \"x\", \"ids\": [4, 5, 6]}\n");
  EXPECT_EQ(read_token_file(folder / "t.jsonl"), documents);
  write_file_atomically(folder / "t.u16", std::string("\1\0\2\1", 4));
  EXPECT_EQ(read_token_file(folder / "t.u16")[0], (std::vector<int32_t>{1, 258}));
  write_file_atomically(folder / "t.u32", std::string("\1\0\0\0", 4));
  EXPECT_EQ(read_token_file(folder / "t.u32")[0], (std::vector<int32_t>{1}));
}

TEST(TokenFileTest, WrongFilesAreRefusedWithTheirPlace) {
  const TemporaryDirectory folder;
  const auto error = [&](const char* name, std::string_view bytes) -> std::string {
    write_file_atomically(folder / name, bytes);
    try {
      read_token_file(folder / name);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_THAT(error("a.jsonl", "[1]\n[-2]\n"), HasSubstr("line 2: token -2"));
  EXPECT_THAT(error("a.jsonl", "[1.5]"), HasSubstr("1.5"));
  EXPECT_THAT(error("a.jsonl", "[18446744073709551615]"), HasSubstr("not an id"));
  EXPECT_THAT(error("a.jsonl", "{\"text\": 1}"), HasSubstr("input_ids"));
  EXPECT_THAT(error("a.jsonl", "[]"), HasSubstr("no tokens"));
  EXPECT_THAT(error("a.u16", "abc"), HasSubstr("3 bytes"));
  EXPECT_THAT(error("a.u32", "\xff\xff\xff\xff"), HasSubstr("not an id"));
  EXPECT_THAT(error("a.u16", ""), HasSubstr("no tokens"));
  EXPECT_THAT(error("a.txt", "1 2"), HasSubstr(".jsonl"));
  EXPECT_THAT(error("a.safetensors", "{}"), HasSubstr("a.safetensors"));
}

}  // namespace
}  // namespace fewbit
