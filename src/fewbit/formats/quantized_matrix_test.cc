#include "fewbit/formats/quantized_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/codebooks.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;
using ZeroPoint = UniformPlane::ZeroPoint;

void randomise(CodeMatrix& codes, RandomStream& random) {
  std::vector<uint8_t> row(codes.cols);
  for (size_t r = 0; r < codes.rows; ++r) {
    for (uint8_t& code : row) code = static_cast<uint8_t>(random.below(size_t{1} << codes.bits));
    codes.set_row(r, row);
  }
}

void randomise(StoredFloats& values, RandomStream& random) {
  for (size_t i = 0; i < values.size(); ++i) {
    values.set(i, static_cast<float>(0.01 + random.uniform()));
  }
}

UniformPlane random_uniform(size_t rows, size_t cols, int bits, size_t group, ZeroPoint kind,
                            Dtype dtype, RandomStream& random) {
  UniformPlane plane(rows, cols, bits, group, kind, dtype);
  randomise(plane.codes, random);
  randomise(plane.scales, random);
  if (kind == ZeroPoint::integer) randomise(plane.zero_points, random);
  if (kind == ZeroPoint::real) randomise(plane.real_zeros, random);
  return plane;
}

CodebookPlane random_nf4(size_t rows, size_t cols, CodebookPlane::Blocks blocks, bool twice,
                         RandomStream& random) {
  CodebookPlane plane;
  plane.codes = CodeMatrix(rows, cols, 4);
  randomise(plane.codes, random);
  plane.codebook_name = "nf4";
  plane.blocks = blocks;
  plane.block_size = 64;
  StoredFloats absmax(Dtype::f32, plane.block_count());
  randomise(absmax, random);
  if (twice) {
    plane.absmax = double_quantize(absmax.to_floats());
  } else {
    plane.absmax = absmax;
  }
  return plane;
}

CodebookPlane random_levels(size_t rows, size_t cols, int bits, RandomStream& random) {
  CodebookPlane plane;
  plane.codes = CodeMatrix(rows, cols, bits);
  randomise(plane.codes, random);
  plane.levels = StoredFloats(Dtype::f16, size_t{1} << bits);
  randomise(plane.levels, random);
  plane.block_size = 32;
  StoredFloats absmax(Dtype::f16, plane.block_count());
  randomise(absmax, random);
  plane.absmax = absmax;
  return plane;
}

// One matrix of every kind that the layout knows, the same ones at every run.
std::map<std::string, QuantizedMatrix> specimens() {
  RandomStream random(7, "specimens");
  Transform permuted{{Permutation{random.permutation(50)}}};
  Transform permuted_rows{{Permutation{random.permutation(6)}, Permutation{random.permutation(6)}}};
  std::map<std::string, QuantizedMatrix> all;
  all["asymmetric"] = QuantizedMatrix(
      6, 50, {{random_uniform(6, 50, 3, 16, ZeroPoint::integer, Dtype::f16, random)}}, permuted);
  all["symmetric"] = QuantizedMatrix(
      CodePlane(random_uniform(5, 70, 4, 32, ZeroPoint::symmetric, Dtype::bf16, random)));
  all["real_zeros"] =
      QuantizedMatrix(CodePlane(random_uniform(4, 33, 2, 0, ZeroPoint::real, Dtype::f32, random)));
  all["nf4"] = QuantizedMatrix(
      CodePlane(random_nf4(4, 100, CodebookPlane::Blocks::flattened, true, random)));
  all["levels"] = QuantizedMatrix(CodePlane(random_levels(3, 40, 5, random)));
  all["two_terms"] =
      QuantizedMatrix(6, 50,
                      {{random_uniform(6, 50, 1, 16, ZeroPoint::integer, Dtype::f16, random)},
                       {random_nf4(6, 50, CodebookPlane::Blocks::rows, false, random)}},
                      permuted, permuted_rows);
  return all;
}

