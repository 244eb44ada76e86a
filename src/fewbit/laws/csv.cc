#include "fewbit/laws/csv.h"

#include <algorithm>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

class Reader {
 public:
  Reader(std::string_view text, std::string_view what) : text_(text), what_(what) {
    constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
    if (text_.starts_with(kByteOrderMark)) at_ = kByteOrderMark.size();
  }

  bool done() const { return at_ >= text_.size(); }

  CsvTable::Record record() {
    CsvTable::Record result;
    result.line = line_;
    do {
      result.fields.push_back(field());
    } while (take(','));
    if (!done()) end_of_line();
    return result;
  }

 private:
  bool take(char c) {
    if (done() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  std::string field() {
    if (take('"')) return quoted();
    const size_t end = std::min(text_.find_first_of(",\r\n", at_), text_.size());
    const std::string value(text_.substr(at_, end - at_));
    require(value.find('"') == std::string::npos,
            "{}:{}: a quote stands inside a field; quote the whole field and double the quote",
            what_, line_);
    at_ = end;
    return value;
  }

  std::string quoted() {
    const size_t start = line_;
    std::string value;
    for (;;) {
      require(!done(), "{}:{}: the quoted field that starts here has no end", what_, start);
      const char c = text_[at_++];
      if (c == '\n') ++line_;
      if (c != '"') {
        value += c;
      } else if (take('"')) {
        value += '"';
      } else {
        break;
      }
    }
    require(done() || std::string_view(",\r\n").find(text_[at_]) != std::string_view::npos,
            "{}:{}: text follows the closing quote of a field", what_, line_);
    return value;
  }

  void end_of_line() {
    take('\r');
    require(done() || take('\n'), "{}:{}: a carriage return stands inside a field", what_, line_);
    ++line_;
  }

  std::string_view text_, what_;
  size_t at_ = 0, line_ = 1;
};

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t") - first + 1));
}

}  // namespace

size_t CsvTable::find(std::string_view column) const {
  return static_cast<size_t>(std::find(columns.begin(), columns.end(), column) - columns.begin());
}

CsvTable parse_csv(std::string_view text, std::string_view what) {
  Reader reader(text, what);
  CsvTable table;
  require(!reader.done(), "{}: empty: the first line must name the columns", what);
  for (const std::string& name : reader.record().fields) {
    table.columns.push_back(trimmed(name));
    require(table.find(table.columns.back()) + 1 == table.columns.size(),
            "{}:1: two columns are named '{}'", what, table.columns.back());
  }
  while (!reader.done()) {
    CsvTable::Record record = reader.record();
    for (std::string& field : record.fields) field = trimmed(field);
    if (record.fields.size() == 1 && record.fields[0].empty()) continue;
    require(record.fields.size() == table.columns.size(), "{}:{}: {} fields, but {} columns", what,
            record.line, record.fields.size(), table.columns.size());
    table.records.push_back(std::move(record));
  }
  return table;
}

}  // namespace fewbit
