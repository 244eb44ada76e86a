#include "fewbit/calibrate/fold.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/network/decoder.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;

std::vector<Step> all_steps(const Decoder& decoder) {
  std::vector<Step> steps;
  for (const BlockInfo& block : decoder.blocks()) {
    steps.insert(steps.end(), block.steps.begin(), block.steps.end());
  }
  return steps;
}

// Positive factors around 1, shared where they must be.
std::vector<float> random_scale(const ModelSpec& spec, const FoldGroup& group) {
  std::vector<float> normal(group.in_features);
  RandomStream(7, group.site()).fill_normal(normal, 0, 0.7);
  std::vector<double> scale(normal.size());
  for (size_t c = 0; c < scale.size(); ++c) scale[c] = std::exp(normal[c]);
  share_columns(spec, group, SharedColumns::maximum, scale);
  return {scale.begin(), scale.end()};
}

at::Tensor logits_of(const Decoder& decoder, const at::Tensor& tokens,
                     const ParameterMap& parameters) {
  return decoder.logits(decoder.hidden_states(tokens, parameters), parameters);
}

double worst_difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs() / (1 + b.abs())).max().item<double>();
}

ModelSpec tiny_spec() {
  ModelSpec spec;
  spec.architecture = "llama";
  spec.vocab_size = 40;
  spec.hidden_size = spec.embedding_size = 24;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_size = 6;
  spec.ffn_size = 20;
  spec.context = 16;
  spec.blocks.resize(1);
  spec.rotary_size = 6;
  return spec;
}

FEWBIT_FIXTURE_TEST_FOLDERS(FoldFixture, "models") {
  if (path().filename() == "bitnet") GTEST_SKIP() << "this model is refused";
  at::NoGradGuard no_grad;
  const Checkpoint checkpoint = open_checkpoint(path());
  const Decoder decoder(checkpoint.spec, checkpoint.tensors);
  const SafetensorsFile file = SafetensorsFile::open(path() / "expected.safetensors");
  std::vector<int64_t> ids = to_integers(file.tensor("input_ids"));
  const at::Tensor tokens =
      at::from_blob(ids.data(), {1, static_cast<int64_t>(ids.size())}, at::kLong);
  const ParameterMap original = decoder.load_all_parameters();
  const at::Tensor expected = logits_of(decoder, tokens, original);

  ParameterMap all = original;
  size_t folded = 0;
  for (const FoldGroup& group : fold_groups(all_steps(decoder))) {
    const std::vector<float> scale = random_scale(checkpoint.spec, group);
    if (!fold_obstacle(checkpoint.spec, group).empty()) {
      EXPECT_THROW(fold_scale(checkpoint.spec, group, scale, all), Error);
      continue;
    }
    ++folded;
    ParameterMap one = original;
    fold_scale(checkpoint.spec, group, scale, one);
    EXPECT_FALSE(one.at(group.partner + ".weight").equal(original.at(group.partner + ".weight")));
    EXPECT_LE(worst_difference(logits_of(decoder, tokens, one), expected), 2e-5) << group.site();
    fold_scale(checkpoint.spec, group, scale, all);
    if (!takes_shift(group, original)) continue;
    const at::Tensor shift =
        at::linspace(-0.5, 0.5, static_cast<int64_t>(partner_rows(checkpoint.spec, group)));
    ParameterMap shifted = original;
    fold_shift(checkpoint.spec, group, shift, shifted);
    EXPECT_LE(worst_difference(logits_of(decoder, tokens, shifted), expected), 5e-5)
        << group.site();
    fold_shift(checkpoint.spec, group, shift, all);
  }
  EXPECT_GT(folded, 0u);
  EXPECT_LE(worst_difference(logits_of(decoder, tokens, all), expected), 1e-4);
}

TEST(FoldTest, ExpertsBehindOneNormAreOneGroupWithTheirRouter) {
  ModelSpec spec = tiny_spec();
  spec.experts = 3;
  spec.experts_per_token = 2;
  const auto groups = fold_groups(block_wiring(spec, 0).steps);
  ASSERT_EQ(groups.size(), 6u);  // q k v; o; all experts' gate and up; three times down
  EXPECT_EQ(groups[2].steps.size(), 3u);
  EXPECT_EQ(groups[2].readers.size(), 7u);
  EXPECT_EQ(groups[2].readers.front(), "blocks.0.mlp.router");
}

TEST(FoldTest, GroupedHeadsThatShareAValueRowMustShareTheirScale) {
  const ModelSpec spec = tiny_spec();
  const FoldGroup group = fold_groups(block_wiring(spec, 0).steps)[1];
  const Decoder decoder(spec, random_tensors(spec, 1));
  ParameterMap parameters = decoder.load_parameters(1);
  std::vector<double> values(group.in_features);
  for (size_t c = 0; c < values.size(); ++c) values[c] = 1.0 + static_cast<double>(c);
  std::vector<float> scale(values.begin(), values.end());
  EXPECT_THAT([&] { fold_scale(spec, group, scale, parameters); },
              ::testing::ThrowsMessage<Error>(HasSubstr("another column of the same row")));
  // Heads 0 and 1 read value head 0.
  share_columns(spec, group, SharedColumns::mean, values);
  EXPECT_EQ(values[0], (1.0 + 7.0) / 2);
  EXPECT_EQ(values[6], values[0]);
  share_columns(spec, group, SharedColumns::maximum, values);
  EXPECT_EQ(values[6], values[0]);
}

TEST(FoldTest, AScaleMustBePositiveAndFinite) {
  const ModelSpec spec = tiny_spec();
  const FoldGroup group = fold_groups(block_wiring(spec, 0).steps)[0];
  const Decoder decoder(spec, random_tensors(spec, 1));
  ParameterMap parameters = decoder.load_parameters(1);
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::infinity(), NAN}) {
    std::vector<float> scale(group.in_features, 1.0f);
    scale[3] = bad;
    EXPECT_THAT([&] { fold_scale(spec, group, scale, parameters); },
                ::testing::ThrowsMessage<Error>(HasSubstr("the scale of column 3")));
  }
}

}  // namespace
}  // namespace fewbit