TEST(BitPackTest, RoundTripsEveryWidthAndLength) {
  RandomStream random(1, "bits");
  for (int bits = 1; bits <= 8; ++bits) {
    for (const size_t count : {0, 1, 3, 7, 8, 9, 31, 64, 100}) {
      std::vector<uint8_t> codes(count), packed(packed_bytes(count, bits)), back(count);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random.below(size_t{1} << bits));
      pack_codes(codes, bits, packed);
      unpack_codes(packed, bits, back);
      EXPECT_EQ(codes, back) << bits << " bits";
      for (size_t i = 0; i < count; ++i) EXPECT_EQ(packed_code(packed, bits, i), codes[i]);
    }
  }
}

TEST(BitPackTest, PutsEarlierCodesInLowerBits) {
  const std::vector<uint8_t> codes = {1, 2, 7};
  std::vector<uint8_t> packed(packed_bytes(3, 3));
  pack_codes(codes, 3, packed);
  EXPECT_EQ(packed, (std::vector<uint8_t>{0b11'010'001, 0b1}));
}

TEST(QuantizedMatrixTest, UniformDecodesToScaleTimesCodeMinusZeroPoint) {
  RandomStream random(2, "test");
  for (const auto kind : {ZeroPoint::symmetric, ZeroPoint::integer, ZeroPoint::real}) {
    const UniformPlane plane = random_uniform(3, 21, 3, 8, kind, Dtype::f16, random);
    const Matrix dense = QuantizedMatrix(CodePlane(plane)).dequantize();
    for (size_t r = 0; r < 3; ++r) {
      for (size_t c = 0; c < 21; ++c) {
        const float expected =
            plane.scale(r, c / 8) * (plane.codes.at(r, c) - plane.zero_point(r, c / 8));
        EXPECT_EQ(dense(r, c), expected);
      }
    }
  }
}

TEST(QuantizedMatrixTest, InputPermutationGivesEveryStoredColumnItsPlace) {
  RandomStream random(3, "test");
  const UniformPlane plane = random_uniform(2, 9, 4, 3, ZeroPoint::integer, Dtype::f32, random);
  const Permutation permutation{random.permutation(9)};
  const Matrix stored = QuantizedMatrix(CodePlane(plane)).dequantize();
  const Matrix dense = QuantizedMatrix(2, 9, {{plane}}, Transform{{permutation}}).dequantize();
  for (size_t r = 0; r < 2; ++r) {
    for (size_t c = 0; c < 9; ++c) EXPECT_EQ(dense(r, permutation.order[c]), stored(r, c));
  }
}

TEST(QuantizedMatrixTest, ProductWithTransformsEqualsTransformedProduct) {
  const QuantizedMatrix matrix = specimens().at("two_terms");
  RandomStream random(4, "test");
  std::vector<float> x(matrix.cols());
  random.fill_normal(x, 0, 1);
  const auto multiply = [](const Matrix& w, const std::vector<float>& v) {
    std::vector<float> y(w.rows());
    for (size_t r = 0; r < w.rows(); ++r) {
      for (size_t c = 0; c < w.cols(); ++c) y[r] += w(r, c) * v[c];
    }
    return y;
  };
  const std::vector<float> whole = multiply(matrix.dequantize(), x);
  std::vector<float> inner = x;
  apply_transform(matrix.input(), inner);
  std::vector<float> y =
      multiply(QuantizedMatrix(matrix.rows(), matrix.cols(), matrix.terms()).dequantize(), inner);
  apply_transform(matrix.output(), y);
  for (size_t r = 0; r < y.size(); ++r) EXPECT_NEAR(whole[r], y[r], 1e-4f);
}

TEST(QuantizedMatrixTest, RowsDecodeAsInTheWholeWithAnyNumberOfThreads) {
  const size_t threads = thread_count();
  for (const auto& [name, matrix] : specimens()) {
    set_thread_count(1);
    const Matrix whole = matrix.dequantize();
    set_thread_count(3);
    EXPECT_EQ(whole, matrix.dequantize()) << name;
    Matrix part(2, matrix.cols());
    matrix.dequantize_rows(1, part.view());
    for (size_t c = 0; c < matrix.cols(); ++c) EXPECT_EQ(part(1, c), whole(2, c));
  }
  set_thread_count(threads);
}

