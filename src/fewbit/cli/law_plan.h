// `fewbit law predict` and `fewbit law table`: what laws say about models that were not measured.
#pragma once

#include <CLI/CLI.hpp>

namespace fewbit::cli {

void add_law_predict(CLI::App& verb);
void add_law_table(CLI::App& verb);

}  // namespace fewbit::cli
