#include "fewbit/io/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "fewbit/base/error.h"
#include "fewbit/base/json.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Appends the parts of a GGUF file as they are laid out.
class Builder {
 public:
  template <class T>
  Builder& number(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Builder& string(std::string_view text) {
    number<uint64_t>(text.size());
    bytes += text;
    return *this;
  }
  Builder& header(uint64_t tensors, uint64_t values, uint32_t version = 3) {
    bytes += "GGUF";
    return number(version).number(tensors).number(values);
  }
  template <class T>
  Builder& value(std::string_view key, uint32_t type, T scalar) {
    return string(key).number(type).number(scalar);
  }
  Builder& tensor(std::string_view name, std::vector<uint64_t> shape, uint32_t type,
                  uint64_t offset) {
    string(name).number<uint32_t>(static_cast<uint32_t>(shape.size()));
    for (const uint64_t extent : shape) number(extent);
    return number(type).number(offset);
  }
  Builder& pad(size_t alignment = 32) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }
  Builder& data(size_t count) {
    for (size_t i = 0; i < count; ++i) bytes += static_cast<char>(i + 1);
    return *this;
  }

  std::string bytes;
};

GgufFile parse(std::string_view bytes) { return GgufFile::parse(as_bytes(bytes), "m.gguf"); }

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string parse_error(std::string_view bytes) {
  return error_of([&] { parse(bytes); });
}

// Two small tensors and a value of each kind.
std::string good_file() {
  Builder file;
  file.header(2, 3);
  file.string("name").number<uint32_t>(8).string("tiny");
  file.string("list").number<uint32_t>(9).number<uint32_t>(8).number<uint64_t>(2);
  file.string("a").string("");
  file.value<uint32_t>("n", 4, 7);
  file.tensor("t0", {3}, 0, 0).tensor("t1", {32, 2}, 2, 32);
  file.pad().data(12).pad().data(36);
  return file.bytes;
}

TEST(GgufTest, ReadsEveryValueType) {
  Builder file;
  file.header(0, 14);
  file.value<uint8_t>("u8", 0, 200).value<int8_t>("i8", 1, -100);
  file.value<uint16_t>("u16", 2, 60000).value<int16_t>("i16", 3, -30000);
  file.value<uint32_t>("u32", 4, 4000000000u).value<int32_t>("i32", 5, -2000000000);
  file.value<float>("f32", 6, 0.1f).value<uint8_t>("bool", 7, 1);
  file.string("string").number<uint32_t>(8).string("grün");
  file.string("array").number<uint32_t>(9).number<uint32_t>(3).number<uint64_t>(2);
  file.number<int16_t>(-1).number<int16_t>(2);
  file.value<uint64_t>("u64", 10, UINT64_MAX).value<int64_t>("i64", 11, INT64_MIN);
  file.value<double>("f64", 12, 0.1);
  file.string("flags").number<uint32_t>(9).number<uint32_t>(7).number<uint64_t>(2);
  file.number<uint8_t>(1).number<uint8_t>(0);
  const GgufFile gguf = parse(file.bytes);

  EXPECT_EQ(gguf.integer("u8"), 200);
  EXPECT_EQ(gguf.integer("i8"), -100);
  EXPECT_EQ(gguf.integer("u16"), 60000);
  EXPECT_EQ(gguf.integer("i16"), -30000);
  EXPECT_EQ(gguf.integer("u32"), 4000000000);
  EXPECT_EQ(gguf.integer("i32"), -2000000000);
  EXPECT_EQ(gguf.integer("i64"), INT64_MIN);
  EXPECT_EQ(gguf.real("f32"), static_cast<double>(0.1f));
  EXPECT_EQ(gguf.real("f64"), 0.1);
  EXPECT_EQ(gguf.real("u8"), 200);
  EXPECT_TRUE(gguf.boolean("bool"));
  EXPECT_EQ(gguf.string("string"), "grün");
  EXPECT_THAT(gguf.integers("array"), ElementsAre(-1, 2));
  EXPECT_THAT(gguf.integers("flags"), ElementsAre(1, 0));
  EXPECT_EQ(gguf.size("u16", 60000), 60000u);
  EXPECT_EQ(gguf.size_or("absent", 5, 10), 5u);
  EXPECT_EQ(gguf.real_or("absent", 0.5), 0.5);
  EXPECT_TRUE(gguf.boolean_or("absent", true));
  EXPECT_EQ(gguf.string_or("absent", "x"), "x");
  EXPECT_EQ(gguf.value("array").type_text(), "array of 2 i16");

  EXPECT_THAT(error_of([&] { gguf.integer("u64"); }), HasSubstr("m.gguf: key 'u64'"));
  EXPECT_THAT(error_of([&] { gguf.size("u16", 59999); }),
              HasSubstr("key 'u16': 60000 is not in the range 0 to 59999"));
  EXPECT_THAT(error_of([&] { gguf.size("i8", 59999); }), HasSubstr("key 'i8': -100"));
  EXPECT_THAT(error_of([&] { gguf.integer("f32"); }), HasSubstr("key 'f32'"));
  EXPECT_THAT(error_of([&] { gguf.integer("bool"); }), HasSubstr("found bool"));
  EXPECT_THAT(error_of([&] { gguf.integer("array"); }),
              HasSubstr("key 'array': expected an integer, found array of 2 i16"));
  EXPECT_THAT(error_of([&] { gguf.integers("u8"); }), HasSubstr("expected an array of integers"));
  EXPECT_THAT(error_of([&] { gguf.strings("array"); }), HasSubstr("expected an array of strings"));
  EXPECT_THAT(error_of([&] { gguf.floats("array"); }), HasSubstr("expected an array of floats"));
  EXPECT_THAT(error_of([&] { gguf.string("u8"); }), HasSubstr("expected a string, found u8"));
  EXPECT_THAT(error_of([&] { gguf.boolean("u8"); }), HasSubstr("expected a boolean, found u8"));
  EXPECT_THAT(error_of([&] { gguf.real("string"); }), HasSubstr("key 'string'"));
  EXPECT_THAT(error_of([&] { gguf.integer("absent"); }), HasSubstr("key 'absent' is missing"));
}

