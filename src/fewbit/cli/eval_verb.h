// fewbit eval: loss, perplexity, QiD and divergence of a model on text.
#pragma once

#include <CLI/CLI.hpp>

namespace fewbit::cli {

void add_eval_verb(CLI::App& app);

}  // namespace fewbit::cli
