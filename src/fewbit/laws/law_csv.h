// Tables of measurements as CSV files, among them those that `fewbit study export` writes.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/laws/law_data.h"

namespace fewbit {

// A column that law data may have.
struct LawColumn {
  std::string name;
  std::vector<std::string> aliases;
  std::string meaning;
};
std::span<const LawColumn> law_columns();

// Only rows whose `column` holds exactly `value` are read.
struct RowFilter {
  std::string column, value;
};
// "column=value". Error that shows the form.
RowFilter read_row_filter(std::string_view text);

// Rows of a CSV file. N is required; other columns may be missing, and fields empty. Unknown
// columns are ignored. A row whose `status` is there and not "done" is skipped. Errors name file,
// line and column, and what is allowed.
LawData read_law_csv(const std::filesystem::path& path, std::span<const RowFilter> filters);
LawData parse_law_csv(std::string_view text, std::string what, std::span<const RowFilter> filters);

// A number as users write it: 7e9, 85056000, 7B, 1.5T (k, M, B or G, T). `what` names it in errors.
double read_quantity(std::string_view text, std::string_view what);
// The same, separated by commas.
std::vector<double> read_quantities(std::string_view text, std::string_view what);

}  // namespace fewbit
