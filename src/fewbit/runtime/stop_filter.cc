#include "fewbit/runtime/stop_filter.h"

#include <algorithm>
#include <utility>

#include "fewbit/base/error.h"

namespace fewbit {

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) require(!stop.empty(), "a stop string is empty");
}

std::string StopFilter::push(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  // Where the earliest stop string begins, whole or as far as the text goes.
  size_t safe = held_.size();
  const std::string* found = nullptr;
  for (size_t at = 0; at < held_.size() && safe == held_.size(); ++at) {
    const std::string_view rest = std::string_view(held_).substr(at);
    for (const std::string& stop : stops_) {
      if (rest.starts_with(stop)) {
        safe = at;
        found = &stop;
        break;
      }
      if (stop.starts_with(rest)) safe = at;
    }
  }
  std::string shown = held_.substr(0, safe);
  if (found != nullptr) {
    stopped_ = *found;
    held_.clear();
  } else {
    held_.erase(0, safe);
  }
  return shown;
}

std::string StopFilter::finish() {
  // A longer stop string that never came may have hidden a whole shorter one behind it.
  size_t end = held_.size();
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at >= end) continue;
    end = at;
    stopped_ = stop;
  }
  held_.resize(end);
  return std::exchange(held_, std::string());
}

}  // namespace fewbit
