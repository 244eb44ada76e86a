// Every verb adds its subcommand here. A verb's file parses and prints; the work is in the rooms.
#pragma once

#include <CLI/CLI.hpp>

namespace fewbit::cli {

// Adds all verbs of this build.
void add_verbs(CLI::App& app);

void add_chat_verb(CLI::App& app);
void add_formats_verb(CLI::App& app);
void add_inspect_verb(CLI::App& app);
void add_law_verb(CLI::App& app);
void add_run_verb(CLI::App& app);
#ifdef FEWBIT_WITH_TORCH
void add_eval_verb(CLI::App& app);
void add_methods_verb(CLI::App& app);
void add_quantize_verb(CLI::App& app);
void add_report_verb(CLI::App& app);
void add_study_verb(CLI::App& app);
void add_train_verb(CLI::App& app);
#endif

}  // namespace fewbit::cli
