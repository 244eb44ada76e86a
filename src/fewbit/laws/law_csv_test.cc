#include "fewbit/laws/law_csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/laws/csv.h"

namespace fewbit {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string error_of(std::string_view text, std::vector<RowFilter> filters = {}) {
  try {
    parse_law_csv(text, "rows.csv", filters);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(CsvTest, ReadsQuotedFieldsAndAllLineEnds) {
  const CsvTable table = parse_csv(
      "\xEF\xBB\xBF"
      "a, b\r\n\"x,\"\"y\"\"\n z\",2\n\n3,\"\"",
      "t");
  EXPECT_EQ(table.columns, (std::vector<std::string>{"a", "b"}));
  ASSERT_EQ(table.records.size(), 2u);
  EXPECT_EQ(table.records[0].fields[0], "x,\"y\"\n z");
  EXPECT_EQ(table.records[1].line, 5u);
  EXPECT_EQ(table.records[1].fields, (std::vector<std::string>{"3", ""}));
}

TEST(CsvTest, RefusesBrokenText) {
  EXPECT_THROW(parse_csv("", "t"), Error);
  EXPECT_THROW(parse_csv("a,a\n1,2\n", "t"), Error);
  EXPECT_THROW(parse_csv("a,b\n1\n", "t"), Error);
  EXPECT_THROW(parse_csv("a\n\"open", "t"), Error);
  EXPECT_THROW(parse_csv("a\n\"x\"y\n", "t"), Error);
  EXPECT_THROW(parse_csv("a\nx\"y\n", "t"), Error);
}

TEST(LawCsvTest, ReadsColumnsUnderNamesAndAliases) {
  const LawData data = parse_law_csv(
      "run_id,params,tokens,P,qid,qid_se,loss16,G,lr,lr_peak,vocab_size,other\n"
      "a,1e9,2e10,3,-0.01,0.002,2.5,128,0.5,2,50277,zz\n",
      "rows.csv", {});
  ASSERT_EQ(data.rows.size(), 1u);
  const LawRow& row = data.rows[0];
  EXPECT_EQ(row.run, "a");
  EXPECT_EQ(row.point[LawVariable::params], 1e9);
  EXPECT_EQ(row.point[LawVariable::bits], 3);
  EXPECT_EQ(row.point[LawVariable::group_size], 128);
  EXPECT_EQ(row.point[LawVariable::lr_ratio], 0.25);
  EXPECT_EQ(row.qid, -0.01);
  EXPECT_NEAR(row.headroom(0), std::log(50277.0) - 2.5, 1e-12);
  EXPECT_EQ(data.place(0), "rows.csv:2");
}

TEST(LawCsvTest, QidFollowsFromTheTwoLosses) {
  const LawData data = parse_law_csv("N,D,bits,loss16,loss\n1e9,1e10,3,2.5,2.75\n", "r", {});
  EXPECT_EQ(data.rows[0].quantity(LawQuantity::qid), 0.25);
}

TEST(LawCsvTest, LossWithoutBitsIsTheLossBeforeQuantization) {
  const LawData data = parse_law_csv("N,D,flop,loss\n1e9,1e10,6e19,2.75\n", "r", {});
  EXPECT_EQ(data.rows[0].quantity(LawQuantity::loss16), 2.75);
}

TEST(LawCsvTest, ErrorsNameFileLineColumnAndWhatIsAllowed) {
  EXPECT_THAT(error_of("N,D\n1e9,abc\n"), AllOf(HasSubstr("rows.csv:2"), HasSubstr("column D"),
                                                HasSubstr("abc"), HasSubstr("above 0")));
  EXPECT_THAT(error_of("N,D\n-3,1\n"), HasSubstr("column N"));
  EXPECT_THAT(error_of("D,bits\n1,2\n"), AllOf(HasSubstr("no column N"), HasSubstr("D, bits")));
  EXPECT_THAT(error_of("N,D\n1,2,3\n"), HasSubstr("rows.csv:2: 3 fields"));
  EXPECT_THAT(error_of("N,D\n"), HasSubstr("no rows"));
  EXPECT_THAT(error_of("N,D\n1,2\n", {{"method", "gptq"}}), HasSubstr("no column 'method'"));
}

TEST(LawCsvTest, SelectsRowsAndSkipsUnfinishedOnes) {
  const char* text =
      "N,D,bits,qid,method,status\n"
      "1e9,1e10,3,0.1,gptq,done\n1e9,1e10,3,0.2,rtn,done\n1e9,1e10,3,,gptq,failed\n";
  const RowFilter filter = read_row_filter("method=gptq");
  EXPECT_EQ(parse_law_csv(text, "r", {}).rows.size(), 2u);
  EXPECT_EQ(parse_law_csv(text, "r", std::span(&filter, 1)).rows.size(), 1u);
  EXPECT_THAT(error_of(text, {{"method", "awq"}}), HasSubstr("selection"));
  EXPECT_THROW(read_row_filter("gptq"), Error);
}

TEST(LawCsvTest, QuantitiesHaveUnits) {
  EXPECT_EQ(read_quantity("7B", "N"), 7e9);
  EXPECT_EQ(read_quantity("1.5T", "D"), 1.5e12);
  EXPECT_EQ(read_quantity("85056000", "N"), 85056000);
  EXPECT_EQ(read_quantities("1e9,7B", "N"), (std::vector<double>{1e9, 7e9}));
  for (const char* bad : {"", "B", "-1", "7Q", "nan", "1e999", "1,"}) {
    EXPECT_THROW(read_quantities(bad, "N"), Error) << bad;
  }
}

}  // namespace
}  // namespace fewbit
