#include "fewbit/laws/law_csv.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <optional>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/laws/csv.h"

namespace fewbit {
namespace {

enum class Allowed { positive, non_negative, any };

// Where a number goes, and what it may be.
struct NumberColumn {
  LawColumn column;
  Allowed allowed;
  std::function<void(LawRow&, double)> store;
};
struct TextColumn {
  LawColumn column;
  std::string LawRow::*store;
};

NumberColumn variable(LawVariable which, std::vector<std::string> aliases, std::string meaning) {
  return {{std::string(law_variable_column(which)), std::move(aliases), std::move(meaning)},
          Allowed::positive,
          [which](LawRow& row, double value) { row.point.set(which, value); }};
}

NumberColumn number(std::string name, std::vector<std::string> aliases, std::string meaning,
                    Allowed allowed, double LawRow::*store) {
  return {{std::move(name), std::move(aliases), std::move(meaning)},
          allowed,
          [store](LawRow& row, double value) { row.*store = value; }};
}

const std::vector<NumberColumn>& number_columns() {
  using enum LawVariable;
  static const std::vector<NumberColumn> columns = {
      variable(params, {"params"}, "non-embedding parameters"),
      variable(tokens, {"tokens"}, "training tokens seen"),
      variable(bits, {"P", "nominal_bits"}, "bit width of the quantized weights"),
      number("qid", {},
             "loss after quantization minus loss before, nats per token; may be negative",
             Allowed::any, &LawRow::qid),
      number("qid_se", {}, "standard error of qid, paired", Allowed::non_negative, &LawRow::qid_se),
      number("loss16", {"base"}, "loss before quantization", Allowed::positive, &LawRow::loss16),
      number("loss", {"loss_q"}, "loss after quantization, or of a model trained in low precision",
             Allowed::positive, &LawRow::loss),
      number("vocab", {"vocab_size"}, "entries of the vocabulary", Allowed::positive,
             &LawRow::vocab),
      variable(group_size, {"G"}, "weights that share one scale"),
      variable(lr_ratio, {},
               "learning rate at the checkpoint / peak; also made from lr and lr_peak"),
      variable(train_bits, {"Pw"}, "weight bits during training"),
      variable(activation_bits, {"Pa"}, "activation bits during training"),
      variable(cache_bits, {"Pkv"}, "key-value bits during training"),
      variable(exponent_bits, {}, "of a floating-point training format"),
      variable(mantissa_bits, {}, "of a floating-point training format"),
      variable(gmse, {}, "mean squared error of the number format on N(0,1) data")};
  return columns;
}

const std::vector<TextColumn>& text_columns() {
  static const std::vector<TextColumn> columns = {
      {{"run", {"run_id"}, "training run: its checkpoints are resampled together"}, &LawRow::run},
      {{"method", {}, "quantization method"}, &LawRow::method},
      {{"dataset", {}, "evaluation data"}, &LawRow::dataset},
      {{"schedule", {"sched"}, "of the learning rate"}, &LawRow::schedule}};
  return columns;
}

// Column of the table that holds `column`, under its name or an alias.
std::optional<size_t> find_column(const CsvTable& table, const LawColumn& column) {
  size_t at = table.find(column.name);
  for (size_t i = 0; at == table.columns.size() && i < column.aliases.size(); ++i) {
    at = table.find(column.aliases[i]);
  }
  return at < table.columns.size() ? std::optional(at) : std::nullopt;
}

double read_cell(const std::string& text, Allowed allowed, const std::string& place) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  const bool in_range = allowed == Allowed::any        ? true
                        : allowed == Allowed::positive ? value > 0
                                                       : value >= 0;
  const char* wanted = allowed == Allowed::any        ? "a number"
                       : allowed == Allowed::positive ? "a number above 0"
                                                      : "a number of at least 0";
  require(error == std::errc() && stop == end && std::isfinite(value) && in_range,
          "{}: '{}': allowed is {}, or nothing", place, text, wanted);
  return value;
}

bool is_empty_cell(const std::string& text) {
  return text.empty() || text == "nan" || text == "NaN" || text == "NA" || text == "null";
}

std::string column_list(const CsvTable& table) {
  return fmt::format("{}", fmt::join(table.columns, ", "));
}

}  // namespace

std::span<const LawColumn> law_columns() {
  static const std::vector<LawColumn> columns = [] {
    std::vector<LawColumn> all;
    for (const TextColumn& text : text_columns()) all.push_back(text.column);
    for (const NumberColumn& number : number_columns()) all.push_back(number.column);
    return all;
  }();
  return columns;
}

