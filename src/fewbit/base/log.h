// Warnings and notes, through spdlog, to standard error. Library code warns; it never prints.
#pragma once

#include <spdlog/spdlog.h>

#include <string>
#include <utility>

namespace fewbit {

// Sends the default logger to standard error with the pattern "warning: text".
void initialise_logging(bool quiet, bool verbose);

template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  spdlog::warn(fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void note(fmt::format_string<Args...> format, Args&&... args) {
  spdlog::info(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace fewbit
