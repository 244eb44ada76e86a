#include "fewbit/model/write_gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/model/rope_divisors.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;

std::string error_of(const std::filesystem::path& path, const Checkpoint& checkpoint) {
  try {
    write_gguf_checkpoint(path, checkpoint.spec, *checkpoint.tensors, {.type = GgmlType::f32});
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Checkpoint open_fixture(const std::string& name) {
  return open_checkpoint(testing::test_data_root() / "models" / name);
}

// The spec as GGUF can hold it: no window of its own pattern, no scale of its own, no token ids.
ModelSpec statable(ModelSpec spec) {
  spec.bos_token.reset();
  spec.eos_tokens.clear();
  if (spec.architecture == "gemma2") spec.attention_scale.reset();
  return spec;
}

class GgufFamilyTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Families, GgufFamilyTest,
                         ::testing::Values("llama", "llama_tied", "mistral", "mixtral", "qwen2",
                                           "qwen3", "gemma2", "gemma3", "gpt_neox", "gpt2"),
                         [](const auto& family) { return family.param; });

TEST_P(GgufFamilyTest, ReadsBackAsTheSameModel) {
  Checkpoint original = open_fixture(GetParam());
  original.spec = statable(original.spec);
  testing::TemporaryDirectory folder;
  ASSERT_EQ(error_of(folder / "x.gguf", original), "no error");
  const Checkpoint copy = open_checkpoint(folder / "x.gguf");
  EXPECT_EQ(copy.kind, CheckpointKind::gguf);
  EXPECT_TRUE(copy.tokenizer.empty());
  ModelSpec expected = original.spec;
  expected.norm_plus_one = false;
  if (expected.architecture == "llama" || expected.architecture == "mistral") {
    expected.architecture = copy.spec.architecture;
  }
  EXPECT_EQ(copy.spec, expected);
  for (const std::string& name : original.tensors->names()) {
    std::vector<float> want = original.tensors->load(name);
    const std::vector<float> got = copy.tensors->load(name);
    if (original.spec.norm_plus_one && name.ends_with("norm.weight")) {
      for (float& value : want) value += 1;
    }
    EXPECT_EQ(got, want) << name;
  }
}

TEST(WriteGgufTest, WhatNoKeyHoldsIsRefusedByField) {
  testing::TemporaryDirectory folder;
  const auto path = folder / "x.gguf";
  // Its scale is query_pre_attn_scalar^-0.5 of 20, not of the head's 24.
  EXPECT_THAT(error_of(path, open_fixture("gemma2")), HasSubstr("attention_scale"));
  EXPECT_THAT(error_of(path, open_fixture("opt")), HasSubstr("opt"));
  Checkpoint qwen = open_fixture("qwen2");
  qwen.spec.blocks[1].window = 8;
  EXPECT_THAT(error_of(path, qwen), HasSubstr("blocks"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(RopeDivisorsTest, TheirParametersAreFoundAgain) {
  RopeScaling scaling;
  scaling.kind = RopeScaling::Kind::llama3;
  scaling.factor = 32;
  for (const double context : {8192.0, 4096.0, 5000.0}) {
    for (const double high : {4.0, 3.0}) {
      scaling.original_context = context;
      scaling.high_frequency_factor = high;
      const std::vector<float> divisors = rope_divisors(scaling, 5e5, 64);
      const auto found = rope_scaling_from_divisors(divisors, 5e5);
      ASSERT_TRUE(found.has_value()) << context << " " << high;
      EXPECT_NEAR(found->original_context, context, 0.01 * context);
      EXPECT_NEAR(found->high_frequency_factor, high, 0.02);
      EXPECT_EQ(found->factor, 32);
    }
  }
  EXPECT_EQ(rope_scaling_from_divisors(std::vector<float>(32, 1.0f), 1e4)->kind,
            RopeScaling::Kind::none);
  EXPECT_FALSE(rope_scaling_from_divisors(std::vector<float>{1, 3, 2, 8}, 1e4).has_value());
  EXPECT_FALSE(rope_scaling_from_divisors(std::vector<float>{1, NAN, 2, 8}, 1e4).has_value());
}

}  // namespace
}  // namespace fewbit
