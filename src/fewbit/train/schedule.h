// Learning-rate schedules: pure functions of (step, total), so that a resumed run is exact.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit {

enum class ScheduleKind {
  constant,
  linear,  // from the peak to the floor over all steps after the warmup
  cosine,  // half a cosine from the peak to the floor
  wsd      // warmup, stable, decay: constant, then linear to the floor over the last part
};
std::string_view schedule_name(ScheduleKind kind);
std::vector<std::string> schedule_names();
// Error that lists the names.
ScheduleKind parse_schedule(std::string_view name);

struct Schedule {
  ScheduleKind kind = ScheduleKind::constant;
  double peak = 1e-3;
  uint64_t warmup_steps = 0;    // linear from peak / warmup_steps
  double floor_fraction = 0.1;  // linear and cosine: lowest rate over the peak; wsd ends at 0
  double decay_fraction = 0.2;  // wsd: part of all steps that decays
};

// Learning rate of update `step` of `total`, steps counted from 0.
double learning_rate(const Schedule& schedule, uint64_t step, uint64_t total);

}  // namespace fewbit
