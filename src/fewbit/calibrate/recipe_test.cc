#include "fewbit/calibrate/recipe.h"

#include <gtest/gtest.h>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

TEST(RecipeTest, OneLineAndTomlGiveTheSamePasses) {
  const Recipe line = Recipe::parse(" gptq : bits=3, group_size = 128 |rtn:bits=8,layers=head");
  const Recipe toml = Recipe::from_toml(toml::parse(R"(
    name = "mixed"
    [[pass]]
    method = "gptq"
    bits = 3
    group_size = 128
    [[pass]]
    method = "rtn"
    bits = 8
    layers = "head")"),
                                        "test.toml");
  EXPECT_EQ(line.passes, toml.passes);
  EXPECT_EQ(toml.name, "mixed");
  EXPECT_EQ(line.text(), "gptq:bits=3,group_size=128 | rtn:bits=8,layers=head");
  EXPECT_EQ(Recipe::parse(line.text()).passes, line.passes);
}

TEST(RecipeTest, BrokenTextIsRefused) {
  for (const char* text : {"", "|", "gptq:", "gptq:bits", "gptq:bits=", "gptq:=3", "a b",
                           "gptq:bits=3,bits=4", "gptq||rtn"}) {
    EXPECT_THROW(Recipe::parse(text), Error) << text;
  }
  for (const char* text :
       {"pass = 3", "[[pass]]\nbits = 3", "[[pass]]\nmethod = 'x'\nbits = [3]",
        "extra = 1\n[[pass]]\nmethod='x'", "recipe = 'rtn'\n[[pass]]\nmethod='x'", ""}) {
    EXPECT_THROW(Recipe::from_toml(toml::parse(text), "t"), Error) << text;
  }
}

}  // namespace
}  // namespace fewbit
