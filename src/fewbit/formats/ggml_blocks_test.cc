#include "fewbit/formats/ggml_blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/base/half.h"
#include "fewbit/formats/ggml_blocks_grids.h"
#include "fewbit/formats/ggml_blocks_internal.h"
#include "fewbit/io/gguf.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;

std::vector<float> decode(GgmlType type, std::span<const std::byte> bytes, size_t elements) {
  std::vector<float> values(elements);
  dequantize_ggml(type, bytes, values);
  return values;
}

std::string error_of(GgmlType type, size_t bytes, size_t elements) {
  try {
    decode(type, std::vector<std::byte>(bytes), elements);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(GgmlBlocksTest, EveryTypeIsDecodedOrRefusedByName) {
  for (const GgmlTypeInfo& info : ggml_types()) {
    const std::string error = error_of(info.type, 2 * info.block_bytes, 2 * info.block_elements);
    if (ggml_decodable(info.type)) {
      EXPECT_EQ(error, "no error") << info.name;
    } else {
      EXPECT_THAT(error, HasSubstr(std::string(info.name)));
    }
  }
  for (const GgmlType type : {GgmlType::q8_1, GgmlType::q8_k, GgmlType::i32}) {
    EXPECT_FALSE(ggml_decodable(type));
  }
}

TEST(GgmlBlocksTest, SizesThatDoNotAgreeAreRefused) {
  EXPECT_THAT(error_of(GgmlType::q4_k, 144, 255), HasSubstr("144 bytes of Q4_K"));
  EXPECT_THAT(error_of(GgmlType::q4_k, 143, 256), HasSubstr("143 bytes of Q4_K"));
  EXPECT_THAT(error_of(GgmlType::q4_k, 288, 256), HasSubstr("288 bytes of Q4_K"));
  EXPECT_EQ(error_of(GgmlType::q4_k, 0, 0), "no error");
}

TEST(GgmlBlocksTest, BytesNeedNoAlignment) {
  for (const GgmlTypeInfo& info : ggml_types()) {
    if (!ggml_decodable(info.type)) continue;
    std::vector<std::byte> bytes(1 + 3 * info.block_bytes);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 41 % 113);
    const std::vector<std::byte> aligned(bytes.begin() + 1, bytes.end());
    const size_t elements = 3 * info.block_elements;
    const auto shifted = decode(info.type, std::span(bytes).subspan(1), elements);
    const auto expected = decode(info.type, aligned, elements);
    EXPECT_EQ(std::memcmp(shifted.data(), expected.data(), elements * sizeof(float)), 0)
        << info.name;
  }
}

TEST(GgmlBlocksTest, FloatsAreExact) {
  const std::vector<uint16_t> halves = {0x3c00, 0x8001, 0x7bff, 0xfc00};
  const auto f16 = decode(GgmlType::f16, std::as_bytes(std::span(halves)), 4);
  EXPECT_THAT(f16, ::testing::ElementsAre(1.0f, -0x1p-24f, 65504.0f,
                                          -std::numeric_limits<float>::infinity()));
  const std::vector<uint16_t> brains = {0x3f80, 0xc000};
  EXPECT_THAT(decode(GgmlType::bf16, std::as_bytes(std::span(brains)), 2),
              ::testing::ElementsAre(1.0f, -2.0f));
  const std::vector<float> floats = {0.1f, -3e38f};
  EXPECT_EQ(decode(GgmlType::f32, std::as_bytes(std::span(floats)), 2), floats);
  const std::vector<double> doubles = {0.1, 1e300};
  EXPECT_THAT(decode(GgmlType::f64, std::as_bytes(std::span(doubles)), 2),
              ::testing::ElementsAre(0.1f, std::numeric_limits<float>::infinity()));
}

TEST(GgmlBlocksTest, SmallestMxfp4ScalesAreSubnormal) {
  for (const uint8_t e : {0, 1, 2, 127, 254, 255}) {
    std::vector<std::byte> block(17, std::byte{0x11});
    block[0] = std::byte{e};
    const auto values = decode(GgmlType::mxfp4, block, 32);
    EXPECT_EQ(values[0], static_cast<float>(std::ldexp(1.0, e - 128))) << int{e};
    EXPECT_EQ(values[31], values[0]);
  }
}

TEST(GgmlBlocksTest, TernaryBytesDecodeEveryTritSequence) {
  for (int value = 0; value < 243; ++value) {
    std::vector<std::byte> block(54);
    block[0] = static_cast<std::byte>((value * 256 + 242) / 243);
    const uint16_t one = float_to_f16(1.0f);
    std::memcpy(block.data() + 52, &one, 2);
    const auto values = decode(GgmlType::tq1_0, block, 256);
    int rest = value;
    for (int n = 4; n >= 0; --n, rest /= 3) {
      EXPECT_EQ(values[static_cast<size_t>(32 * n)], static_cast<float>(rest % 3 - 1)) << value;
    }
  }
}

// Packed rows decode to the reference's floats, bit for bit.
FEWBIT_FIXTURE_TEST(GgmlBlocksFixture, "ggml", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  if (!file.metadata().contains("type") || !file.contains("packed")) {
    GTEST_SKIP() << path().filename() << " holds no packed rows of one type";
  }
  const GgmlTypeInfo* info =
      find_ggml_type(static_cast<uint32_t>(std::stoul(file.metadata("ggml_type_id"))));
  ASSERT_NE(info, nullptr) << file.metadata("type");
  EXPECT_EQ(info->name, file.metadata("type"));
  EXPECT_EQ(std::to_string(info->block_elements), file.metadata("block_size"));
  EXPECT_EQ(std::to_string(info->block_bytes), file.metadata("block_bytes"));
  ASSERT_TRUE(ggml_decodable(info->type));

  const TensorView& expected = file.tensor("dequant");
  const std::vector<float> values =
      decode(info->type, file.tensor("packed").bytes, expected.elements());
  ASSERT_EQ(values.size() * sizeof(float), expected.bytes.size());
  const std::vector<float> reference = to_floats(expected);
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(reference[i]))
        << "element " << i << ": " << values[i] << " for " << reference[i];
  }
}

// The constants of the IQ types are those of the format.
FEWBIT_FIXTURE_TEST(GgmlTablesFixture, "ggml", "tables.safetensors") {
  using namespace ggml_blocks;
  const SafetensorsFile file = SafetensorsFile::open(path());
  const auto expect_equal = [&](const char* name, const auto& table) {
    const std::span<const std::byte> stored = file.tensor(name).bytes;
    ASSERT_EQ(stored.size(), sizeof table) << name;
    EXPECT_EQ(std::memcmp(stored.data(), &table, sizeof table), 0) << name;
  };
  expect_equal("iq2xxs_grid", iq2xxs_grid());
  expect_equal("iq2xs_grid", iq2xs_grid());
  expect_equal("iq2s_grid", iq2s_grid());
  expect_equal("iq3xxs_grid", iq3xxs_grid());
  expect_equal("iq3s_grid", iq3s_grid());
  expect_equal("iq1s_grid", iq1s_grid());
  expect_equal("kvalues_iq4nl", kIq4Values);
}

// Every tensor of a GGUF file decodes to finite values.
FEWBIT_FIXTURE_TEST(GgmlBlocksOfGgufFixture, "gguf", ".gguf") {
  const GgufFile file = GgufFile::open(path());
  for (const GgufTensor& tensor : file.tensors()) {
    for (const float value : decode(tensor.type, tensor.bytes, tensor.elements())) {
      ASSERT_TRUE(std::isfinite(value)) << tensor.name;
    }
  }
}

}  // namespace
}  // namespace fewbit
