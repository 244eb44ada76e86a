#include "fewbit/cli/verbs.h"

#ifdef FEWBIT_WITH_TORCH
#include "fewbit/cli/eval_verb.h"
#endif

namespace fewbit::cli {

void add_verbs(CLI::App& app) {
#ifdef FEWBIT_WITH_TORCH
  add_eval_verb(app);
  add_methods_verb(app);
#else
  (void)app;
#endif
}

}  // namespace fewbit::cli