RowFilter read_row_filter(std::string_view text) {
  const size_t equals = text.find('=');
  require(equals != std::string_view::npos && equals > 0,
          "'{}' is not a filter; write column=value, for example method=gptq", text);
  return {std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
}

LawData parse_law_csv(std::string_view text, std::string what, std::span<const RowFilter> filters) {
  const CsvTable table = parse_csv(text, what);
  require(find_column(table, number_columns().front().column).has_value(),
          "{}: no column N (non-embedding parameters); the columns are: {}", what,
          column_list(table));
  std::vector<std::pair<size_t, std::string>> wanted;
  for (const RowFilter& filter : filters) {
    size_t at = table.find(filter.column);
    for (const LawColumn& column : law_columns()) {
      if (at == table.columns.size() && column.name == filter.column) {
        at = find_column(table, column).value_or(at);
      }
    }
    require(at < table.columns.size(), "{}: no column '{}' to select by; the columns are: {}", what,
            filter.column, column_list(table));
    wanted.emplace_back(at, filter.value);
  }
  const size_t status = table.find("status"), lr = table.find("lr"),
               lr_peak = table.find("lr_peak");
  LawData data;
  data.source = std::move(what);
  for (const CsvTable::Record& record : table.records) {
    const auto& fields = record.fields;
    if (status < fields.size() && !fields[status].empty() && fields[status] != "done") continue;
    if (!std::all_of(wanted.begin(), wanted.end(),
                     [&](const auto& filter) { return fields[filter.first] == filter.second; })) {
      continue;
    }
    LawRow row;
    row.line = record.line;
    const auto place = [&](size_t column) {
      return fmt::format("{}:{}: column {}", data.source, record.line, table.columns[column]);
    };
    for (const TextColumn& column : text_columns()) {
      if (const auto at = find_column(table, column.column)) row.*column.store = fields[*at];
    }
    for (const NumberColumn& column : number_columns()) {
      const auto at = find_column(table, column.column);
      if (!at || is_empty_cell(fields[*at])) continue;
      column.store(row, read_cell(fields[*at], column.allowed, place(*at)));
    }
    if (!row.point.has(LawVariable::lr_ratio) && lr < fields.size() && lr_peak < fields.size() &&
        !is_empty_cell(fields[lr]) && !is_empty_cell(fields[lr_peak])) {
      const double ratio = read_cell(fields[lr], Allowed::non_negative, place(lr)) /
                           read_cell(fields[lr_peak], Allowed::positive, place(lr_peak));
      // At a rate of exactly 0 a power of the ratio is undefined: the variable stays unknown.
      if (ratio > 0) row.point.set(LawVariable::lr_ratio, ratio);
    }
    data.rows.push_back(std::move(row));
  }
  require(!data.rows.empty(), "{}: no rows{}", data.source,
          filters.empty() ? "" : " pass the selection");
  // A table of unquantized models calls its loss just that.
  const auto has = [&](std::string_view name) {
    return std::any_of(law_columns().begin(), law_columns().end(), [&](const LawColumn& column) {
      return column.name == name && find_column(table, column);
    });
  };
  const bool has_loss16 = has("loss16"), has_bits = has("bits") || has("train_bits");
  if (!has_loss16 && !has_bits) {
    for (LawRow& row : data.rows) row.loss16 = row.loss;
  }
  return data;
}

LawData read_law_csv(const std::filesystem::path& path, std::span<const RowFilter> filters) {
  return parse_law_csv(read_text_file(path), path.string(), filters);
}

double read_quantity(std::string_view text, std::string_view what) {
  static const std::map<char, double> kUnits = {{'k', 1e3}, {'K', 1e3}, {'M', 1e6},
                                                {'B', 1e9}, {'G', 1e9}, {'T', 1e12}};
  double value = 0, unit = 1;
  std::string_view digits = text;
  if (!digits.empty()) {
    if (const auto found = kUnits.find(digits.back()); found != kUnits.end()) {
      unit = found->second;
      digits.remove_suffix(1);
    }
  }
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value);
  require(error == std::errc() && stop == end && std::isfinite(value) && value > 0,
          "{}: '{}' is not a number above 0 (7e9, 7B, 1.5T; units k, M, B, G, T)", what, text);
  return value * unit;
}

std::vector<double> read_quantities(std::string_view text, std::string_view what) {
  std::vector<double> values;
  for (;;) {
    const size_t comma = text.find(',');
    values.push_back(read_quantity(text.substr(0, comma), what));
    if (comma == std::string_view::npos) return values;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace fewbit