TEST(GgufTest, ReadsTensorsInPlace) {
  const std::string bytes = good_file();
  const GgufFile gguf = parse(bytes);
  EXPECT_EQ(gguf.version(), 3u);
  EXPECT_EQ(gguf.alignment(), 32u);
  EXPECT_THAT(gguf.strings("list"), ElementsAre("a", ""));
  ASSERT_EQ(gguf.tensors().size(), 2u);
  const GgufTensor& tensor = gguf.tensor("t1");
  EXPECT_EQ(tensor.type, GgmlType::q4_0);
  EXPECT_EQ(tensor.columns(), 32u);
  EXPECT_EQ(tensor.rows(), 2u);
  EXPECT_EQ(tensor.bytes.size(), 36u);
  EXPECT_EQ(tensor.bytes.data(), as_bytes(bytes).data() + tensor.offset);
  EXPECT_EQ(tensor.offset % 32, 0u);
  EXPECT_EQ(tensor.bytes[35], std::byte{36});
  EXPECT_EQ(gguf.tensor("t0").rows(), 1u);
  EXPECT_THAT(error_of([&] { gguf.tensor("t2"); }), HasSubstr("m.gguf: there is no tensor 't2'"));
}

TEST(GgufTest, VersionTwoIsTheSame) {
  std::string bytes = good_file();
  bytes[4] = 2;
  EXPECT_EQ(parse(bytes).tensors().size(), 2u);
}

TEST(GgufTest, AlignmentIsTakenFromTheFile) {
  const auto file = [](uint32_t alignment, uint64_t offset) {
    Builder builder;
    builder.header(2, 1).value<uint32_t>("general.alignment", 4, alignment);
    builder.tensor("a", {1}, 0, 0).tensor("b", {}, 0, offset);
    builder.pad(alignment ? alignment : 1).data(4).pad(alignment ? alignment : 1).data(4);
    return builder.bytes;
  };
  EXPECT_EQ(parse(file(64, 64)).tensor("b").bytes[3], std::byte{4});
  EXPECT_EQ(parse(file(8, 8)).tensor("b").elements(), 1u);
  EXPECT_THAT(parse_error(file(64, 32)), HasSubstr("tensor 'b': offset 32 is no multiple"));
  EXPECT_THAT(parse_error(file(0, 0)), HasSubstr("key 'general.alignment': 0"));
  EXPECT_THAT(parse_error(file(48, 48)), HasSubstr("48 is not a power of two"));
  EXPECT_THAT(
      parse_error(Builder().header(0, 1).value<uint64_t>("general.alignment", 10, 32).bytes),
      HasSubstr("expected u32, found u64"));
}

TEST(GgufTest, EveryTruncationIsAnError) {
  const std::string bytes = good_file();
  EXPECT_EQ(parse_error(bytes), "no error");
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THAT(parse_error(std::string_view(bytes).substr(0, size)), HasSubstr("m.gguf: "))
        << size;
  }
}

