#include "fewbit/study/report_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <string_view>

namespace fewbit {
namespace {

using testing::HasSubstr;

Json row() {
  return {{"checkpoint", "c"}, {"run", "r"}, {"method", "gptq"}, {"N", 1e6},
          {"D", 1e9},          {"bits", 3},  {"qid", 0.1}};
}

Json report() {
  return {{"schema", 1},
          {"title", "study"},
          {"generated", "2025-01-01T00:00:00Z"},
          {"fewbit_version", "0.1.0"},
          {"rows", Json::array({row()})},
          {"fits", Json::array()},
          {"loss_fits", Json::array()}};
}

Json fit() {
  return {{"name", "unified"},
          {"form", "unified"},
          {"params", Json::array({{{"name", "ln k"}, {"value", 1.0}}})},
          {"draws", {{1.0}}},
          {"points", Json::array({{{"row", 0}, {"predicted", 0.1}}})}};
}

// The JSON text between the data element's tags.
std::string data_text(const std::string& page) {
  constexpr std::string_view kOpen = "id=\"fewbit-data\">";
  const size_t start = page.find(kOpen);
  EXPECT_NE(start, std::string::npos);
  const size_t end = page.find("</script>", start);
  return page.substr(start + kOpen.size(), end - start - kOpen.size());
}

TEST(ReportPageTest, DataComeBackUnchangedFromThePage) {
  Json data = report();
  data["fits"].push_back(fit());
  EXPECT_EQ(parse_json(data_text(render_report(data)), "page"), data);
}

TEST(ReportPageTest, TextCannotLeaveTheDataElement) {
  Json data = report();
  const std::string hostile = "</script><script>alert(1)</script><!-- \xE2\x80\xA8 \xE2\x80\xA9";
  data["title"] = hostile;
  const std::string text = data_text(render_report(data));
  EXPECT_EQ(text.find('<'), std::string::npos);
  EXPECT_EQ(text.find("\xE2\x80\xA8"), std::string::npos);
  EXPECT_EQ(text.find("\xE2\x80\xA9"), std::string::npos);
  EXPECT_EQ(parse_json(text, "page")["title"], hostile);
}

TEST(ReportPageTest, NamesThatAreNotUtf8AreShownWithReplacements) {
  Json data = report();
  data["title"] = "a\xFFz";
  EXPECT_EQ(parse_json(data_text(render_report(data)), "page")["title"], "a\xEF\xBF\xBDz");
}

TEST(ReportPageTest, NumbersThatAreNotFiniteBecomeNull) {
  Json data = report();
  data["rows"][0]["qid"] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(parse_json(data_text(render_report(data)), "page")["rows"][0]["qid"].is_null());
}

TEST(ReportPageTest, PageHoldsNoReferenceToTheNetwork) {
  const std::string page = render_report(report());
  EXPECT_EQ(page.find("@FEWBIT_DATA@"), std::string::npos);
  for (const char* tag : {"<script src", "<script type=\"module\" crossorigin src", "<link rel=\"s",
                          "@import", "@font-face"}) {
    EXPECT_EQ(page.find(tag), std::string::npos) << tag;
  }
}

std::string error_of(const Json& data) {
  try {
    check_report_data(data);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ReportPageTest, ErrorsNameThePlace) {
  Json data = report();
  data["schema"] = 2;
  EXPECT_THAT(error_of(data), HasSubstr("schema 2"));

  data = report();
  data.erase("loss_fits");
  EXPECT_THAT(error_of(data), HasSubstr("'loss_fits' is missing"));

  data = report();
  data["rows"][0].erase("D");
  EXPECT_THAT(error_of(data), HasSubstr("rows[0]: key 'D'"));

  data = report();
  data["fits"].push_back(fit());
  data["fits"][0]["draws"][0].push_back(2.0);
  EXPECT_THAT(error_of(data), HasSubstr("fits[0]: draws[0] has 2 values, params has 1"));

  data["fits"][0] = fit();
  data["fits"][0]["points"][0]["row"] = 1;
  EXPECT_THAT(error_of(data), HasSubstr("fits[0]: key 'row': 1 is above the limit of 0"));

  EXPECT_THAT(error_of(Json::array()), HasSubstr("expected an object"));
}

}  // namespace
}  // namespace fewbit