TEST(QuantizedMatrixTest, BitsPerWeightAreThoseOfThePublishedFormats) {
  RandomStream random(5, "test");
  const auto bpw = [](CodePlane plane) { return QuantizedMatrix(plane).bits_per_weight(); };
  EXPECT_DOUBLE_EQ(bpw(random_uniform(4, 256, 4, 128, ZeroPoint::integer, Dtype::f16, random)),
                   4.15625);
  EXPECT_DOUBLE_EQ(bpw(random_uniform(4, 256, 4, 128, ZeroPoint::symmetric, Dtype::f16, random)),
                   4.125);
  EXPECT_DOUBLE_EQ(bpw(random_uniform(4, 256, 2, 64, ZeroPoint::integer, Dtype::f16, random)),
                   2.28125);
  EXPECT_DOUBLE_EQ(bpw(random_uniform(4, 256, 2, 64, ZeroPoint::real, Dtype::f16, random)), 2.5);
  const auto flattened = CodebookPlane::Blocks::flattened;
  EXPECT_DOUBLE_EQ(bpw(random_nf4(64, 256, flattened, false, random)), 4.5);
  // 8/64 for the codes of absmax, 32/(64 * 256) for their scales and once 32 bits for the offset.
  EXPECT_DOUBLE_EQ(bpw(random_nf4(64, 256, flattened, true, random)),
                   4 + 8.0 / 64 + 32.0 / (64 * 256) + 32.0 / (64 * 256));
}

TEST(QuantizedMatrixTest, RoundTripsThroughTensors) {
  for (const auto& [name, matrix] : specimens()) {
    const auto serialized = matrix.to_tensors("blocks.3.attn.q");
    size_t bytes = 0;
    for (const NamedTensor& tensor : serialized.tensors) {
      EXPECT_THAT(tensor.name, ::testing::StartsWith("blocks.3.attn.q."));
      bytes += tensor.bytes.size();
    }
    EXPECT_EQ(bytes, matrix.stored_bytes());
    EXPECT_EQ(QuantizedMatrix::from_tensors(serialized, "blocks.3.attn.q"), matrix) << name;
  }
}

TEST(QuantizedMatrixTest, RefusesTensorsThatDoNotFitTheDescription) {
  for (const auto& [name, matrix] : specimens()) {
    const auto good = matrix.to_tensors("m");
    for (size_t i = 0; i < good.tensors.size(); ++i) {
      auto bad = good;
      bad.tensors[i].name += "x";
      EXPECT_THROW(QuantizedMatrix::from_tensors(bad, "m"), Error) << name;
      bad = good;
      bad.tensors[i].bytes.pop_back();
      EXPECT_THROW(QuantizedMatrix::from_tensors(bad, "m"), Error) << name;
      bad = good;
      bad.tensors[i].shape.back() += 1;
      EXPECT_THROW(QuantizedMatrix::from_tensors(bad, "m"), Error) << name;
      bad = good;
      bad.tensors[i].dtype = Dtype::i64;
      EXPECT_THROW(QuantizedMatrix::from_tensors(bad, "m"), Error) << name;
    }
  }
}

