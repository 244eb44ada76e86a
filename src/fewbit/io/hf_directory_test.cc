#include "fewbit/io/hf_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "fewbit/base/error.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string open_error(const std::filesystem::path& path) {
  return error_of([&] { HfDirectory::open(path); });
}

// One-byte tensors that hold `value`.
void write_shard(const std::filesystem::path& path, const std::vector<std::string>& names,
                 uint8_t value) {
  const std::byte data{value};
  std::vector<TensorToWrite> tensors;
  for (const std::string& name : names) tensors.push_back({name, Dtype::u8, {1}, {&data, 1}});
  write_safetensors(path, tensors);
}

void write_index(const std::filesystem::path& folder, std::string_view weight_map) {
  write_file_atomically(folder / "model.safetensors.index.json",
                        fmt::format(R"({{"weight_map":{}}})", weight_map));
}

TEST(HfDirectoryTest, ReadsASingleFileAndTheTextsBesideIt) {
  TemporaryDirectory folder;
  write_shard(folder / "model.safetensors", {"b", "a"}, 1);
  write_file_atomically(folder / "config.json", R"({"hidden_size": 64})");
  const HfDirectory model = HfDirectory::open(folder.path());
  EXPECT_THAT(model.tensor_names(), ElementsAre("a", "b"));
  EXPECT_EQ(model.files().size(), 1u);
  EXPECT_EQ(model.files()[0].metadata("format"), "pt");
  EXPECT_EQ(json_get<int>(model.json("config.json"), "hidden_size"), 64);
  EXPECT_FALSE(model.has_file("tokenizer.json"));
  EXPECT_TRUE(model.has_file("config.json"));
  EXPECT_EQ(model.find("c"), nullptr);
  EXPECT_THAT(error_of([&] { model.tensor("c"); }), HasSubstr("there is no tensor 'c'"));
  EXPECT_THAT(error_of([&] { model.text("config.json", 4); }), HasSubstr("at most 4"));
  EXPECT_THAT(error_of([&] { model.text("tokenizer.json"); }), HasSubstr("tokenizer.json"));
  for (const char* name : {"../config.json", "/etc/passwd", "..", ""}) {
    EXPECT_THAT(error_of([&] { model.text(name); }), HasSubstr("not a plain file name")) << name;
  }
}

