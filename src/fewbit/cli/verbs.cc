#include "fewbit/cli/verbs.h"

namespace fewbit::cli {

void add_verbs(CLI::App& app) {
  add_formats_verb(app);
  add_inspect_verb(app);
  add_law_verb(app);
#ifdef FEWBIT_WITH_TORCH
  add_train_verb(app);
  add_quantize_verb(app);
  add_eval_verb(app);
  add_study_verb(app);
  add_report_verb(app);
  add_methods_verb(app);
#endif
  add_run_verb(app);
  add_chat_verb(app);
}

}  // namespace fewbit::cli
