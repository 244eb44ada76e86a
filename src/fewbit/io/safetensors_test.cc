#include "fewbit/io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "fewbit/base/error.h"
#include "fewbit/base/half.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

std::string make_file(std::string_view header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
  bytes += header;
  for (size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i + 1);
  return bytes;
}

SafetensorsFile parse(std::string_view bytes) {
  return SafetensorsFile::parse(as_bytes(bytes), "f.safetensors");
}

std::string error_of(std::string_view bytes) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string error_of_header(std::string_view header, size_t data_bytes) {
  return error_of(make_file(header, data_bytes));
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

TEST(SafetensorsTest, RoundTripsEveryDtypeBytewise) {
  TemporaryDirectory folder;
  const std::vector<Dtype> dtypes = {
      Dtype::boolean, Dtype::u8,      Dtype::i8,      Dtype::u16,    Dtype::i16,  Dtype::u32,
      Dtype::i32,     Dtype::u64,     Dtype::i64,     Dtype::f16,    Dtype::bf16, Dtype::f32,
      Dtype::f64,     Dtype::f8_e4m3, Dtype::f8_e5m2, Dtype::f8_e8m0};
  std::vector<std::vector<std::byte>> data;
  std::vector<TensorToWrite> tensors;
  for (const Dtype dtype : dtypes) {
    std::vector<std::byte>& bytes = data.emplace_back(6 * dtype_bytes(dtype));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(7 * i + 3);
  }
  for (size_t i = 0; i < dtypes.size(); ++i) {
    tensors.push_back({std::string(dtype_name(dtypes[i])), dtypes[i], {2, 3}, data[i]});
  }
  write_safetensors(folder / "a", tensors, {{"note", "größe \"quoted\"\n"}});
  write_safetensors(folder / "b", tensors, {{"note", "größe \"quoted\"\n"}});

  const SafetensorsFile file = SafetensorsFile::open(folder / "a");
  EXPECT_EQ(file.metadata("note"), "größe \"quoted\"\n");
  EXPECT_EQ(file.metadata("format"), "pt");
  ASSERT_EQ(file.tensors().size(), dtypes.size());
  for (size_t i = 0; i < dtypes.size(); ++i) {
    const TensorView& tensor = file.tensors()[i];
    EXPECT_EQ(tensor.name, dtype_name(dtypes[i]));
    EXPECT_EQ(tensor.dtype, dtypes[i]);
    EXPECT_THAT(tensor.shape, ElementsAre(2, 3));
    EXPECT_TRUE(std::ranges::equal(tensor.bytes, data[i]));
  }
  EXPECT_EQ(read_text_file(folder / "a"), read_text_file(folder / "b"));
}

TEST(SafetensorsTest, DataBeginsOnAnEightByteBoundary) {
  TemporaryDirectory folder;
  for (size_t length = 1; length < 20; ++length) {
    write_safetensors(folder / "f", {}, {{"k", std::string(length, 'x')}});
    EXPECT_EQ(read_text_file(folder / "f").size() % 8, 0u);
  }
}

TEST(SafetensorsTest, KeepsAGivenFormat) {
  TemporaryDirectory folder;
  write_safetensors(folder / "f", {}, {{"format", "np"}});
  EXPECT_EQ(SafetensorsFile::open(folder / "f").metadata("format"), "np");
}

TEST(SafetensorsTest, ViewsOutliveTheFileObjectThatACopyWasMadeOf) {
  TemporaryDirectory folder;
  const std::vector<float> values = {1, 2, 3};
  const TensorToWrite tensor{"w", Dtype::f32, {3}, bytes_of(values)};
  write_safetensors(folder / "f", std::span(&tensor, 1));
  std::optional<SafetensorsFile> copy;
  {
    const SafetensorsFile file = SafetensorsFile::open(folder / "f");
    copy = file;
  }
  EXPECT_THAT(to_floats(copy->tensor("w")), ElementsAre(1, 2, 3));
}

TEST(SafetensorsTest, ReadsZeroSizeAndScalarTensorsInAnyOrderOfNames) {
  const std::string bytes =
      make_file(R"({"z":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                R"("b":{"dtype":"U8","shape":[3,0,2],"data_offsets":[4,4]},)"
                R"("a":{"dtype":"I16","shape":[1],"data_offsets":[4,6],"extra":[{"x":null}]}}   )",
                6);
  const SafetensorsFile file = parse(bytes);
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[0].name, "z");
  EXPECT_EQ(file.tensors()[1].name, "b");
  EXPECT_EQ(file.tensors()[2].name, "a");
  EXPECT_EQ(file.tensor("z").elements(), 1u);
  EXPECT_EQ(file.tensor("b").elements(), 0u);
  EXPECT_TRUE(to_integers(file.tensor("b")).empty());
  EXPECT_THAT(to_integers(file.tensor("a")), ElementsAre(0x0605));
  EXPECT_FALSE(file.contains("c"));
}

