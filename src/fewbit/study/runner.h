// Runs the jobs of a study: workers take ready jobs from the store until none is left.
#pragma once

#include <cstddef>
#include <map>

#include "fewbit/study/plan.h"
#include "fewbit/study/store.h"

namespace fewbit {

struct StudyOptions {
  size_t workers = 1;  // Jobs at a time; each gets thread_count() / workers threads.
  bool retry_failed = false;
};

// Plans and runs; returns the final counts by state. A failing job is recorded and stops nothing
// else. Interrupted: jobs in flight go back to pending, and the same call continues.
std::map<JobState, size_t> run_study(const StudyPlan& plan, StudyStore& store,
                                     const StudyOptions& options);

}  // namespace fewbit
