// The measurements of a study as rows: for CSV, the laws and the report.
#pragma once

#include <string>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/study/store.h"

namespace fewbit {

// One flat object per measure job of the plan, in plan order; failed and pending ones have "status"
// and what their spec says. "status": "done", "failed", "pending" or "running".
std::vector<Json> study_rows(const StudyStore& store);

// RFC 4180; the header names the columns, the same for every study. Columns that `fewbit law`
// reads (run, N, D, bits, qid, qid_se, loss16, ...) come first.
std::string study_csv(const StudyStore& store);

}  // namespace fewbit
