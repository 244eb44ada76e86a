#include "fewbit/model/wiring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/model/architectures.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::ElementsAre;

ModelSpec fixture_spec(const std::string& name) {
  const auto path = testing::test_data_root() / "models" / name / "config.json";
  return parse_hf_config(parse_json(read_text_file(path), "config.json"));
}

TEST(WiringTest, LlamaHasFourStepsWithTheirPartners) {
  const BlockWiring wiring = block_wiring(fixture_spec("llama"), 1);
  ASSERT_EQ(wiring.steps.size(), 4u);
  EXPECT_EQ(wiring.steps[0].site, "blocks.1.attn.input");
  EXPECT_THAT(wiring.steps[0].linears,
              ElementsAre("blocks.1.attn.q", "blocks.1.attn.k", "blocks.1.attn.v"));
  EXPECT_EQ(wiring.steps[0].fold, FoldKind::norm);
  EXPECT_EQ(wiring.steps[0].partner, "blocks.1.attn_norm");
  EXPECT_EQ(wiring.steps[1].partner, "blocks.1.attn.v");
  EXPECT_EQ(wiring.steps[2].partner, "blocks.1.mlp_norm");
  EXPECT_THAT(wiring.steps[2].linears, ElementsAre("blocks.1.mlp.gate", "blocks.1.mlp.up"));
  EXPECT_EQ(wiring.steps[3].fold, FoldKind::rows);
  EXPECT_EQ(wiring.steps[3].partner, "blocks.1.mlp.up");
  EXPECT_EQ(wiring.steps[3].in_features, 96u);
  EXPECT_THAT(wiring.residual_writers, ElementsAre("blocks.1.attn.o", "blocks.1.mlp.down"));
  EXPECT_EQ(wiring.residual_readers.size(), 5u);
}

TEST(WiringTest, GroupedHeadsShareTheRowsOfTheirValueHead) {
  const ModelSpec spec = fixture_spec("llama");  // 4 heads over 2, of 16.
  const Step step = block_wiring(spec, 0).steps[1];
  EXPECT_EQ(partner_row(spec, step, 3), 3u);
  EXPECT_EQ(partner_row(spec, step, 16 + 3), 3u);
  EXPECT_EQ(partner_row(spec, step, 2 * 16 + 3), 16u + 3);
  EXPECT_EQ(partner_row(spec, step, 3 * 16 + 3), 16u + 3);
  EXPECT_THROW(partner_row(spec, step, 64), Error);
}

TEST(WiringTest, NothingFoldsThroughGelu) {
  EXPECT_EQ(block_wiring(fixture_spec("gpt_neox"), 0).steps[3].fold, FoldKind::none);
  EXPECT_EQ(block_wiring(fixture_spec("gpt2"), 0).steps[3].fold, FoldKind::none);
  EXPECT_EQ(block_wiring(fixture_spec("opt"), 0).steps[3].partner, "blocks.0.mlp.up");
  // The gate's activation is no obstacle for the up rows.
  EXPECT_EQ(block_wiring(fixture_spec("gemma2"), 0).steps[3].partner, "blocks.0.mlp.up");
}

TEST(WiringTest, NormsBehindTheAdditionTakeNoScale) {
  ModelSpec spec = fixture_spec("opt");
  spec.norm_first = spec.final_norm = false;
  const Wiring wiring = wiring_of(spec);
  EXPECT_EQ(wiring.blocks[0].steps[0].fold, FoldKind::none);
  EXPECT_EQ(wiring.blocks[0].steps[2].fold, FoldKind::none);
  EXPECT_EQ(wiring.head.fold, FoldKind::none);
  EXPECT_FALSE(wiring.rotation_obstacle.empty());
}

TEST(WiringTest, NormsOnBranchOutputsPreventRotationsOnly) {
  const Wiring wiring = wiring_of(fixture_spec("gemma3"));
  EXPECT_FALSE(wiring.rotation_obstacle.empty());
  EXPECT_EQ(wiring.blocks[0].steps[2].partner, "blocks.0.mlp_norm");
  EXPECT_TRUE(wiring_of(fixture_spec("llama")).rotation_obstacle.empty());
}

TEST(WiringTest, AScaleOfAMixturesInputReachesAllExpertsAndTheRouter) {
  const ModelSpec spec = fixture_spec("mixtral");
  const BlockWiring wiring = block_wiring(spec, 0);
  ASSERT_EQ(wiring.steps.size(), 2 + 2 * spec.experts);
  for (size_t expert = 0; expert < spec.experts; ++expert) {
    const Step& input = wiring.steps[2 + 2 * expert];
    EXPECT_EQ(input.site, fmt::format("blocks.0.mlp.experts.{}.input", expert));
    EXPECT_EQ(input.linears.size(), 2u);
    EXPECT_EQ(input.readers.size(), 1 + 2 * spec.experts);
    EXPECT_EQ(input.readers[0], "blocks.0.mlp.router");
    EXPECT_EQ(wiring.steps[3 + 2 * expert].partner,
              fmt::format("blocks.0.mlp.experts.{}.up", expert));
  }
  for (const std::string& linear : quantizable_linears(spec)) {
    EXPECT_NE(linear, "blocks.0.mlp.router");
  }
}

TEST(WiringTest, EveryQuantizableLinearHasAStepAndATensor) {
  for (const Architecture& family : architectures()) {
    std::string name(family.name);
    if (name == "gemma3_text") name = "gemma3";
    const ModelSpec spec = fixture_spec(name);
    const Wiring wiring = wiring_of(spec);
    const std::vector<TensorSpec> tensors = model_tensors(spec);
    for (const std::string& linear : quantizable_linears(spec)) {
      const Step& step = step_of(wiring, linear);
      const auto tensor = std::find_if(tensors.begin(), tensors.end(), [&](const TensorSpec& t) {
        return t.name == linear + ".weight";
      });
      ASSERT_NE(tensor, tensors.end()) << linear;
      EXPECT_EQ(tensor->shape[1], step.in_features) << linear;
    }
  }
}

TEST(WiringTest, LayersOutsideTheModelAreRefused) {
  const Wiring wiring = wiring_of(fixture_spec("llama"));
  for (const char* name : {"blocks.9.attn.q", "blocks.0.attn", "blocks..attn.q", "embed", ""}) {
    EXPECT_THROW(step_of(wiring, name), Error) << name;
  }
  EXPECT_EQ(block_index("blocks.12.attn.q"), 12u);
  EXPECT_EQ(block_index("blocks.x.attn.q"), std::nullopt);
  EXPECT_EQ(block_index("head"), std::nullopt);
}

}  // namespace
}  // namespace fewbit
