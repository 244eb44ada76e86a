#include "fewbit/runtime/batch_engine.h"

#include <gtest/gtest.h>

#include <map>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/text/byte_tokenizer.h"

namespace fewbit {
namespace {

std::shared_ptr<const PackedModel> open_model(const std::string& name) {
  return std::make_shared<PackedModel>(
      open_checkpoint(testing::test_data_root() / "models" / name));
}

GenerationRequest some_request(size_t prompt, uint64_t seed, size_t max_tokens) {
  GenerationRequest request;
  RandomStream random(seed, "prompt");
  for (size_t i = 0; i < prompt; ++i) {
    request.prompt.push_back(static_cast<int32_t>(random.below(128)));
  }
  request.max_tokens = max_tokens;
  request.sampling.seed = seed;
  request.sampling.temperature = 1;
  return request;
}

struct Result {
  std::vector<int32_t> tokens;
  std::string text;
  std::optional<FinishReason> finished;
  GenerationUsage usage;
};

// Runs until nothing is left to do.
std::map<uint64_t, Result> drain(BatchEngine& engine) {
  std::map<uint64_t, Result> results;
  while (!engine.idle()) {
    for (const GenerationEvent& event : engine.step()) {
      Result& result = results[event.id];
      EXPECT_FALSE(result.finished.has_value());
      result.tokens.insert(result.tokens.end(), event.tokens.begin(), event.tokens.end());
      result.text += event.text;
      result.finished = event.finished;
      result.usage = event.usage;
    }
  }
  return results;
}

Result alone(const std::shared_ptr<const PackedModel>& model, GenerationRequest request) {
  BatchEngine engine(model, std::nullopt, {1, 64, 512});
  const uint64_t id = engine.submit(std::move(request));
  return drain(engine).at(id);
}

TEST(BatchEngineTest, EveryRequestGetsTheTokensThatItGetsAlone) {
  for (const char* name : {"llama", "gemma2", "mixtral", "opt"}) {
    const auto model = open_model(name);
    // Small steps, so that prompts are cut and joined with what others write.
    BatchEngine engine(model, std::nullopt, {3, 64, 8});
    std::map<uint64_t, Result> expected;
    for (size_t i = 0; i < 7; ++i) {
      const GenerationRequest request = some_request(3 + 5 * i, i, 4 + 2 * i);
      expected[engine.submit(request)] = alone(model, request);
    }
    EXPECT_EQ(engine.waiting(), 7u);
    const auto results = drain(engine);
    ASSERT_EQ(results.size(), 7u);
    for (const auto& [id, result] : results) {
      EXPECT_EQ(result.tokens, expected[id].tokens) << name << " " << id;
      EXPECT_EQ(result.finished, FinishReason::length);
    }
  }
}

TEST(BatchEngineTest, APromptThatBeginsAlikeReadsOnlyWhatIsNew) {
  const auto model = open_model("llama");
  BatchEngine engine(model, std::nullopt, {2, 64, 512});
  GenerationRequest first = some_request(20, 1, 6);
  const uint64_t id = engine.submit(first);
  const Result before = drain(engine).at(id);
  EXPECT_EQ(before.usage.cached_tokens, 0u);
  // The conversation so far and a few tokens more, as the next turn of a chat has it.
  GenerationRequest next = first;
  next.prompt.insert(next.prompt.end(), before.tokens.begin(), before.tokens.end());
  next.prompt.push_back(5);
  const uint64_t next_id = engine.submit(next);
  const Result after = drain(engine).at(next_id);
  // The last token that was written has not been read itself.
  EXPECT_EQ(after.usage.cached_tokens, 25u);
  EXPECT_EQ(after.tokens, alone(model, next).tokens);
  // The same prompt again: all but its last token.
  const uint64_t again = engine.submit(next);
  EXPECT_EQ(drain(engine).at(again).usage.cached_tokens, 26u);
}

TEST(BatchEngineTest, StopTokensTheLimitAndTheContextEndAGeneration) {
  const auto model = open_model("llama");
  const GenerationRequest request = some_request(10, 3, 20);
  const Result whole = alone(model, request);
  ASSERT_EQ(whole.tokens.size(), 20u);
  GenerationRequest stopping = request;
  stopping.stop_tokens = {whole.tokens[7]};
  const Result stopped = alone(model, stopping);
  EXPECT_EQ(stopped.finished, FinishReason::stop);
  EXPECT_EQ(stopped.tokens.back(), whole.tokens[7]);
  EXPECT_LE(stopped.tokens.size(), 8u);
  GenerationRequest endless = request;
  endless.max_tokens = 0;
  const Result filled = alone(model, endless);
  EXPECT_EQ(filled.finished, FinishReason::length);
  EXPECT_EQ(filled.tokens.size(), 64u - 10u);
}

TEST(BatchEngineTest, TextIsStreamedAndEndsBeforeAStopString) {
  const auto model = open_model("llama");  // 128 tokens: those of ASCII.
  const Tokenizer tokenizer = Tokenizer::from_json(byte_tokenizer_json());
  const auto run = [&](std::vector<std::string> stops) {
    BatchEngine engine(model, tokenizer, {1, 64, 512});
    GenerationRequest request = some_request(5, 4, 30);
    request.stops = std::move(stops);
    const uint64_t id = engine.submit(std::move(request));
    return drain(engine).at(id);
  };
  const Result whole = run({});
  EXPECT_EQ(whole.text, tokenizer.decode(whole.tokens));
  ASSERT_GT(whole.text.size(), 12u);
  const std::string stop = whole.text.substr(8, 3);
  const Result stopped = run({stop});
  EXPECT_EQ(stopped.finished, FinishReason::stop);
  EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(stop)));
}

TEST(BatchEngineTest, ACancelledRequestLeavesItsPlaceToTheNext) {
  const auto model = open_model("llama");
  BatchEngine engine(model, std::nullopt, {1, 64, 512});
  const uint64_t first = engine.submit(some_request(5, 1, 0));
  const uint64_t second = engine.submit(some_request(6, 2, 3));
  const uint64_t third = engine.submit(some_request(7, 3, 3));
  engine.step();
  EXPECT_EQ(engine.running(), 1u);
  engine.cancel(first);
  engine.cancel(third);
  const auto results = drain(engine);
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results.at(second).tokens.size(), 3u);
}

TEST(BatchEngineTest, BadRequestsAreRefusedWhenTheyAreMade) {
  const auto model = open_model("llama");
  BatchEngine engine(model, std::nullopt, {1, 64, 512});
  EXPECT_THROW(engine.submit(some_request(0, 1, 1)), Error);
  EXPECT_THROW(engine.submit(some_request(64, 1, 1)), Error);
  GenerationRequest request = some_request(3, 1, 1);
  request.prompt[1] = 128;
  EXPECT_THROW(engine.submit(request), Error);
  request = some_request(3, 1, 1);
  request.sampling.top_p = 2;
  EXPECT_THROW(engine.submit(request), Error);
  request = some_request(3, 1, 1);
  request.stops = {""};
  EXPECT_THROW(engine.submit(request), Error);
  EXPECT_TRUE(engine.idle());
  EXPECT_THROW(BatchEngine(model, std::nullopt, {0, 64, 512}), Error);
}

}  // namespace
}  // namespace fewbit