TEST(GgufTest, NoCorruptByteIsFatal) {
  const std::string bytes = good_file();
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const int value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
      std::string corrupt = bytes;
      corrupt[at] = static_cast<char>(value);
      parse_error(corrupt);
    }
  }
}

TEST(GgufTest, OtherFilesAndVersionsAreRefused) {
  EXPECT_THAT(parse_error(""), HasSubstr("m.gguf: byte 0"));
  EXPECT_THAT(parse_error("GGML............................."), HasSubstr("does not begin with"));
  EXPECT_THAT(parse_error(Builder().header(0, 0, 1).bytes), HasSubstr("version 1 is not read"));
  EXPECT_THAT(parse_error(Builder().header(0, 0, 4).bytes), HasSubstr("version 4 is not read"));
  EXPECT_THAT(parse_error(Builder().header(0, 0, 0x03000000).bytes), HasSubstr("big-endian"));
}

TEST(GgufTest, AbsurdCountsAreRefusedBeforeAnythingIsAllocated) {
  for (const uint64_t count : {uint64_t{1} << 40, uint64_t{1} << 63, UINT64_MAX}) {
    EXPECT_THAT(parse_error(Builder().header(count, 0).bytes), HasSubstr("byte 8"));
    EXPECT_THAT(parse_error(Builder().header(0, count).bytes), HasSubstr("byte 16"));
    Builder array;
    array.header(0, 1).string("k").number<uint32_t>(9).number<uint32_t>(10).number(count).data(64);
    EXPECT_THAT(parse_error(array.bytes), HasSubstr("key 'k': byte 41"));
    Builder strings;
    strings.header(0, 1).string("k").number<uint32_t>(9).number<uint32_t>(8).number(count).data(64);
    EXPECT_THAT(parse_error(strings.bytes), HasSubstr("key 'k': byte 41"));
    Builder string;
    string.header(0, 1).string("k").number<uint32_t>(8).number(count).data(64);
    EXPECT_THAT(parse_error(string.bytes), HasSubstr("key 'k': byte 45"));
    Builder key;
    key.header(0, 1).number(count).data(64);
    EXPECT_THAT(parse_error(key.bytes), HasSubstr("byte 32"));
  }
}

TEST(GgufTest, MalformedValuesAreRefusedByName) {
  EXPECT_THAT(parse_error(Builder().header(0, 1).value<uint32_t>("k", 13, 0).bytes),
              HasSubstr("key 'k': byte 33: value type 13 is not known"));
  EXPECT_THAT(parse_error(Builder().header(0, 1).value<uint8_t>("k", 7, 2).bytes),
              HasSubstr("key 'k': byte 37: 2 is not a boolean"));
  EXPECT_THAT(parse_error(Builder()
                              .header(0, 1)
                              .string("k")
                              .number<uint32_t>(9)
                              .number<uint32_t>(9)
                              .number<uint64_t>(1)
                              .data(64)
                              .bytes),
              HasSubstr("key 'k': byte 37: arrays of arrays"));
  EXPECT_THAT(
      parse_error(
          Builder().header(0, 2).value<uint32_t>("k", 4, 0).value<uint32_t>("k", 4, 0).bytes),
      HasSubstr("duplicate key 'k'"));
  EXPECT_THAT(parse_error(Builder().header(0, 1).string("").number<uint32_t>(4).data(64).bytes),
              HasSubstr("a key of 0 bytes"));
  EXPECT_THAT(
      parse_error(Builder().header(0, 1).value<uint32_t>(std::string(70000, 'k'), 4, 0).bytes),
      HasSubstr("a key of 70000 bytes"));
}