TEST(SafetensorsTest, AHeaderWithoutTensorsIsLegal) {
  EXPECT_TRUE(parse(make_file("{}", 0)).tensors().empty());
  EXPECT_TRUE(parse(make_file(R"({"__metadata__":{}})", 0)).tensors().empty());
}

TEST(SafetensorsTest, EveryTruncationIsAnError) {
  const std::string bytes = make_file(
      R"({"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  EXPECT_NO_THROW(parse(bytes));
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW(parse(std::string_view(bytes).substr(0, size)), Error) << size;
    // The same cut, with a header length that agrees.
    if (size < 8) continue;
    std::string cut = bytes.substr(0, size);
    const uint64_t length = std::min<uint64_t>(size - 8, bytes.size() - 16);
    std::memcpy(cut.data(), &length, sizeof length);
    EXPECT_THROW(parse(cut), Error) << size;
  }
}

TEST(SafetensorsTest, LyingHeaderLengthsAreErrors) {
  for (const uint64_t length :
       {uint64_t{0}, uint64_t{100'000'001}, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7}) {
    std::string bytes = make_file("{}", 0);
    std::memcpy(bytes.data(), &length, sizeof length);
    EXPECT_THAT(error_of(bytes), HasSubstr("f.safetensors")) << length;
  }
}

TEST(SafetensorsTest, OverlapsGapsAndLooseEndsAreNamed) {
  EXPECT_THAT(error_of_header(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                              R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                              6),
              HasSubstr("tensor 'b' begins at data byte 2, inside tensor 'a'"));
  EXPECT_THAT(error_of_header(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                              R"("b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})",
                              5),
              HasSubstr("tensor 'b' begins at data byte 3: bytes from 2 on belong to no tensor"));
  EXPECT_THAT(error_of_header(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 3),
              HasSubstr("data bytes from 2 to 3 belong to no tensor"));
  EXPECT_THAT(error_of_header("{}", 1), HasSubstr("data bytes from 0 to 1"));
}

TEST(SafetensorsTest, LyingOffsetsAndShapesAreErrorsThatNameTheTensor) {
  const char* const entries[] = {
      R"("dtype":"U8","shape":[9],"data_offsets":[0,9])",
      R"("dtype":"U8","shape":[4],"data_offsets":[4,0])",
      R"("dtype":"U8","shape":[4],"data_offsets":[-4,0])",
      R"("dtype":"U8","shape":[-4],"data_offsets":[0,4])",
      R"("dtype":"U8","shape":[4.0],"data_offsets":[0,4])",
      R"("dtype":"U8","shape":["4"],"data_offsets":[0,4])",
      R"("dtype":"U8","shape":4,"data_offsets":[0,4])",
      R"("dtype":"U8","shape":[4],"data_offsets":[0,4,4])",
      R"("dtype":"U8","shape":[4],"data_offsets":[0])",
      R"("dtype":"U8","shape":[4],"data_offsets":[0,99999999999999999999999])",
      R"("dtype":"U8","shape":[4],"data_offsets":[0,18446744073709551615])",
      R"("dtype":"U8","shape":[18446744073709551615,4],"data_offsets":[0,4])",
      R"("dtype":"F64","shape":[4611686018427387904,4],"data_offsets":[0,0])",
      R"("dtype":"U16","shape":[4],"data_offsets":[0,4])",
      R"("dtype":"U8","shape":[4])",
      R"("dtype":"U8","data_offsets":[0,4])",
      R"("shape":[4],"data_offsets":[0,4])",
      R"("dtype":8,"shape":[4],"data_offsets":[0,4])",
  };
  for (const char* entry : entries) {
    EXPECT_THAT(error_of_header(fmt::format(R"({{"w":{{{}}}}})", entry), 4),
                HasSubstr("f.safetensors: tensor 'w'"))
        << entry;
  }
  EXPECT_THAT(error_of_header(R"({"w":[1]})", 0), HasSubstr("tensor 'w': expected an object"));
}

TEST(SafetensorsTest, UnknownDtypesAreNamed) {
  EXPECT_THAT(error_of_header(R"({"w":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}})", 4),
              AllOf(HasSubstr("f.safetensors: tensor 'w'"), HasSubstr("'F4'"), HasSubstr("BF16")));
}

TEST(SafetensorsTest, DuplicateNamesAreErrors) {
  EXPECT_THAT(error_of_header(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                              R"("w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
                              4),
              HasSubstr("duplicate key 'w'"));
}

