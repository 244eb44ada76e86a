#include "fewbit/methods/autoround.h"

#include <gtest/gtest.h>

#include "fewbit/methods/model_testing.h"
#include "fewbit/train/fake_quant_testing.h"

namespace fewbit {
namespace {

using testing::LoudModel;

const UniformPlane& plane_of(const QuantizedModel& model, const std::string& layer) {
  return std::get<UniformPlane>(model.layers.at(layer).terms().at(0).plane);
}

TEST(AutoRoundTest, WithoutStepsItIsRoundToNearest) {
  const LoudModel model;
  const QuantizedModel start = model.quantized("autoround:bits=3,group_size=32,steps=0");
  const QuantizedModel nearest = model.quantized("rtn:bits=3,group_size=32");
  EXPECT_EQ(start.layers, nearest.layers);
}

TEST(AutoRoundTest, LowersTheLossOfEveryBlockAndTheErrorOfTheModel) {
  const LoudModel model;
  for (const char* bits : {"2", "3", "4"}) {
    const std::string layout = fmt::format("bits={},group_size=32", bits);
    for (const char* keep : {"best", "last"}) {
      const QuantizedModel result =
          model.quantized(fmt::format("autoround:{},steps=60,batch=4,keep={}", layout, keep));
      ASSERT_EQ(result.transforms.size(), 2u);
      for (const TransformReport& report : result.transforms) {
        EXPECT_LT(*report.objective_after, *report.objective_before) << report.where;
        EXPECT_EQ(report.losses.size(), 60u);
      }
      EXPECT_LT(model.error(result), model.error("rtn:" + layout)) << bits << keep;
    }
  }
}

TEST(AutoRoundTest, CodesMoveByOneAtMostWhileTheRangeStays) {
  const LoudModel model;
  const QuantizedModel trained = model.quantized("autoround:bits=4,group_size=-1,steps=30,batch=8");
  const QuantizedModel nearest = model.quantized("rtn:bits=4,group_size=-1");
  size_t compared = 0, moved = 0;
  for (const auto& [layer, matrix] : trained.layers) {
    // The first block's weights are those that rtn saw, whatever the walk does.
    const UniformPlane &a = plane_of(trained, layer), &b = plane_of(nearest, layer);
    for (size_t r = 0; r < a.codes.rows; ++r) {
      if (a.scale(r, 0) != b.scale(r, 0) || a.zero_point(r, 0) != b.zero_point(r, 0)) continue;
      for (size_t c = 0; c < a.codes.cols; ++c) {
        const int difference = std::abs(int{a.codes.at(r, c)} - int{b.codes.at(r, c)});
        EXPECT_LE(difference, 1) << layer;
        moved += difference != 0;
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 0u);
  RecordProperty("moved", fmt::format("{} of {}", moved, compared));
}

TEST(AutoRoundTest, TheSeedDecidesTheDraws) {
  const LoudModel model;
  const std::string recipe = "autoround:bits=3,group_size=32,steps=8,batch=2";
  const QuantizedModel one = model.quantized(recipe);
  EXPECT_EQ(one.layers, model.quantized(recipe).layers);
  EXPECT_NE(one.layers, model.quantized(recipe + ",seed=7").layers);
}

TEST(AutoRoundTest, FollowsTransformsOfTheRecipe) {
  const LoudModel model;
  EXPECT_LT(model.error("awq | autoround:bits=3,group_size=32,steps=40,batch=8"),
            model.error("awq | rtn:bits=3,group_size=32"));
}

}  // namespace
}  // namespace fewbit
