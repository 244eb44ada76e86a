#include <algorithm>
#include <map>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/formats/format_registry.h"
#include "fewbit/methods/registry.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/study/plan.h"

namespace fewbit {
namespace {

Json dataset_json(const StudyDataset& dataset) {
  return {{"name", dataset.name},
          {"path", dataset.path.string()},
          {"text_form", dataset.text_form},
          {"rule", dataset.rule},
          {"context", dataset.context},
          {"stride", dataset.stride},
          {"max_windows", dataset.max_windows}};
}

// What a checkpoint's rows say about it.
Json checkpoint_json(const std::string& path, const Checkpoint& checkpoint) {
  Json json = {{"checkpoint", path},
               {"checkpoint_hash", checkpoint.hash},
               {"run", std::filesystem::path(path).filename().string()},
               {"N", checkpoint.spec.non_embedding_params()}};
  if (const auto& training = checkpoint.training) {
    if (!training->run.empty()) json["run"] = training->run;
    if (training->tokens) json["D"] = *training->tokens;
    if (training->step) json["step"] = *training->step;
    if (training->learning_rate) json["lr"] = *training->learning_rate;
    if (training->schedule) json["schedule"] = *training->schedule;
    if (training->seed) json["train_seed"] = *training->seed;
    if (training->quantizer) json["train_quantizer"] = *training->quantizer;
    if (training->bits) json["train_bits"] = *training->bits;
  }
  return json;
}

// What a recipe's rows say about it: the method, nominal bits and group of its first quantize pass.
Json recipe_json(const Recipe& recipe) {
  Json json = {{"recipe", recipe.name}, {"recipe_text", recipe.text()}};
  for (const PassRequest& pass : recipe.passes) {
    for (const MethodInfo& method : methods()) {
      if (method.name != pass.method || method.kind != PassKind::quantize) continue;
      if (json.contains("method")) continue;
      json["method"] = method.name;
      const auto format = pass.options.find("format");
      const Format& chosen =
          find_format(format == pass.options.end() ? method.default_format : format->second);
      if (chosen.name != method.default_format) json["method"] = method.name + "+" + chosen.name;
      for (const char* key : {"bits", "group_size"}) {
        const auto given = pass.options.find(key);
        if (given != pass.options.end()) json[key] = std::stoll(given->second);
        for (const OptionSpec& option : chosen.options) {
          if (option.name == key && given == pass.options.end()) {
            json[key] = std::stoll(option.default_value);
          }
        }
      }
      // The codebook formats have four bits and no such option.
      if (!json.contains("bits")) json["bits"] = 4;
    }
  }
  return json;
}

Job make_job(JobKind kind, Json identity, Json spec, std::vector<std::string> needs) {
  identity["kind"] = job_kind_name(kind);
  identity["schema"] = StudyStore::kSchemaVersion;
  return {.key = sha256_hex(identity.dump()),
          .kind = kind,
          .spec = std::move(spec),
          .needs = std::move(needs)};
}

}  // namespace

std::vector<Job> plan_jobs(const StudyPlan& plan) {
  std::map<std::string, std::string> file_hashes;
  const auto file_hash = [&](const std::filesystem::path& path) -> const std::string& {
    auto& hash = file_hashes[path.string()];
    if (hash.empty()) hash = sha256_file(path);
    return hash;
  };
  std::vector<Job> jobs;
  std::set<std::string> keys;
  const auto add = [&](Job job) {
    const std::string key = job.key;
    if (keys.insert(key).second) jobs.push_back(std::move(job));
    return key;
  };

  for (const std::string& path : plan.checkpoints) {
    const Checkpoint checkpoint = open_checkpoint(path);
    const Json about = checkpoint_json(path, checkpoint);
    std::vector<std::pair<Json, std::string>> references;  // Dataset identity, key.
    for (const StudyDataset& dataset : plan.datasets) {
      Json spec = about;
      spec["dataset"] = dataset_json(dataset);
      Json data_identity = spec["dataset"];
      data_identity.erase("path");
      data_identity["sha256"] = file_hash(dataset.path);
      spec["dataset"]["sha256"] = data_identity["sha256"];
      references.emplace_back(
          spec["dataset"],
          add(make_job(JobKind::reference,
                       {{"checkpoint", checkpoint.hash}, {"dataset", data_identity}}, spec, {})));
    }
    for (const Recipe& recipe : plan.recipes) {
      const auto passes =
          with_context(path, [&] { return build_passes(recipe, methods(), checkpoint.spec); });
      const bool calibrated = std::any_of(
          passes.begin(), passes.end(), [](const auto& pass) { return pass->needs_calibration(); });
      require(!calibrated || !plan.calibration.path.empty(),
              "recipe '{}' needs calibration text: add a [calibration] table with its path",
              recipe.name);
      for (const uint64_t seed : plan.seeds) {
        Json spec = about;
        spec.update(recipe_json(recipe));
        Json identity = {{"checkpoint", checkpoint.hash}, {"recipe", recipe.text()}};
        // A recipe without calibration gives the same model for every seed: one job.
        if (calibrated) {
          spec["seed"] = seed;
          spec["calibration"] = {{"path", plan.calibration.path.string()},
                                 {"sha256", file_hash(plan.calibration.path)},
                                 {"sequences", plan.calibration.sequences},
                                 {"length", plan.calibration.length}};
          identity["seed"] = seed;
          identity["calibration"] = spec["calibration"];
          identity["calibration"].erase("path");
        }
        const std::string quantize_key = add(make_job(JobKind::quantize, identity, spec, {}));
        for (const auto& [dataset, reference_key] : references) {
          Json measured = spec;
          measured["dataset"] = dataset;
          measured["model"] = quantize_key;
          measured["reference"] = reference_key;
          measured["divergence"] = plan.divergence;
          add(make_job(JobKind::measure,
                       {{"model", quantize_key},
                        {"reference", reference_key},
                        {"divergence", plan.divergence}},
                       measured, {quantize_key, reference_key}));
        }
      }
    }
  }
  return jobs;
}

}  // namespace fewbit
