// The targets that panel_products.cc is compiled for.
#define HWY_WANT_AVX3_DL
#include "fewbit/kernels/panel_products.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "fewbit/base/random.h"
#include "fewbit/formats/ggml_blocks.h"
#include "fewbit/kernels/activation_kernels.h"
#include "fewbit/kernels/panel_pack.h"
#include "hwy/highway.h"

namespace fewbit {
namespace {

std::vector<std::byte> random_bytes(size_t count, uint64_t seed) {
  RandomStream random(seed, "panel test");
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next_u32() & 255);
  return bytes;
}

Matrix gaussian(size_t rows, size_t cols, uint64_t seed) {
  Matrix result(rows, cols);
  RandomStream(seed, "panel test").fill_normal(result.values(), 0.0, 1.0);
  return result;
}

std::vector<GgmlType> panel_types() {
  std::vector<GgmlType> types;
  for (const GgmlTypeInfo& info : ggml_types()) {
    if (has_panels(info.type)) types.push_back(info.type);
  }
  return types;
}

// Blocks with random codes and sub-scales but finite, moderate halves.
std::vector<std::byte> random_blocks(GgmlType type, size_t rows, size_t cols, uint64_t seed) {
  const GgmlTypeInfo& info = ggml_type_info(type);
  std::vector<std::byte> bytes = random_bytes(rows * ggml_bytes(type, cols), seed);
  std::vector<size_t> halves;
  switch (type) {
    case GgmlType::q2_k:
      halves = {80, 82};
      break;
    case GgmlType::q3_k:
      halves = {108};
      break;
    case GgmlType::q6_k:
      halves = {208};
      break;
    case GgmlType::tq1_0:
      halves = {52};
      break;
    case GgmlType::tq2_0:
      halves = {64};
      break;
    case GgmlType::q4_1:
    case GgmlType::q5_1:
    case GgmlType::q4_k:
    case GgmlType::q5_k:
      halves = {0, 2};
      break;
    case GgmlType::mxfp4:
    case GgmlType::nvfp4:
      break;
    default:
      halves = {0};
  }
  for (size_t block = 0; block < bytes.size(); block += info.block_bytes) {
    // Exponents -8 to -1, either sign.
    for (const size_t at : halves)
      bytes[block + at + 1] = (bytes[block + at + 1] & std::byte{0x9f}) | std::byte{0x20};
    if (type == GgmlType::mxfp4) bytes[block] = (bytes[block] & std::byte{7}) | std::byte{120};
    if (type == GgmlType::nvfp4) {
      for (size_t i = 0; i < 4; ++i) bytes[block + i] &= std::byte{0x3f};
    }
    if (type == GgmlType::tq1_0) {
      for (size_t i = 0; i < 52; ++i) {
        // Only bytes that encode five trits.
        const int q = std::to_integer<int>(bytes[block + i]) % 243;
        bytes[block + i] = static_cast<std::byte>((q * 256 + 242) / 243);
      }
    }
  }
  return bytes;
}

// Runs `body` once on every instruction set that this machine has.
template <class Body>
void on_every_target(const Body& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    SCOPED_TRACE(hwy::TargetName(target));
    body();
    if (::testing::Test::HasFatalFailure()) break;
  }
  hwy::SetSupportedTargetsForTest(0);
}