TEST(HfDirectoryTest, ReadsShardsAndCopiesKeepTheirTensors) {
  TemporaryDirectory folder;
  write_shard(folder / "one.safetensors", {"a", "c"}, 1);
  write_shard(folder / "two.safetensors", {"b"}, 2);
  write_index(folder.path(),
              R"({"a":"one.safetensors","b":"two.safetensors","c":"one.safetensors"})");
  std::optional<HfDirectory> copy;
  {
    const HfDirectory model = HfDirectory::open(folder.path());
    copy = model;
  }
  EXPECT_THAT(copy->tensor_names(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(copy->tensor("c").bytes[0], std::byte{1});
  EXPECT_EQ(copy->tensor("b").bytes[0], std::byte{2});
}

TEST(HfDirectoryTest, IncompleteAndContradictoryDirectoriesAreErrors) {
  TemporaryDirectory folder;
  EXPECT_THAT(open_error(folder / "absent"), HasSubstr("not a directory"));
  EXPECT_THAT(open_error(folder.path()), HasSubstr("neither model.safetensors nor"));
  write_file_atomically(folder / "pytorch_model.bin", "x");
  EXPECT_THAT(open_error(folder.path()), HasSubstr("pickle"));

  write_shard(folder / "one.safetensors", {"a"}, 1);
  write_shard(folder / "two.safetensors", {"a", "b"}, 2);
  write_index(folder.path(), R"({"a":"one.safetensors","b":"three.safetensors"})");
  EXPECT_THAT(open_error(folder.path()), HasSubstr("shard three.safetensors"));
  write_index(folder.path(), R"({"a":"one.safetensors","b":"two.safetensors"})");
  EXPECT_THAT(open_error(folder.path()),
              HasSubstr("tensor 'a' is in one.safetensors and in two.safetensors"));
  write_index(folder.path(), R"({"a":"one.safetensors","b":"one.safetensors"})");
  EXPECT_THAT(open_error(folder.path()), HasSubstr("tensor 'b' is not in one.safetensors"));
  for (const char* map : {R"({"a":"../one.safetensors"})", R"({"a":"/etc/passwd"})",
                          R"({"a":".."})", R"({"a":""})", R"({"a":"x\u0000"})"}) {
    write_index(folder.path(), map);
    EXPECT_THAT(open_error(folder.path()), HasSubstr("weight_map: tensor 'a': '")) << map;
  }
  write_index(folder.path(), R"({"a":1})");
  EXPECT_THAT(open_error(folder.path()), HasSubstr("tensor 'a' is not a string"));
  write_index(folder.path(), "[]");
  EXPECT_THAT(open_error(folder.path()), HasSubstr("'weight_map'"));
  write_file_atomically(folder / "one.safetensors", "cut");
  write_index(folder.path(), R"({"a":"one.safetensors"})");
  EXPECT_THAT(open_error(folder.path()), HasSubstr("one.safetensors: 3 bytes"));
}

TEST(HfDirectoryWriterTest, WhatIsWrittenReadsBackInAnyNumberOfShards) {
  TemporaryDirectory folder;
  std::vector<SafetensorsWriter::Declaration> declared;
  for (size_t i = 0; i < 7; ++i) declared.push_back({fmt::format("t{}", i), Dtype::u8, {i}});
  for (const size_t max_bytes : {0, 1, 6, 9, 1000}) {
    HfDirectoryWriter writer(folder / "model", true, declared, max_bytes, {{"made", "here"}});
    writer.write_text("config.json", "{}");
    for (size_t i = 0; i < 7; ++i) {
      writer.write(std::vector<std::byte>(i, static_cast<std::byte>(i)));
    }
    EXPECT_THROW(writer.write({}), Error);
    writer.commit();

    const HfDirectory model = HfDirectory::open(folder / "model");
    ASSERT_EQ(model.tensor_names().size(), 7u) << max_bytes;
    for (size_t i = 0; i < 7; ++i) {
      const TensorView& tensor = model.tensor(fmt::format("t{}", i));
      ASSERT_EQ(tensor.bytes.size(), i);
      for (const std::byte value : tensor.bytes) EXPECT_EQ(value, static_cast<std::byte>(i));
    }
    for (const SafetensorsFile& file : model.files()) EXPECT_EQ(file.metadata("made"), "here");
    EXPECT_EQ(model.has_file("model.safetensors.index.json"), max_bytes < 1000);
    if (max_bytes < 1000) {
      EXPECT_EQ(model.json("model.safetensors.index.json")["metadata"]["total_size"], 21);
    }
    if (max_bytes == 9) {
      // 0 1 2 3 | 4 5 | 6
      EXPECT_EQ(model.files().size(), 3u);
      EXPECT_TRUE(model.has_file("model-00003-of-00003.safetensors"));
    }
  }
}

TEST(HfDirectoryWriterTest, AModelWithoutTensorsIsAnEmptyFile) {
  TemporaryDirectory folder;
  HfDirectoryWriter(folder / "model", false, {}).commit();
  EXPECT_TRUE(HfDirectory::open(folder / "model").tensor_names().empty());
}

TEST(HfDirectoryWriterTest, CopiesFilesOfAnotherDirectory) {
  TemporaryDirectory folder;
  write_file_atomically(folder / "tokenizer.json", "{}");
  HfDirectoryWriter writer(folder / "model", false, {});
  writer.copy_file(folder / "tokenizer.json");
  writer.commit();
  EXPECT_EQ(HfDirectory::open(folder / "model").text("tokenizer.json"), "{}");
}

TEST(HfDirectoryWriterTest, AnythingMissingLeavesNothingBehind) {
  TemporaryDirectory folder;
  {
    HfDirectoryWriter writer(folder / "model", false,
                             {{"a", Dtype::u8, {1}}, {"b", Dtype::u8, {1}}}, 1);
    writer.write(std::vector<std::byte>(1));
    EXPECT_THAT(error_of([&] { writer.commit(); }), HasSubstr("tensor 'b' was declared"));
    EXPECT_THROW(writer.write_text("../x", ""), Error);
  }
  EXPECT_THROW(
      HfDirectoryWriter(folder / "model", false, {{"a", Dtype::u8, {1}}, {"a", Dtype::u8, {1}}}, 1),
      Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace fewbit
