// Comma-separated values (RFC 4180): quoted fields, doubled quotes, CRLF or LF, an optional byte
// order mark. The first record names the columns.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit {

struct CsvTable {
  std::vector<std::string> columns;
  struct Record {
    size_t line = 0;  // on which it starts, from 1
    std::vector<std::string> fields;
  };
  std::vector<Record> records;

  // Index of a column, or columns.size().
  size_t find(std::string_view column) const;
};

// `what` names the text in errors, which give the line. Records must have as many fields as there
// are columns; empty lines are skipped; two columns of one name are an Error.
CsvTable parse_csv(std::string_view text, std::string_view what);

}  // namespace fewbit