TEST(SafetensorsTest, MalformedHeadersAreErrors) {
  for (const std::string& header :
       {std::string("[]"), std::string(" {}"), std::string("\xef\xbb\xbf{}"), std::string("{} x"),
        std::string("{"), std::string("{}\0", 3), std::string("{\"\xff\":{}}"),
        std::string(R"({"__metadata__":{"a":1}})"), std::string(R"({"__metadata__":"a"})")}) {
    EXPECT_THAT(error_of_header(header, 0), HasSubstr("f.safetensors")) << header;
  }
}

TEST(SafetensorsTest, NestingBombsAreErrors) {
  const std::string arrays(100'000, '[');
  EXPECT_THAT(error_of_header(R"({"w":)" + arrays, 0), HasSubstr("nested deeper"));
  std::string objects = "{";
  for (int i = 0; i < 100'000; ++i) objects += R"("a":{)";
  EXPECT_THAT(error_of_header(objects, 0), HasSubstr("nested deeper"));
}

TEST(SafetensorsTest, ConvertsUnalignedFloatsOfAllWidths) {
  std::vector<std::byte> data(1 + 2 + 2 + 4 + 8);
  const uint16_t half = float_to_f16(-1.5f), brain = float_to_bf16(3.25f);
  const float single = 0.1f;
  const double wide = 0.25;
  std::memcpy(data.data() + 1, &half, 2);
  std::memcpy(data.data() + 3, &brain, 2);
  std::memcpy(data.data() + 5, &single, 4);
  std::memcpy(data.data() + 9, &wide, 8);
  const auto value = [&](Dtype dtype, size_t offset) {
    return to_floats({"w", dtype, {}, std::span(data).subspan(offset, dtype_bytes(dtype))}).at(0);
  };
  EXPECT_EQ(value(Dtype::f16, 1), -1.5f);
  EXPECT_EQ(value(Dtype::bf16, 3), 3.25f);
  EXPECT_EQ(value(Dtype::f32, 5), 0.1f);
  EXPECT_EQ(value(Dtype::f64, 9), 0.25f);
  EXPECT_THROW(value(Dtype::u8, 0), Error);
}

TEST(SafetensorsTest, ConvertsIntegersWithTheirSign) {
  const std::vector<int8_t> small = {-1, 127};
  const std::vector<uint32_t> wide = {0xffffffffu};
  const std::vector<uint64_t> large = {uint64_t{1} << 63};
  EXPECT_THAT(to_integers({"w", Dtype::i8, {2}, bytes_of(small)}), ElementsAre(-1, 127));
  EXPECT_THAT(to_integers({"w", Dtype::u8, {2}, bytes_of(small)}), ElementsAre(255, 127));
  EXPECT_THAT(to_integers({"w", Dtype::boolean, {2}, bytes_of(small)}), ElementsAre(1, 1));
  EXPECT_THAT(to_integers({"w", Dtype::u32, {1}, bytes_of(wide)}), ElementsAre(4294967295));
  EXPECT_THROW(to_integers({"w", Dtype::u64, {1}, bytes_of(large)}), Error);
  EXPECT_THROW(to_integers({"w", Dtype::f32, {1}, bytes_of(wide)}), Error);
}

TEST(SafetensorsWriterTest, RefusesWhatItCouldNotReadBackAndLeavesNoFile) {
  TemporaryDirectory folder;
  const std::vector<float> values = {1, 2};
  using Declarations = std::vector<SafetensorsWriter::Declaration>;
  const Declarations one = {{"w", Dtype::f32, {2}}};
  EXPECT_THROW(SafetensorsWriter(folder / "f", {one[0], one[0]}), Error);
  EXPECT_THROW(SafetensorsWriter(folder / "f", Declarations{{"__metadata__", Dtype::u8, {1}}}),
               Error);
  EXPECT_THROW(SafetensorsWriter(folder / "f", Declarations{{"\xff", Dtype::u8, {1}}}), Error);
  EXPECT_THROW(SafetensorsWriter(folder / "f", Declarations{{"w", Dtype::f32, {SIZE_MAX / 2}}}),
               Error);
  {
    SafetensorsWriter writer(folder / "f", one);
    EXPECT_THROW(writer.write(bytes_of(values).first(4)), Error);
    EXPECT_THROW(writer.commit(), Error);
    writer.write(bytes_of(values));
    EXPECT_THROW(writer.write(bytes_of(values)), Error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsTest, AbsentTensorsAndKeysAreNamed) {
  const std::string bytes = make_file("{}", 0);
  const SafetensorsFile file = parse(bytes);
  EXPECT_THROW(file.tensor("w"), Error);
  EXPECT_THROW(file.metadata("k"), Error);
  EXPECT_THROW(SafetensorsFile::open("/nonexistent/model.safetensors"), Error);
}

}  // namespace
}  // namespace fewbit
