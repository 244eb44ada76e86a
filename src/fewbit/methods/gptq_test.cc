#include "fewbit/methods/gptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fewbit/methods/model_testing.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;
using testing::LoudModel;

TEST(GptqTest, LowersTheErrorOfTheModel) {
  const LoudModel model;
  EXPECT_LT(model.error("gptq:bits=3,group_size=32,act_order=static"),
            model.error("rtn:bits=3,group_size=32"));
}

TEST(GptaqTest, WithoutAlphaItIsGptq) {
  const LoudModel model;
  for (const char* options :
       {"bits=3,group_size=32", "bits=2,group_size=16,true_sequential=false"}) {
    // The blocks of a drift are those of block_size, so the order of sums is not gptq's.
    const QuantizedModel with = model.quantized(fmt::format("gptaq:alpha=0,{}", options));
    const QuantizedModel plain = model.quantized(fmt::format("gptq:{}", options));
    EXPECT_NEAR(model.error(with), model.error(plain), 0.05 * model.error(plain));
  }
}

TEST(GptaqTest, MakesUpForTheErrorsOfEarlierLayers) {
  const LoudModel model;
  const double plain = model.error("gptq:bits=4,group_size=-1");
  EXPECT_LT(model.error("gptaq:bits=4,group_size=-1,alpha=1"), plain);
}

TEST(GptaqTest, ComparesWithTheNetworkAsItWasBeforeAnythingWasLost) {
  const LoudModel model;
  // Clipping at 8 bits changes the weights, quantizing them afterwards hardly; what is made up for
  // is what the clipping did.
  const double clipped = model.error("clip:bits=2,group_size=32 | gptq:bits=8,group_size=32");
  EXPECT_LT(model.error("clip:bits=2,group_size=32 | gptaq:bits=8,group_size=32,alpha=1"), clipped);
  // Scales that are folded, before or after, leave nothing to make up for.
  const double exact = model.error("gptaq:bits=8,group_size=32,alpha=1");
  EXPECT_LT(model.error("awq | gptaq:bits=8,group_size=32,alpha=1"), 4 * exact);
  EXPECT_LT(model.error("smoothquant | gptaq:bits=8,group_size=32,alpha=1"), 4 * exact);
}

TEST(GptaqTest, RefusesExpertsWhoseTokensDiffer) {
  const LoudModel model(LoudModel::Kind::experts);
  EXPECT_THAT([&] { model.passes("gptaq"); },
              ::testing::ThrowsMessage<Error>(HasSubstr("use gptq for the experts")));
  const std::string mixed =
      "gptaq:bits=4,group_size=32,layers=blocks.*.attn.* | "
      "gptq:bits=4,group_size=32,layers=blocks.*.mlp.*";
  EXPECT_LT(model.error(mixed), model.error("rtn:bits=4,group_size=32"));
}

TEST(GptaqTest, DoesNotDependOnTheNumberOfThreads) {
  const LoudModel model;
  EXPECT_TRUE(model.is_independent_of_threads("awq | clip | gptaq:bits=3,group_size=32"));
  EXPECT_TRUE(model.is_independent_of_threads("hqq:bits=3,group_size=32"));
}

}  // namespace
}  // namespace fewbit