// All products of `weights` agree: reference, one token, tiles.
void expect_products_agree(const PanelMatrix& weights, const std::string& name) {
  SCOPED_TRACE(name);
  const size_t rows = weights.panels() * kPanelHeight, units = weights.units();
  const size_t unit_columns = weights.format().unit_columns;
  for (const size_t tokens : {1u, 2u, 7u}) {
    const Matrix x = gaussian(tokens, weights.cols(), 5 + tokens);
    Matrix expected(tokens, rows), tolerance(tokens, rows);
    const QuantizedActivations single(x.view(), unit_columns, units, 1);
    Matrix decoded(weights.rows(), weights.cols());
    weights.decode(0, decoded.view());
    for (size_t t = 0; t < tokens; ++t) {
      multiply_panels_reference(weights, 0, weights.panels(), single.tile(t), 0,
                                expected.row(t).data());
      for (size_t r = 0; r < rows; ++r) {
        double terms = 0;
        // Offsets and mins are separate terms, larger than the weights.
        for (size_t c = 0; c < x.cols() && r < weights.rows(); ++c) {
          terms += std::abs(double{decoded(r, c)} * x(t, c));
        }
        tolerance(t, r) = static_cast<float>(1e-5 * terms + 1e-4);
      }
    }
    on_every_target([&] {
      const QuantizedActivations tiled(x.view(), unit_columns, units, product_tile_width());
      Matrix y(tokens, rows);
      multiply_panels(weights, 0, weights.panels(), tiled, 0, tiled.tiles(), y.view());
      for (size_t t = 0; t < tokens; ++t) {
        std::vector<float> one(rows);
        multiply_panels(weights, 0, weights.panels(), single.tile(t), one.data());
        for (size_t r = 0; r < rows; ++r) {
          ASSERT_EQ(one[r], y(t, r)) << "token " << t << " row " << r;
          ASSERT_NEAR(one[r], expected(t, r), tolerance(t, r)) << "token " << t << " row " << r;
        }
      }
    });
  }
}

TEST(PanelPackTest, DecodesEveryGgmlTypeBitForBit) {
  for (const GgmlType type : panel_types()) {
    SCOPED_TRACE(ggml_type_info(type).name);
    constexpr size_t kRows = 39, kCols = 512;
    const auto bytes = random_blocks(type, kRows, kCols, 3);
    Matrix expected(kRows, kCols), actual(kRows, kCols);
    dequantize_ggml(type, bytes, expected.values());
    for (const bool dense_trits : {false, true}) {
      const PanelMatrix packed = pack_ggml(type, kRows, kCols, bytes, dense_trits);
      packed.decode(0, actual.view());
      ASSERT_EQ(actual, expected);
    }
  }
}

TEST(PanelPackTest, TakesAsManyBytesAsTheFile) {
  for (const GgmlType type : panel_types()) {
    SCOPED_TRACE(ggml_type_info(type).name);
    if (type == GgmlType::mxfp4 || type == GgmlType::nvfp4) continue;
    const auto bytes = random_blocks(type, 32, 512, 3);
    EXPECT_EQ(pack_ggml(type, 32, 512, bytes, true).bytes(), bytes.size());
  }
}

TEST(PanelProductsTest, AllGgmlTypesAgreeOnAllTargets) {
  for (const GgmlType type : panel_types()) {
    const GgmlTypeInfo& info = ggml_type_info(type);
    for (const size_t rows : {1u, 32u, 69u}) {
      const size_t cols = info.block_elements * (rows == 69 ? 5 : 3);
      const auto bytes = random_blocks(type, rows, cols, rows);
      expect_products_agree(pack_ggml(type, rows, cols, bytes), std::string(info.name));
      if (type == GgmlType::tq1_0) {
        expect_products_agree(pack_ggml(type, rows, cols, bytes, true), "five trits a byte");
      }
    }
  }
}

UniformPlane random_uniform(size_t rows, size_t cols, int bits, size_t group,
                            UniformPlane::ZeroPoint kind, Dtype dtype) {
  UniformPlane plane(rows, cols, bits, group, kind, dtype);
  RandomStream random(static_cast<uint64_t>(bits), "uniform plane");
  std::vector<uint8_t> codes(cols);
  for (size_t r = 0; r < rows; ++r) {
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random.next_u32() & ((1u << bits) - 1));
    plane.codes.set_row(r, codes);
  }
  for (size_t i = 0; i < plane.scales.size(); ++i) {
    plane.scales.set(i, static_cast<float>(0.01 + 0.1 * random.uniform()));
  }
  if (kind == UniformPlane::ZeroPoint::integer) {
    std::vector<uint8_t> zeros(plane.groups());
    for (size_t r = 0; r < rows; ++r) {
      for (uint8_t& zero : zeros)
        zero = static_cast<uint8_t>(random.next_u32() & ((1u << bits) - 1));
      plane.zero_points.set_row(r, zeros);
    }
  }
  for (size_t i = 0; i < plane.real_zeros.size(); ++i) {
    plane.real_zeros.set(i, static_cast<float>(random.uniform() * ((1 << bits) - 1)));
  }
  return plane;
}

