#include "fewbit/io/llama2c.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "fewbit/base/error.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Words = std::array<int32_t, 7>;
// dim 4, hidden 6, 2 layers, 2 heads, 1 kv head, vocabulary 3, context 5.
constexpr Words kTiny = {4, 6, 2, 2, 1, 3, 5};
constexpr size_t kTinyFloats = 3 * 4 + 8 + 32 + 16 + 16 + 32 + 8 + 48 + 48 + 48 + 4 + 5 * 2;

// Float i of the data is i.
std::string make_file(const Words& header, size_t floats) {
  std::vector<float> values(floats);
  for (size_t i = 0; i < floats; ++i) values[i] = static_cast<float>(i);
  std::string bytes(reinterpret_cast<const char*>(header.data()), sizeof header);
  return bytes.append(reinterpret_cast<const char*>(values.data()), floats * sizeof(float));
}

std::string error_of(std::string_view bytes) {
  try {
    Llama2cFile::parse(as_bytes(bytes), "m.bin");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Llama2cTest, TensorsFollowEachOtherInTheOrderOfTheFormat) {
  const std::string bytes = make_file(kTiny, kTinyFloats);
  const Llama2cFile file = Llama2cFile::parse(as_bytes(bytes), "m.bin");
  EXPECT_EQ(file.header().kv_dim(), 2u);
  EXPECT_TRUE(file.header().tied);
  EXPECT_FALSE(file.repaired());
  EXPECT_EQ(file.tensors().size(), 11u);
  EXPECT_THAT(file.tensor("wk").shape, ElementsAre(2, 2, 4));
  EXPECT_EQ(to_floats(file.tensor("wk"))[0], 12 + 8 + 32);
  EXPECT_EQ(to_floats(file.tensor("rms_final"))[3], kTinyFloats - 10 - 1);
  EXPECT_THAT(file.layer("w2", 1).shape, ElementsAre(4, 6));
  EXPECT_EQ(file.layer("w2", 1).name, "w2[1]");
  EXPECT_EQ(to_floats(file.layer("w2", 1))[0], to_floats(file.tensor("w2"))[24]);
  EXPECT_THAT(to_floats(file.layer("rms_att", 1)), ElementsAre(16, 17, 18, 19));
  EXPECT_THROW(file.layer("rms_final", 0), Error);
  EXPECT_THROW(file.layer("w2", 2), Error);
  EXPECT_THROW(file.tensor("wcls"), Error);
}

TEST(Llama2cTest, ANegativeVocabularyMeansAClassifierOfItsOwn) {
  Words words = kTiny;
  words[5] = -3;
  const std::string bytes = make_file(words, kTinyFloats + 12);
  const Llama2cFile file = Llama2cFile::parse(as_bytes(bytes), "m.bin");
  EXPECT_FALSE(file.header().tied);
  EXPECT_EQ(to_floats(file.tensor("wcls"))[0], kTinyFloats);
}

TEST(Llama2cTest, EveryOtherSizeIsAnError) {
  const std::string bytes = make_file(kTiny, kTinyFloats);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THAT(error_of(std::string_view(bytes).substr(0, size)), HasSubstr("m.bin: ")) << size;
  }
  EXPECT_THAT(error_of(bytes + "x"), HasSubstr("needs"));
}

TEST(Llama2cTest, ImpossibleHeadersAreErrorsThatNameTheField) {
  const auto with = [](size_t index, int32_t value) {
    Words words = kTiny;
    words[index] = value;
    return error_of(make_file(words, kTinyFloats));
  };
  EXPECT_THAT(with(0, 0), HasSubstr("byte 0: dim = 0"));
  EXPECT_THAT(with(2, -1), HasSubstr("byte 8: layers = -1"));
  EXPECT_THAT(with(5, INT32_MIN), HasSubstr("vocab_size"));
  EXPECT_THAT(with(6, INT32_MAX), HasSubstr("seq_len"));
  EXPECT_THAT(with(3, 3), HasSubstr("does not divide"));
  EXPECT_THAT(with(3, 4), HasSubstr("heads of even size"));
  EXPECT_THAT(with(4, 3), HasSubstr("no multiple of kv_heads 3"));
  EXPECT_THAT(with(0, 0x616b3432), HasSubstr("versioned"));
  EXPECT_THAT(error_of(make_file({1 << 18, 1 << 18, 1 << 18, 2, 2, 1 << 18, 1 << 18}, 1)),
              HasSubstr("needs"));
}

// Given the sound file of the published model, its transposed copy is made and put right again.
FEWBIT_FIXTURE_TEST(Llama2cFixture, "stories260K", ".bin") {
  const Llama2cFile sound = Llama2cFile::open(path());
  EXPECT_FALSE(sound.repaired());
  std::string damaged = read_text_file(path());
  const char* begin = reinterpret_cast<const char*>(sound.tensor("token_embedding").bytes.data()) -
                      7 * sizeof(int32_t);
  for (const TensorView& tensor : sound.tensors()) {
    if (tensor.shape.size() != 3) continue;
    const std::vector<float> values = to_floats(tensor);
    const size_t rows = tensor.shape[1], cols = tensor.shape[2], count = rows * cols;
    for (size_t layer = 0; layer < tensor.shape[0]; ++layer) {
      std::vector<float> from(values.begin() + static_cast<ptrdiff_t>(layer * count),
                              values.begin() + static_cast<ptrdiff_t>((layer + 1) * count));
      std::vector<float> to(count);
      for (int time = 0; time < 5; ++time) {
        for (size_t c = 0; c < cols; ++c) {
          for (size_t r = 0; r < rows; ++r) to[r * cols + c] = from[c * rows + r];
        }
        from = to;
      }
      const size_t offset =
          static_cast<size_t>(reinterpret_cast<const char*>(tensor.bytes.data()) - begin);
      std::memcpy(damaged.data() + offset + layer * count * sizeof(float), from.data(),
                  count * sizeof(float));
    }
  }
  const Llama2cFile repaired = Llama2cFile::parse(as_bytes(damaged), "damaged.bin");
  ASSERT_TRUE(repaired.repaired());
  for (const TensorView& tensor : sound.tensors()) {
    EXPECT_TRUE(std::ranges::equal(tensor.bytes, repaired.tensor(tensor.name).bytes))
        << tensor.name;
  }
}

}  // namespace
}  // namespace fewbit
