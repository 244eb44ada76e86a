#include "fewbit/io/gguf_writer.h"

#include <gtest/gtest.h>

#include "fewbit/base/error.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

TEST(GgufWriterTest, ValuesAndTensorsReadBack) {
  testing::TemporaryDirectory folder;
  GgufMetadata metadata;
  metadata.add("general.architecture", "llama");
  metadata.add("a.size", uint32_t{7});
  metadata.add("a.sign", int32_t{-7});
  metadata.add("a.real", 0.5f);
  metadata.add("a.flag", true);
  metadata.add("a.flags", std::vector<bool>{true, false, true});
  const std::vector<float> one = {1, 2, 3}, two = {4, 5, 6, 7, 8, 9, 10, 11};
  GgufWriter writer(folder / "x.gguf", metadata,
                    {{"one", GgmlType::f32, {3}}, {"two", GgmlType::f32, {4, 2}}});
  writer.write(std::as_bytes(std::span(one)));
  writer.write(std::as_bytes(std::span(two)));
  writer.commit();
  const GgufFile file = GgufFile::open(folder / "x.gguf");
  EXPECT_EQ(file.string("general.architecture"), "llama");
  EXPECT_EQ(file.integer("a.size"), 7);
  EXPECT_EQ(file.integer("a.sign"), -7);
  EXPECT_EQ(file.real("a.real"), 0.5);
  EXPECT_TRUE(file.boolean("a.flag"));
  EXPECT_EQ(file.integers("a.flags"), (std::vector<int64_t>{1, 0, 1}));
  EXPECT_EQ(file.tensor("two").rows(), 2u);
  EXPECT_EQ(as_text(file.tensor("one").bytes), as_text(std::as_bytes(std::span(one))));
  EXPECT_EQ(as_text(file.tensor("two").bytes), as_text(std::as_bytes(std::span(two))));
}

FEWBIT_FIXTURE_TEST(GgufWriterFixture, "gguf", ".gguf") {
  // A file written from what was read holds the same values and tensors.
  const GgufFile file = GgufFile::open(path());
  testing::TemporaryDirectory folder;
  GgufMetadata metadata;
  for (const GgufValue& value : file.values()) {
    if (value.key != "general.alignment") metadata.add(value);
  }
  std::vector<GgufWriter::Declaration> tensors;
  for (const GgufTensor& tensor : file.tensors()) {
    tensors.push_back({tensor.name, tensor.type, tensor.shape});
  }
  GgufWriter writer(folder / "copy.gguf", metadata, tensors);
  for (const GgufTensor& tensor : file.tensors()) writer.write(tensor.bytes);
  writer.commit();
  const GgufFile copy = GgufFile::open(folder / "copy.gguf");
  for (const GgufValue& value : file.values()) {
    if (value.key == "general.alignment") continue;
    EXPECT_EQ(as_text(copy.value(value.key).bytes), as_text(value.bytes)) << value.key;
    EXPECT_EQ(copy.value(value.key).type_text(), value.type_text()) << value.key;
  }
  for (const GgufTensor& tensor : file.tensors()) {
    EXPECT_EQ(copy.tensor(tensor.name).type, tensor.type);
    EXPECT_EQ(as_text(copy.tensor(tensor.name).bytes), as_text(tensor.bytes)) << tensor.name;
  }
}

TEST(GgufWriterTest, WrongUseIsRefused) {
  testing::TemporaryDirectory folder;
  GgufMetadata metadata;
  metadata.add("a", 1.0f);
  EXPECT_THROW(metadata.add("a", 2.0f), Error);
  const auto open = [&](std::vector<GgufWriter::Declaration> tensors) {
    return GgufWriter(folder / "x.gguf", metadata, std::move(tensors));
  };
  EXPECT_THROW(open({{std::string(64, 'n'), GgmlType::f32, {1}}}), Error);
  EXPECT_THROW(open({{"a", GgmlType::f32, {1}}, {"a", GgmlType::f32, {1}}}), Error);
  EXPECT_THROW(open({{"a", GgmlType::f32, {1, 1, 1, 1, 1}}}), Error);
  EXPECT_THROW(open({{"a", GgmlType::q4_0, {31}}}), Error);
  GgufWriter writer(folder / "x.gguf", metadata, {{"a", GgmlType::f32, {2}}});
  const float value = 1;
  EXPECT_THROW(writer.write(std::as_bytes(std::span(&value, 1))), Error);
  GgufWriter unfinished(folder / "x.gguf", metadata, {{"a", GgmlType::f32, {1}}});
  EXPECT_THROW(unfinished.commit(), Error);
  EXPECT_FALSE(std::filesystem::exists(folder / "x.gguf"));
}

}  // namespace
}  // namespace fewbit