TEST(PanelProductsTest, UniformPlanesOfOddShapesAgree) {
  struct Shape {
    size_t rows, cols, group;
  };
  for (int bits = 1; bits <= 8; ++bits) {
    for (const auto& [rows, cols, group] :
         {Shape{5, 1, 0}, Shape{17, 100, 32}, Shape{32, 320, 64}, Shape{65, 515, 128},
          Shape{3, 700, 0}, Shape{18, 1536, 512}, Shape{4, 288, 96}}) {
      using enum UniformPlane::ZeroPoint;
      for (const auto kind : {symmetric, integer, real}) {
        const Dtype dtype = bits % 3 == 0 ? Dtype::f32 : bits % 3 == 1 ? Dtype::f16 : Dtype::bf16;
        const UniformPlane plane = random_uniform(rows, cols, bits, group, kind, dtype);
        const auto packed = pack_plane(plane);
        ASSERT_TRUE(packed);
        Matrix decoded(rows, cols);
        packed->decode(0, decoded.view());
        for (size_t r = 0; r < rows; ++r) {
          std::vector<float> expected(cols);
          add_plane_row(plane, r, expected);
          for (size_t c = 0; c < cols; ++c) ASSERT_NEAR(decoded(r, c), expected[c], 1e-4);
        }
        expect_products_agree(*packed, describe_plane(plane));
      }
    }
  }
}

TEST(PanelProductsTest, CodebookPlanesAgreeAndRoundTheirLevels) {
  CodebookPlane plane;
  constexpr size_t kRows = 20, kCols = 192;
  plane.codes = CodeMatrix(kRows, kCols, 4);
  plane.codebook_name = "nf4";
  plane.block_size = 64;
  const auto bytes = random_bytes(plane.codes.bytes.size(), 9);
  for (size_t i = 0; i < bytes.size(); ++i)
    plane.codes.bytes[i] = std::to_integer<uint8_t>(bytes[i]);
  StoredFloats absmax(Dtype::f32, kRows * kCols / 64);
  for (size_t i = 0; i < absmax.size(); ++i) absmax.set(i, 0.1f + 0.01f * static_cast<float>(i));
  plane.absmax = absmax;
  const auto packed = pack_plane(plane);
  ASSERT_TRUE(packed);
  Matrix decoded(kRows, kCols);
  packed->decode(0, decoded.view());
  for (size_t r = 0; r < kRows; ++r) {
    std::vector<float> expected(kCols);
    add_plane_row(plane, r, expected);
    for (size_t c = 0; c < kCols; ++c) ASSERT_NEAR(decoded(r, c), expected[c], 1e-6);
  }
  expect_products_agree(*packed, "nf4");
}

TEST(PanelPackTest, IrregularGroupsHaveNoPanels) {
  EXPECT_FALSE(
      pack_plane(random_uniform(4, 100, 4, 20, UniformPlane::ZeroPoint::symmetric, Dtype::f16)));
}

TEST(ActivationBlocksTest, KernelsEqualTheReferenceOnAllTargets) {
  for (const size_t unit_columns : {16u, 32u, 48u, 256u}) {
    const ActivationLayout layout{unit_columns, 4, activation_block(unit_columns)};
    const size_t size = 4 * unit_columns;
    std::vector<float> x(size);
    RandomStream(size, "activations").fill_normal(x, 0, 3);
    for (const float extra : {0.0f, 1e-38f, 1e30f, INFINITY, NAN}) {
      x[size / 3] = extra;
      if (extra == 1e-38f) std::fill_n(x.begin(), layout.block, extra);
      std::vector<int8_t> expected(size), codes(size);
      std::vector<float> expected_scales(4), scales(4);
      std::vector<int32_t> expected_sums(4), sums(4);
      quantize_activation_row_reference(layout, x.data(), expected.data(), expected_scales.data(),
                                        expected_sums.data());
      on_every_target([&] {
        quantize_activation_row(layout, x.data(), codes.data(), scales.data(), sums.data());
        for (size_t u = 0; u < 4; ++u) {
          EXPECT_TRUE(scales[u] == expected_scales[u] ||
                      (std::isnan(scales[u]) && std::isnan(expected_scales[u])));
        }
        EXPECT_EQ(codes, expected);
        EXPECT_EQ(sums, expected_sums);
      });
    }
  }
}

}  // namespace
}  // namespace fewbit
