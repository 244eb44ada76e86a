#include "fewbit/cli/verbs.h"

namespace fewbit::cli {

void add_verbs(CLI::App& app) {
#ifdef FEWBIT_WITH_TORCH
  add_methods_verb(app);
#else
  (void)app;
#endif
}

}  // namespace fewbit::cli
