// Any text is a recipe, a study plan, or a fewbit::Error; a recipe's canonical form is itself one.
#include <string>

#include "fewbit/base/error.h"
#include "fewbit/base/toml.h"
#include "fewbit/calibrate/recipe.h"
#include "fewbit/study/plan.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fewbit;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto check = [](const Recipe& recipe) {
    if (Recipe::parse(recipe.text()).passes != recipe.passes) __builtin_trap();
  };
  try {
    check(Recipe::parse(text));
  } catch (const Error&) {
  }
  try {
    const toml::table table = parse_toml(text, "fuzz.toml");
    check(Recipe::from_toml(table, "fuzz.toml"));
  } catch (const Error&) {
  }
  try {
    (void)StudyPlan::parse(text, "/nonexistent/fuzz.toml");
  } catch (const Error&) {
  }
  return 0;
}
