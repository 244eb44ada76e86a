// The command line: one subcommand per verb.
#include <glog/logging.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "fewbit/base/error.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/log.h"
#include "fewbit/cli/verbs.h"

namespace {

// Exit codes, the same for every verb.
constexpr int kOk = 0, kInternal = 1, kUsage = 2, kInterrupted = 130;

}  // namespace

int main(int argc, char** argv) {
  using namespace fewbit;
  CLI::App app{"fewbit: extremely low-bit (1 to 4 bit) neural networks", "fewbit"};
  app.set_version_flag("--version", FEWBIT_VERSION);
  app.require_subcommand(1);
  app.fallthrough(false);
  initialise_logging(/*quiet=*/false, /*verbose=*/false);
  install_interrupt_handlers();
  // Ceres reports through glog what the fits report themselves, with warnings that users can use.
  FLAGS_minloglevel = google::GLOG_FATAL;
  try {
    cli::add_verbs(app);
    app.parse(argc, argv);
    return kOk;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  } catch (const Interrupted&) {
    fmt::print(stderr, "interrupted\n");
    return kInterrupted;
  } catch (const Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return kUsage;
  } catch (const std::exception& error) {
    fmt::print(stderr, "internal error: {}\n", error.what());
    return kInternal;
  }
}
