#include "fewbit/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "fewbit/base/error.h"
#include "fewbit/base/options.h"

namespace fewbit {
namespace {

constexpr ScheduleKind kKinds[] = {ScheduleKind::constant, ScheduleKind::linear,
                                   ScheduleKind::cosine, ScheduleKind::wsd};

}  // namespace

std::string_view schedule_name(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::constant:
      return "constant";
    case ScheduleKind::linear:
      return "linear";
    case ScheduleKind::cosine:
      return "cosine";
    case ScheduleKind::wsd:
      return "wsd";
  }
  return "";
}

std::vector<std::string> schedule_names() {
  std::vector<std::string> names;
  for (const ScheduleKind kind : kKinds) names.emplace_back(schedule_name(kind));
  return names;
}

ScheduleKind parse_schedule(std::string_view name) {
  for (const ScheduleKind kind : kKinds) {
    if (schedule_name(kind) == name) return kind;
  }
  fail("unknown schedule '{}'; known: {}", name, join_choices(schedule_names()));
}

double learning_rate(const Schedule& schedule, uint64_t step, uint64_t total) {
  if (step < schedule.warmup_steps) {
    return schedule.peak * static_cast<double>(step + 1) /
           static_cast<double>(schedule.warmup_steps);
  }
  const double floor = schedule.peak * schedule.floor_fraction;
  // Progress after the warmup: 0 at its end, 1 behind the last step.
  const double span =
      std::max(1.0, static_cast<double>(total) - static_cast<double>(schedule.warmup_steps));
  const double progress = std::min(1.0, static_cast<double>(step - schedule.warmup_steps) / span);
  switch (schedule.kind) {
    case ScheduleKind::constant:
      return schedule.peak;
    case ScheduleKind::linear:
      return schedule.peak + (floor - schedule.peak) * progress;
    case ScheduleKind::cosine:
      return floor + (schedule.peak - floor) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
    case ScheduleKind::wsd: {
      const double decay_steps = schedule.decay_fraction * static_cast<double>(total);
      const double left = static_cast<double>(total - std::min(step, total));
      return decay_steps > 0 && left < decay_steps ? schedule.peak * left / decay_steps
                                                   : schedule.peak;
    }
  }
  throw std::logic_error("schedule");
}

}  // namespace fewbit
