#include "fewbit/base/toml.h"

#include <gtest/gtest.h>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

TEST(TomlTest, UnknownKeysAndWrongValuesAreNamed) {
  const toml::table parsed = parse_toml("seed = 3\nrate = 1\nnames = 'a'\ntypo = 1\n", "t.toml");
  TomlTable table(parsed, "t.toml");
  EXPECT_EQ(table.integer("seed", 0, 9), 3);
  EXPECT_EQ(table.real("rate", 0, 2), 1.0);
  EXPECT_EQ(table.texts("names"), std::vector<std::string>{"a"});
  EXPECT_THROW(table.integer("seed", 4, 9), Error);
  EXPECT_THROW(table.text("seed"), Error);
  EXPECT_THROW(table.text("absent"), Error);
  try {
    table.finish();
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("typo"), std::string::npos);
  }
}

TEST(TomlTest, SyntaxErrorsAndDeepNestingAreErrors) {
  EXPECT_THROW(parse_toml("a = ", "t"), Error);
  EXPECT_THROW(parse_toml("a = " + std::string(10000, '['), "t"), Error);
  EXPECT_THROW(parse_toml("a = " + std::string(10000, '{'), "t"), Error);
  std::string dotted;
  for (int i = 0; i < 200000; ++i) dotted += "a.";
  EXPECT_THROW(parse_toml(dotted + "b = 1", "t"), Error);
}

}  // namespace
}  // namespace fewbit
