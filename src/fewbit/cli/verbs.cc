#include "fewbit/cli/verbs.h"

namespace fewbit::cli {

void add_verbs(CLI::App& app) { (void)app; }

}  // namespace fewbit::cli
