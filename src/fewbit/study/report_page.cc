#include "fewbit/study/report_page.h"

#include <fmt/format.h>

#include <string_view>

#include "fewbit/base/error.h"
#include "fewbit/study/report_page.inc"

namespace fewbit {
namespace {

const Json& array_at(const Json& object, const char* key) {
  const auto found = object.find(key);
  require(found != object.end(), "key '{}' is missing", key);
  require(found->is_array(), "key '{}' must be an array", key);
  return *found;
}

void check_row(const Json& row) {
  for (const char* key : {"checkpoint", "run", "method"}) json_get<std::string>(row, key);
  for (const char* key : {"N", "D", "bits"}) {
    require(row.contains(key) && (row[key].is_number() || row[key].is_null()),
            "key '{}' must be a number or null", key);
  }
}

void check_fit(const Json& fit, size_t row_count) {
  for (const char* key : {"name", "form"}) json_get<std::string>(fit, key);
  const Json& params = array_at(fit, "params");
  for (const Json& param : params) {
    json_get<std::string>(param, "name");
    require(param.contains("value"), "a parameter lacks the key 'value'");
  }
  if (fit.contains("draws")) {
    const Json& draws = array_at(fit, "draws");
    for (size_t i = 0; i < draws.size(); ++i) {
      require(draws[i].is_array(), "draws[{}] must be an array", i);
      require(draws[i].size() == params.size(), "draws[{}] has {} values, params has {}", i,
              draws[i].size(), params.size());
    }
  }
  if (fit.contains("points")) {
    for (const Json& point : array_at(fit, "points")) {
      require(row_count > 0, "a point names a row, but there are no rows");
      json_get_size(point, "row", row_count - 1);
      require(point.contains("predicted"), "a point lacks the key 'predicted'");
    }
  }
}

template <class Check>
void check_each(const Json& data, const char* key, const Check& check) {
  const Json& items = array_at(data, key);
  for (size_t i = 0; i < items.size(); ++i) {
    with_context(fmt::format("{}[{}]", key, i), [&] { check(items[i]); });
  }
}

// JSON inside a <script> element: no "<" is left that could end the element or open a comment, and
// the two line separators that older script parsers take for line ends are escaped.
std::string json_for_script(const Json& data) {
  const std::string text = data.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string safe;
  safe.reserve(text.size() + text.size() / 64);
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string_view rest = std::string_view(text).substr(i, 3);
    if (text[i] == '<') {
      safe += "\\u003c";
    } else if (rest == "\xE2\x80\xA8" || rest == "\xE2\x80\xA9") {
      safe += rest.back() == '\xA8' ? "\\u2028" : "\\u2029";
      i += rest.size() - 1;
    } else {
      safe += text[i];
    }
  }
  return safe;
}

}  // namespace

void check_report_data(const Json& data) {
  with_context("report data", [&] {
    const int schema = json_get<int>(data, "schema");
    require(schema == kReportSchema, "schema {} is not known; this build reads schema {}", schema,
            kReportSchema);
    for (const char* key : {"title", "generated", "fewbit_version"}) {
      json_get<std::string>(data, key);
    }
    const size_t row_count = array_at(data, "rows").size();
    check_each(data, "rows", check_row);
    const auto check = [&](const Json& fit) { check_fit(fit, row_count); };
    check_each(data, "fits", check);
    check_each(data, "loss_fits", check);
  });
}

std::string render_report(const Json& data) {
  check_report_data(data);
  const std::string json = json_for_script(data);
  std::string page;
  page.reserve(kReportHead.size() + json.size() + kReportTail.size());
  page += kReportHead;
  page += json;
  page += kReportTail;
  return page;
}

}  // namespace fewbit
