// What the three kinds of jobs do (store.h): each reads its spec, which plan.cc wrote, and gives
// the row and the window losses that the store keeps.
#pragma once

#include <filesystem>

#include "fewbit/study/store.h"

namespace fewbit {

// Does one job. `store` gives the results and models that it needs; `batch_tokens`: tokens of one
// forward pass.
JobResult run_job(const Job& job, const StudyStore& store, size_t batch_tokens);

// Where the quantized model of a quantize job stands.
std::filesystem::path model_directory(const StudyStore& store, const std::string& quantize_key);

}  // namespace fewbit