TEST(GgufTest, MalformedTensorsAreRefusedByName) {
  const auto with = [](const std::function<void(Builder&)>& tensors, uint64_t count = 1) {
    Builder file;
    file.header(count, 0);
    tensors(file);
    file.pad().data(256);
    return parse_error(file.bytes);
  };
  const uint64_t huge = uint64_t{1} << 62;
  EXPECT_THAT(with([](Builder& f) { f.tensor("w", {32}, 36, 0); }),
              AllOf(HasSubstr("m.gguf: tensor 'w' (byte 24)"), HasSubstr("type 36 is not known")));
  EXPECT_THAT(with([](Builder& f) {
                f.tensor("w", {1, 1, 1, 1, 1}, 0, 0);
              }),
              HasSubstr("5 dimensions"));
  EXPECT_THAT(with([](Builder& f) { f.tensor("w", {UINT64_MAX}, 0, 0); }),
              HasSubstr("extent -1 is negative"));
  EXPECT_THAT(with([&](Builder& f) {
                f.tensor("w", {huge, huge}, 24, 0);
              }),
              HasSubstr("tensor 'w': shape"));
  EXPECT_THAT(with([&](Builder& f) { f.tensor("w", {huge}, 0, 0); }),
              HasSubstr("tensor 'w': 4611686018427387904 elements of F32: the size overflows"));
  EXPECT_THAT(with([](Builder& f) { f.tensor("w", {48}, 2, 0); }),
              HasSubstr("rows of 48 elements are no multiple of the 32 of a Q4_0 block"));
  EXPECT_THAT(with([](Builder& f) { f.tensor("w", {65}, 0, 0); }),
              HasSubstr("260 bytes at byte 64 of the file reach beyond its end"));
  EXPECT_THAT(with([](Builder& f) { f.tensor("w", {1}, 0, UINT64_MAX - 31); }), HasSubstr("gap"));
  EXPECT_THAT(with([](Builder& f) { f.tensor("w", {1}, 0, 4); }), HasSubstr("no multiple"));
  EXPECT_THAT(with([](Builder& f) { f.tensor("a", {9}, 0, 0).tensor("b", {1}, 0, 32); }, 2),
              HasSubstr("tensor 'b': offset 32 lies inside the tensor before it"));
  EXPECT_THAT(with([](Builder& f) { f.tensor("a", {1}, 0, 0).tensor("b", {1}, 0, 64); }, 2),
              HasSubstr("tensor 'b': offset 64 leaves a gap"));
  EXPECT_THAT(with([](Builder& f) { f.tensor("a", {1}, 0, 0).tensor("a", {1}, 0, 32); }, 2),
              HasSubstr("duplicate tensor 'a'"));
  EXPECT_THAT(with([](Builder& f) { f.tensor(std::string(64, 'w'), {1}, 0, 0); }),
              HasSubstr("a tensor name of 64 bytes"));
  EXPECT_THAT(with([](Builder& f) { f.tensor("", {1}, 0, 0); }),
              HasSubstr("a tensor name of 0 bytes"));
}

TEST(GgmlTypesTest, NamesAndGeometryAreFoundBothWays) {
  for (const GgmlTypeInfo& info : ggml_types()) {
    EXPECT_EQ(&ggml_type_info(info.type), &info);
    EXPECT_EQ(&ggml_type_from_name(info.name), &info);
    EXPECT_EQ(ggml_bytes(info.type, 3 * info.block_elements), 3 * info.block_bytes);
  }
  EXPECT_EQ(ggml_type_from_name("q4_k").type, GgmlType::q4_k);
  EXPECT_DOUBLE_EQ(ggml_type_info(GgmlType::q6_k).bits_per_weight(), 6.5625);
  EXPECT_EQ(find_ggml_type(36), nullptr);
  EXPECT_THROW(ggml_type_from_name("Q7"), Error);
  EXPECT_THROW(ggml_bytes(GgmlType::q4_k, 128), Error);
}

// Every tensor type that the fixture lists is found, and the whole file is accounted for.
FEWBIT_FIXTURE_TEST(GgufFixture, "gguf", ".gguf") {
  const GgufFile gguf = GgufFile::open(path());
  EXPECT_FALSE(gguf.string("general.architecture").empty());
  size_t end = 0;
  for (const GgufTensor& tensor : gguf.tensors()) {
    EXPECT_EQ(tensor.offset % gguf.alignment(), 0u);
    EXPECT_EQ(tensor.bytes.size(), ggml_bytes(tensor.type, tensor.elements()));
    end = tensor.offset + tensor.bytes.size();
  }
  EXPECT_LT(std::filesystem::file_size(path()) - end, gguf.alignment());

  std::filesystem::path expected = path();
  expected.replace_extension(".expected.safetensors");
  if (!std::filesystem::exists(expected)) return;
  const SafetensorsFile reference = SafetensorsFile::open(expected);
  if (!reference.metadata().contains("tensor_types")) return;
  const Json types = parse_json(reference.metadata("tensor_types"), "tensor_types");
  for (const auto& [name, type] : types.items()) {
    EXPECT_EQ(ggml_type_info(gguf.tensor(name).type).name, type.get<std::string>()) << name;
  }
}

}  // namespace
}  // namespace fewbit
