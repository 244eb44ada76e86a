// StudyPlan: what study.toml says, and the jobs that follow from it: the product of checkpoints x
// recipes x seeds x datasets (docs/guide/study.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "fewbit/calibrate/recipe.h"
#include "fewbit/study/store.h"

namespace fewbit {

// A text and how it is cut into windows (eval/windows.h).
struct StudyDataset {
  std::string name;
  std::filesystem::path path;
  std::string text_form = "file";
  std::string rule = "concat_no_bos";
  size_t context = 0;      // 0: the model's own, at most 2048
  size_t stride = 0;       // strided only; 0: half the context
  size_t max_windows = 0;  // 0: all
};

// Token windows that methods with calibration draw from.
struct StudyCalibration {
  std::filesystem::path path;
  size_t sequences = 64;
  size_t length = 0;  // 0: the context of the first dataset's rule
};

struct StudyPlan {
  std::string title;
  std::vector<std::string> checkpoints;  // Paths, sorted; patterns already expanded.
  std::vector<Recipe> recipes;
  std::vector<uint64_t> seeds;
  std::vector<StudyDataset> datasets;
  StudyCalibration calibration;
  bool divergence = true;    // KL and top-1 agreement: the reference runs beside every model.
  bool keep_models = false;  // Keep the quantized directories.
  size_t batch_tokens = 8192;
  std::string text;  // The file as it was.

  // Relative paths are relative to the file. Patterns may hold '*' in any path component. Errors
  // name file and key; a pattern without a match is one.
  static StudyPlan read(const std::filesystem::path& path);
  // The same for the text of a file that would stand at `path`.
  static StudyPlan parse(std::string text, const std::filesystem::path& path);
};

// The jobs of a plan. Opens every checkpoint (headers only) to hash it and to check every recipe
// against it: an impossible combination is an Error before any work starts.
std::vector<Job> plan_jobs(const StudyPlan& plan);

}  // namespace fewbit
