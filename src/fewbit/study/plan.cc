#include "fewbit/study/plan.h"

#include <glob.h>

#include <set>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/toml.h"
#include "fewbit/eval/windows.h"

namespace fewbit {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 40;
constexpr size_t kMaxPlanBytes = 1 << 20;

// Existing paths that match, sorted; relative ones are looked up from `base`.
std::vector<std::string> expand_pattern(const std::string& pattern,
                                        const std::filesystem::path& base) {
  const std::string absolute = (base / pattern).lexically_normal().string();
  glob_t found{};
  const int status = ::glob(absolute.c_str(), GLOB_ERR, nullptr, &found);
  std::vector<std::string> paths;
  if (status == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  require(!paths.empty(), "'{}' matches nothing", absolute);
  return paths;
}

StudyDataset read_dataset(TomlTable table, const std::filesystem::path& base) {
  StudyDataset dataset;
  dataset.name = table.text("name");
  dataset.path = (base / table.text("path")).lexically_normal();
  dataset.text_form = table.choice_or("text_form", "file", {"file", "hub"});
  dataset.rule = table.choice_or("rule", dataset.rule, window_rule_names());
  dataset.context = static_cast<size_t>(table.integer_or("context", 0, 0, 1 << 20));
  dataset.stride = static_cast<size_t>(table.integer_or("stride", 0, 0, 1 << 20));
  dataset.max_windows = static_cast<size_t>(table.integer_or("max_windows", 0, 0, kMaxCount));
  table.finish();
  return dataset;
}

}  // namespace

StudyPlan StudyPlan::read(const std::filesystem::path& path) {
  return parse(read_text_file(path, kMaxPlanBytes), path);
}

StudyPlan StudyPlan::parse(std::string text, const std::filesystem::path& path) {
  const std::filesystem::path base = std::filesystem::absolute(path).parent_path();
  StudyPlan plan;
  plan.text = std::move(text);
  const toml::table parsed = parse_toml(plan.text, path.string());
  TomlTable root(parsed, path.string());
  plan.title = root.text_or("title", path.stem().string());

  std::set<std::string> checkpoints;
  const auto patterns = root.texts("checkpoints");
  require(!patterns.empty(), "{}: key 'checkpoints': a list of paths or patterns is needed",
          path.string());
  for (const std::string& pattern : patterns) {
    with_context(fmt::format("{}: key 'checkpoints'", path.string()), [&] {
      for (auto& found : expand_pattern(pattern, base)) checkpoints.insert(std::move(found));
    });
  }
  plan.checkpoints.assign(checkpoints.begin(), checkpoints.end());

  for (const std::string& line : root.texts("recipes")) {
    plan.recipes.push_back(with_context(path.string(), [&] { return Recipe::parse(line); }));
  }
  for (const TomlTable& table : root.tables("recipe")) {
    plan.recipes.push_back(Recipe::from_toml(table.raw(), table.where()));
  }
  for (const int64_t seed : root.integers("seeds", 0, kMaxCount)) {
    plan.seeds.push_back(static_cast<uint64_t>(seed));
  }
  if (plan.seeds.empty()) plan.seeds = {0};

  std::set<std::string> names;
  for (const TomlTable& table : root.tables("dataset")) {
    plan.datasets.push_back(read_dataset(table, base));
    require(names.insert(plan.datasets.back().name).second, "{}: two datasets are named '{}'",
            path.string(), plan.datasets.back().name);
  }
  require(!plan.datasets.empty(), "{}: at least one [[dataset]] is needed", path.string());

  if (auto table = root.table("calibration")) {
    plan.calibration.path = (base / table->text("path")).lexically_normal();
    plan.calibration.sequences =
        static_cast<size_t>(table->integer_or("sequences", 64, 1, 1 << 20));
    plan.calibration.length = static_cast<size_t>(table->integer_or("length", 0, 0, 1 << 20));
    table->finish();
  }
  plan.divergence = root.boolean_or("divergence", plan.divergence);
  plan.keep_models = root.boolean_or("keep_models", plan.keep_models);
  plan.batch_tokens =
      static_cast<size_t>(root.integer_or("batch_tokens", 8192, 1, int64_t{1} << 24));
  root.finish();
  return plan;
}

}  // namespace fewbit
