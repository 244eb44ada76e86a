#include "fewbit/base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

namespace fewbit {

void initialise_logging(bool quiet, bool verbose) {
  auto logger =
      std::make_shared<spdlog::logger>("fewbit", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%l: %v");
  logger->set_level(quiet     ? spdlog::level::warn
                    : verbose ? spdlog::level::debug
                              : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace fewbit