TEST(QuantizedMatrixTest, RefusesBadDescriptionsByKey) {
  const auto good = specimens().at("asymmetric").to_tensors("m");
  const auto expect_error = [&](auto&& change, const char* text) {
    auto bad = good;
    change(bad.description);
    try {
      QuantizedMatrix::from_tensors(bad, "m");
      ADD_FAILURE() << "accepted: " << text;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(text));
    }
  };
  expect_error([](Json& d) { d["version"] = 2; }, "version 2");
  expect_error([](Json& d) { d["rows"] = uint64_t{1} << 62; }, "rows");
  expect_error([](Json& d) { d["cols"] = 40; }, "codes");
  expect_error([](Json& d) { d["cols"] = 0; }, "no weights");
  expect_error([](Json& d) { d["terms"] = Json::array(); }, "terms");
  expect_error([](Json& d) { d["terms"][0]["kind"] = "spline"; }, "spline");
  expect_error([](Json& d) { d["terms"][0]["bits"] = 9; }, "bits");
  expect_error([](Json& d) { d["terms"][0]["group_size"] = 0; }, "group_size");
  expect_error([](Json& d) { d["terms"][0]["scale_dtype"] = "f64"; }, "f64");
  expect_error([](Json& d) { d["terms"][0]["zero_point"] = "odd"; }, "odd");
  expect_error([](Json& d) { d["input"][0]["kind"] = "twist"; }, "twist");
}

TEST(QuantizedMatrixTest, RefusesAnInputOrderThatIsNoPermutation) {
  auto serialized = specimens().at("asymmetric").to_tensors("m");
  for (NamedTensor& tensor : serialized.tensors) {
    if (tensor.name == "m.input.0.permutation") tensor.bytes[0] = tensor.bytes[2];
  }
  EXPECT_THROW(QuantizedMatrix::from_tensors(serialized, "m"), Error);
}

TEST(CodebookTest, DynamicMapIsAscendingWithSevenDecades) {
  const auto map = dynamic_map();
  ASSERT_EQ(map.size(), 256u);
  EXPECT_TRUE(std::is_sorted(map.begin(), map.end()));
  size_t next = 128;
  for (int i = 0; i < 7; ++i) {
    const int count = 1 << i;
    for (int k = 0; k < count; ++k, ++next) {
      const double step = 0.9 / count;
      EXPECT_NEAR(map[next], (0.1 + (k + 0.5) * step) * std::pow(10.0, i - 6), 1e-7);
      EXPECT_EQ(map[next], -map[254 - next]);
    }
  }
  EXPECT_EQ(map[255], 1.0f);
}

TEST(CodebookTest, TiesGoToTheLowerLevel) {
  const std::vector<float> levels = {1.0f, 0.0f, 0.5f, -0.0f};
  const CodebookSearch search(levels);
  EXPECT_EQ(search.nearest(0.75f), 2);
  EXPECT_EQ(search.nearest(0.76f), 0);
  EXPECT_EQ(search.nearest(0.25f), 3);
  EXPECT_EQ(search.nearest(-1.0f), 1);
}

// Files of every version stay readable: tests/data/quantized-matrix/v1.safetensors was written by
// the first one. FEWBIT_UPDATE_GOLDEN=1 writes it anew.
TEST(QuantizedMatrixTest, ReadsTheGoldenFileOfVersionOne) {
  const auto path = testing::test_data_root() / "quantized-matrix" / "v1.safetensors";
  const auto expected = specimens();
  if (const char* update = std::getenv("FEWBIT_UPDATE_GOLDEN"); update && *update == '1') {
    std::vector<QuantizedMatrix::Serialized> all;
    std::vector<TensorToWrite> tensors;
    std::map<std::string, std::string> metadata;
    for (const auto& [name, matrix] : expected) {
      all.push_back(matrix.to_tensors(name));
      metadata[name] = all.back().description.dump();
    }
    for (const auto& serialized : all) {
      for (const auto& t : serialized.tensors) {
        tensors.push_back({t.name, t.dtype, t.shape, t.bytes});
      }
    }
    std::filesystem::create_directories(path.parent_path());
    write_safetensors(path, tensors, metadata);
  }
  const SafetensorsFile file = SafetensorsFile::open(path);
  for (const auto& [name, matrix] : expected) {
    const auto read = QuantizedMatrix::from_tensors(
        parse_json(file.metadata(name), name), name, [&](std::string_view tensor) {
          return file.contains(tensor) ? &file.tensor(tensor) : nullptr;
        });
    EXPECT_EQ(read, matrix) << name;
  }
}

}  // namespace
}  // namespace fewbit
