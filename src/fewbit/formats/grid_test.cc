#include "fewbit/formats/grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/half.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/codebook_grid.h"
#include "fewbit/formats/codebooks.h"
#include "fewbit/formats/format_registry.h"
#include "fewbit/formats/uniform_grid.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;
using Symmetry = UniformGridOptions::Symmetry;
using Options = std::map<std::string, std::string>;

Matrix normal_matrix(size_t rows, size_t cols, uint64_t seed) {
  Matrix w(rows, cols);
  RandomStream(seed, "grid").fill_normal(w.values(), 0.01, 1);
  return w;
}

const UniformPlane& uniform_plane(const QuantizedMatrix& q) {
  return std::get<UniformPlane>(q.terms().at(0).plane);
}

double error_norm(const Matrix& a, const Matrix& b, double norm) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += std::pow(std::fabs(a.values()[i] - b.values()[i]), norm);
  }
  return sum;
}

double squared_error(const Grid& grid, const Matrix& w) {
  return error_norm(w, quantize_to_nearest(grid, w.view()).dequantize(), 2);
}

Matrix matrix_of(const TensorView& tensor) {
  return Matrix(tensor.shape.at(0), tensor.shape.at(1), to_floats(tensor));
}

TEST(GridTest, RoundingWithoutCodesGivesWhatTheCodesDecodeTo) {
  for (const char* format : {"uniform", "nf4"}) {
    for (const size_t cols : {64, 100}) {
      const Matrix w = normal_matrix(70, cols, 3);
      const auto grid = grid_from_options(format, {});
      Matrix decoded(w.rows(), w.cols());
      round_to_grid(*grid, w.view(), {}, decoded.view());
      EXPECT_EQ(decoded, quantize_to_nearest(*grid, w.view()).dequantize());
    }
  }
}

// --- fixtures ------------------------------------------------------------------------------------

FEWBIT_FIXTURE_TEST(RtnFixture, "rtn", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  const bool symmetric = file.metadata("sym") == "True", mse = file.metadata("mse") == "True";
  const auto grid =
      grid_from_options("uniform", {{"bits", file.metadata("bits")},
                                    {"group_size", file.metadata("group_size")},
                                    {"symmetry", symmetric ? "sym_offset" : "asymmetric"},
                                    {"clip", mse ? "mse" : "none"},
                                    {"mse_norm", file.metadata("mse_norm")},
                                    {"mse_grid", file.metadata("mse_grid")},
                                    {"mse_shrink", file.metadata("mse_maxshrink")},
                                    {"scale_dtype", "f32"}});
  const Matrix w = matrix_of(file.tensor("W"));
  const QuantizedMatrix q = quantize_to_nearest(*grid, w.view());
  const UniformPlane& plane = uniform_plane(q);
  const Matrix scale = matrix_of(file.tensor("scale")), zero = matrix_of(file.tensor("zero"));
  ASSERT_EQ(plane.groups(), scale.cols());
  for (size_t r = 0; r < w.rows(); ++r) {
    for (size_t g = 0; g < plane.groups(); ++g) {
      EXPECT_NEAR(plane.scale(r, g), scale(r, g), 1e-6 * scale(r, g)) << r << " " << g;
      EXPECT_EQ(plane.zero_point(r, g), zero(r, g)) << r << " " << g;
    }
  }
  const auto codes = to_integers(file.tensor("codes"));
  const Matrix expected = matrix_of(file.tensor("W_dq")), dense = q.dequantize();
  size_t different = 0;
  for (size_t r = 0; r < w.rows(); ++r) {
    for (size_t c = 0; c < w.cols(); ++c) {
      const int64_t off = std::abs(plane.codes.at(r, c) - codes[r * w.cols() + c]);
      different += off != 0;
      EXPECT_LE(off, 1);
      const float tolerance =
          static_cast<float>(off) * plane.scale(r, c / plane.group_size) * 1.001f + 1e-6f;
      EXPECT_NEAR(dense(r, c), expected(r, c), tolerance);
      if (off == 0 || !symmetric || mse) continue;
      // Only the largest magnitude of its group lies on a rounding tie.
      const size_t first = c / plane.group_size * plane.group_size;
      for (size_t k = first; k < std::min(first + plane.group_size, w.cols()); ++k) {
        EXPECT_GE(std::fabs(w(r, c)), std::fabs(w(r, k)));
      }
    }
  }
  EXPECT_LE(static_cast<double>(different),
            (symmetric && !mse ? 0.01 : 0.001) * static_cast<double>(w.size()));
}

FEWBIT_FIXTURE_TEST(BitsandbytesFixture, "bnb", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  const bool twice = file.metadata("double_quant") == "True";
  const auto grid =
      grid_from_options(file.metadata("quant_type"), {{"block_size", file.metadata("blocksize")},
                                                      {"double_quant", twice ? "true" : "false"},
                                                      {"assign_with", "original"}});
  const Matrix w = matrix_of(file.tensor("W"));
  const QuantizedMatrix q = quantize_to_nearest(*grid, w.view());
  const auto& plane = std::get<CodebookPlane>(q.terms()[0].plane);
  EXPECT_THAT(named_codebook(plane.codebook_name),
              ::testing::ElementsAreArray(to_floats(file.tensor("code"))));
  const auto indices = to_integers(file.tensor("idx"));
  for (size_t i = 0; i < indices.size(); ++i) {
    ASSERT_EQ(plane.codes.at(i / w.cols(), i % w.cols()), indices[i]) << i;
  }
  // The same nibbles, earlier element high.
  const auto packed = to_integers(file.tensor("packed"));
  for (size_t i = 0; i < packed.size(); ++i) {
    const auto code = [&](size_t k) { return plane.codes.at(k / w.cols(), k % w.cols()); };
    ASSERT_EQ(code(2 * i) * 16 + code(2 * i + 1), packed[i]);
  }
  const auto near_all = [](const std::vector<float>& actual, const std::vector<float>& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 1e-6f) << i;
  };
  const auto absmax = to_floats(file.tensor("absmax"));
  double extra_bits = 0;
  if (twice) {
    const auto& scales = std::get<DoubleQuantizedScales>(plane.absmax);
    EXPECT_THAT(dynamic_map(), ::testing::ElementsAreArray(to_floats(file.tensor("dyn_code"))));
    near_all(scales.offset.to_floats(), to_floats(file.tensor("offset")));
    near_all(scales.absmax2.to_floats(), to_floats(file.tensor("absmax2")));
    const auto codes = to_integers(file.tensor("absmax_codes"));
    const auto values = to_floats(file.tensor("absmax_dq"));
    size_t different = 0;
    for (size_t i = 0; i < codes.size(); ++i) {
      if (scales.codes[i] != codes[i]) {
        // Allowed only on a midpoint.
        const auto map = dynamic_map();
        const float middle = (map[scales.codes[i]] + map[static_cast<size_t>(codes[i])]) / 2;
        const float x = (absmax[i] - scales.offset[0]) / scales.absmax2[i / 256];
        EXPECT_NEAR(x, middle, 1e-6f);
        ++different;
        continue;
      }
      EXPECT_NEAR(scales[i], values[i], 1e-6f);
    }
    EXPECT_LE(different, codes.size() / 100);
    extra_bits = 32.0 / static_cast<double>(w.size());  // The offset, which the case leaves out.
  } else {
    EXPECT_THAT(std::get<StoredFloats>(plane.absmax).to_floats(),
                ::testing::ElementsAreArray(absmax));
  }
  const Matrix dense = q.dequantize();
  near_all({dense.values().begin(), dense.values().end()}, to_floats(file.tensor("W_dq")));
  EXPECT_NEAR(q.bits_per_weight(), std::stod(file.metadata("bits_per_weight")) + extra_bits, 1e-6);
}

FEWBIT_FIXTURE_TEST(Nf4Fixture, "nf4", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  const auto grid =
      grid_from_options(file.metadata("quant_type"), {{"block_size", file.metadata("blocksize")}});
  const Matrix w = matrix_of(file.tensor("W"));
  const QuantizedMatrix q = quantize_to_nearest(*grid, w.view());
  const auto& plane = std::get<CodebookPlane>(q.terms()[0].plane);
  const auto codes = to_integers(file.tensor("codes"));
  const CodebookSearch search(named_codebook(plane.codebook_name));
  for (size_t i = 0; i < codes.size(); ++i) {
    const size_t r = i / w.cols(), c = i % w.cols();
    if (plane.codes.at(r, c) == codes[i]) continue;
    const float x = w(r, c) / plane.absmax_of(plane.block_of(r, c));
    const auto low = static_cast<size_t>(std::min<int64_t>(plane.codes.at(r, c), codes[i]));
    EXPECT_NEAR(x, search.midpoints()[low], 1e-6f) << i;
  }
  // Decoding the given codes is exact.
  CodebookPlane given = plane;
  for (size_t r = 0; r < w.rows(); ++r) {
    std::vector<uint8_t> row(w.cols());
    for (size_t c = 0; c < w.cols(); ++c) {
      row[c] = static_cast<uint8_t>(codes[r * w.cols() + c]);
    }
    given.codes.set_row(r, row);
  }
  given.absmax = StoredFloats(Dtype::f32, to_floats(file.tensor("weight.absmax")));
  EXPECT_EQ(given.absmax, plane.absmax);
  EXPECT_EQ(QuantizedMatrix(CodePlane(given)).dequantize(), matrix_of(file.tensor("dequant")));
}

// --- properties of the uniform grid --------------------------------------------------------------

std::vector<Options> uniform_variants() {
  std::vector<Options> all;
  for (const char* symmetry : {"asymmetric", "sym_offset", "sym_signed"}) {
    for (const char* range : {"with_zero", "min_max"}) {
      for (const char* clip : {"none", "mse"}) {
        all.push_back({{"symmetry", symmetry},
                       {"range", range},
                       {"clip", clip},
                       {"bits", "3"},
                       {"group_size", "24"}});
      }
    }
  }
  return all;
}

TEST(UniformGridTest, WeightsOnTheGridComeBackExactly) {
  for (Options options : uniform_variants()) {
    if (options["clip"] == "mse") continue;
    const auto grid = grid_from_options("uniform", options);
    Matrix exact(4, 24);
    for (size_t i = 0; i < exact.size(); ++i) {
      exact.values()[i] = 0.25f * (static_cast<float>(i * 5 % 8) - 4);
    }
    if (options["symmetry"] == "sym_offset") continue;  // Its levels are half-integers of max.
    if (options["symmetry"] == "sym_signed") {
      for (float& x : exact.values()) x = std::max(x, -0.75f);
    }
    EXPECT_EQ(quantize_to_nearest(*grid, exact.view()).dequantize(), exact)
        << options["symmetry"] << " " << options["range"];
  }
}

TEST(UniformGridTest, ErrorOfUnclippedWeightsIsAtMostHalfAStep) {
  for (const Options& options : uniform_variants()) {
    if (options.at("clip") == "mse") continue;
    const Matrix w = normal_matrix(65, 100, 2);
    const QuantizedMatrix q = quantize_to_nearest(*grid_from_options("uniform", options), w.view());
    const UniformPlane& plane = uniform_plane(q);
    const Matrix dense = q.dequantize();
    for (size_t r = 0; r < w.rows(); ++r) {
      for (size_t c = 0; c < w.cols(); ++c) {
        const int code = plane.codes.at(r, c);
        if (code == 0 || code == 7) continue;
        EXPECT_LE(std::fabs(dense(r, c) - w(r, c)),
                  plane.scale(r, c / plane.group_size) * 0.50001f);
      }
    }
  }
}

TEST(UniformGridTest, ScalingByAPowerOfTwoLeavesTheCodes) {
  for (const Options& options : uniform_variants()) {
    Matrix w = normal_matrix(10, 60, 3);
    const auto grid = grid_from_options("uniform", options);
    const QuantizedMatrix a = quantize_to_nearest(*grid, w.view());
    for (float& x : w.values()) x *= 4;
    const QuantizedMatrix b = quantize_to_nearest(*grid, w.view());
    EXPECT_EQ(uniform_plane(a).codes, uniform_plane(b).codes);
  }
}

TEST(UniformGridTest, SearchOfOneCandidateIsThePlainRange) {
  const Matrix w = normal_matrix(66, 70, 4);
  const auto plain = grid_from_options("uniform", {{"bits", "2"}});
  const auto searched = grid_from_options(
      "uniform", {{"bits", "2"}, {"clip", "mse"}, {"mse_grid", "2"}, {"mse_shrink", "0.5"}});
  EXPECT_EQ(quantize_to_nearest(*plain, w.view()), quantize_to_nearest(*searched, w.view()));
}

TEST(UniformGridTest, SearchNeverRaisesItsOwnError) {
  const Matrix w = normal_matrix(64, 128, 5);
  for (const char* norm : {"2", "2.4", "1"}) {
    for (const char* bits : {"1", "2", "3", "4"}) {
      Options options = {{"bits", bits}, {"group_size", "32"}, {"mse_norm", norm}};
      const auto error = [&] {
        const auto grid = grid_from_options("uniform", options);
        return error_norm(w, quantize_to_nearest(*grid, w.view()).dequantize(), std::stod(norm));
      };
      const double plain = error();
      options["clip"] = "mse";
      const double searched = error();
      EXPECT_LE(searched, plain * 1.00001);
      options["mse_zero_neighbour"] = "true";
      EXPECT_LE(error(), searched * 1.00001);
    }
  }
}

TEST(UniformGridTest, ImportantColumnsHaveSmallerErrors) {
  const Matrix w = normal_matrix(64, 64, 6);
  const auto grid = grid_from_options(
      "uniform", {{"bits", "2"}, {"group_size", "64"}, {"clip", "mse"}, {"mse_norm", "2"}});
  std::vector<float> importance(64, 0.01f);
  importance[7] = 100;
  const auto column_error = [&](const QuantizedMatrix& q) {
    double sum = 0;
    const Matrix dense = q.dequantize();
    for (size_t r = 0; r < 64; ++r) sum += std::pow(dense(r, 7) - w(r, 7), 2);
    return sum;
  };
  EXPECT_LT(column_error(quantize_to_nearest(*grid, w.view(), importance)),
            column_error(quantize_to_nearest(*grid, w.view())) * 0.5);
}

TEST(UniformGridTest, ConstantAndEmptyGroupsStayFinite) {
  Matrix w(3, 8);
  for (float& x : w.row(1)) x = 0.7f;
  for (float& x : w.row(2)) x = -1e-20f;
  for (const Options& options : uniform_variants()) {
    const Matrix dense =
        quantize_to_nearest(*grid_from_options("uniform", options), w.view()).dequantize();
    for (size_t c = 0; c < 8; ++c) {
      EXPECT_EQ(dense(0, c), 0);
      EXPECT_TRUE(std::isfinite(dense(1, c)) && std::isfinite(dense(2, c)));
    }
    if (options.at("symmetry") == "asymmetric" && options.at("range") == "with_zero") {
      EXPECT_NEAR(dense(1, 0), 0.7f, 0.7f * 0x1p-11f);
    }
  }
}

TEST(UniformGridTest, StoredScalesAreTheOnesThatCodesWereChosenWith) {
  const Matrix w = normal_matrix(64, 64, 8);
  for (const char* dtype : {"f16", "bf16"}) {
    const auto grid = grid_from_options("uniform", {{"scale_dtype", dtype}, {"bits", "8"}});
    const QuantizedMatrix q = quantize_to_nearest(*grid, w.view());
    const UniformPlane& plane = uniform_plane(q);
    for (size_t r = 0; r < w.rows(); ++r) {
      const float s = plane.scale(r, 0), z = plane.zero_point(r, 0);
      for (size_t c = 0; c < w.cols(); ++c) {
        const float code = std::clamp(std::nearbyint(w(r, c) / s) + z, 0.0f, 255.0f);
        EXPECT_EQ(plane.codes.at(r, c), code);
      }
    }
  }
}

TEST(UniformGridTest, TinyScalesRoundLikeStoredOnes) {
  // Scales from 1e-9 to 1e4: normal, subnormal and below the smallest f16.
  Matrix w(130, 4);
  for (size_t r = 0; r < w.rows(); ++r) {
    w(r, 1) = static_cast<float>(15 * std::pow(10.0, -9 + 0.1 * static_cast<double>(r)));
  }
  for (const char* dtype : {"f16", "bf16", "f32"}) {
    const auto grid = grid_from_options("uniform", {{"scale_dtype", dtype}});
    const QuantizedMatrix q = quantize_to_nearest(*grid, w.view());
    for (size_t r = 0; r < w.rows(); ++r) {
      const Dtype type = float_dtype_from_word(dtype);
      const float least = type == Dtype::f16 ? 0x1p-24f : 0;
      EXPECT_EQ(uniform_plane(q).scale(r, 0),
                std::max(round_to_dtype(type, w(r, 1) / 15.0f), least))
          << dtype << " row " << r;
    }
  }
}

TEST(UniformGridTest, RefusesWhatCannotBeStored) {
  Matrix w(1, 4);
  w(0, 2) = 3e6f;
  EXPECT_THROW(quantize_to_nearest(*grid_from_options("uniform", {}), w.view()), Error);
  EXPECT_NO_THROW(
      quantize_to_nearest(*grid_from_options("uniform", {{"scale_dtype", "bf16"}}), w.view()));
  w(0, 2) = NAN;
  EXPECT_THROW(quantize_to_nearest(*grid_from_options("uniform", {}), w.view()), Error);
}

TEST(GridTest, ResultsDoNotDependOnTheNumberOfThreads) {
  const size_t threads = thread_count();
  const Matrix w = normal_matrix(200, 150, 9);
  for (const auto& [name, options] :
       std::vector<std::pair<std::string, Options>>{{"uniform", {{"clip", "mse"}, {"bits", "2"}}},
                                                    {"nf4", {{"double_quant", "true"}}},
                                                    {"fp4", {{"blocks", "rows"}}}}) {
    const auto grid = grid_from_options(name, options);
    set_thread_count(1);
    const QuantizedMatrix one = quantize_to_nearest(*grid, w.view());
    set_thread_count(3);
    EXPECT_EQ(one, quantize_to_nearest(*grid, w.view())) << name;
  }
  set_thread_count(threads);
}

// --- properties of the codebook grid -------------------------------------------------------------

TEST(CodebookGridTest, LevelsTimesAbsmaxComeBackExactly) {
  for (const std::string& name : codebook_names()) {
    const auto levels = named_codebook(name);
    Matrix w(6, 64);
    for (size_t i = 0; i < w.size(); ++i) {
      w.values()[i] = levels[(i * 7) % 16] * static_cast<float>(1 << (i / 64));
    }
    EXPECT_EQ(quantize_to_nearest(*grid_from_options(name, {}), w.view()).dequantize(), w) << name;
  }
}

TEST(CodebookGridTest, BlocksMayRunAcrossRows) {
  const Matrix w = normal_matrix(7, 50, 10);
  const Matrix flat(1, 350, {w.values().begin(), w.values().end()});
  const auto grid = grid_from_options("nf4", {});
  const Matrix a = quantize_to_nearest(*grid, w.view()).dequantize();
  const Matrix b = quantize_to_nearest(*grid, flat.view()).dequantize();
  EXPECT_TRUE(std::equal(a.values().begin(), a.values().end(), b.values().begin()));
}

TEST(CodebookGridTest, AssigningUnderTheStoredAbsmaxIsAtLeastAsGood) {
  const Matrix w = normal_matrix(64, 256, 11);
  const auto stored = grid_from_options("nf4", {{"double_quant", "true"}});
  const auto original =
      grid_from_options("nf4", {{"double_quant", "true"}, {"assign_with", "original"}});
  EXPECT_LE(squared_error(*stored, w), squared_error(*original, w));
}

TEST(CodebookGridTest, Nf4BeatsSymmetricUniformOnNormalWeights) {
  const Matrix w = normal_matrix(64, 512, 12);
  EXPECT_LT(
      squared_error(*grid_from_options("nf4", {}), w),
      squared_error(
          *grid_from_options("uniform", {{"group_size", "64"}, {"symmetry", "sym_offset"}}), w));
}

TEST(CodebookGridTest, SignFlipIsASymmetryOfFp4) {
  Matrix w = normal_matrix(8, 64, 13);
  const auto grid = grid_from_options("fp4", {});
  const Matrix a = quantize_to_nearest(*grid, w.view()).dequantize();
  for (float& x : w.values()) x = -x;
  const Matrix b = quantize_to_nearest(*grid, w.view()).dequantize();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a.values()[i], -b.values()[i]);
}

TEST(CodebookGridTest, TakesGivenLevels) {
  CodebookGridOptions options;
  options.codebook.clear();
  options.levels = StoredFloats(Dtype::f16, std::vector<float>{-1, 0, 0.25, 1});
  options.blocks = CodebookPlane::Blocks::rows;
  Matrix w(1, 5, {-4, 0.4f, 0.6f, 4, 1.1f});
  const QuantizedMatrix q = quantize_to_nearest(CodebookGrid(options), w.view());
  EXPECT_EQ(q.dequantize(), Matrix(1, 5, {-4, 0, 1, 4, 1}));
}

// --- registry ------------------------------------------------------------------------------------

TEST(FormatRegistryTest, DefaultsOfEveryFormatQuantise) {
  const Matrix w = normal_matrix(5, 70, 14);
  for (const Format& format : formats()) {
    const auto grid = grid_from_options(format.name, {});
    EXPECT_EQ(quantize_to_nearest(*grid, w.view()).rows(), 5u) << format.name;
    EXPECT_FALSE(grid->describe().empty());
  }
}

TEST(FormatRegistryTest, ErrorsNameTheKeyAndWhatIsAllowed) {
  const auto message = [](std::string_view name, const Options& options) -> std::string {
    try {
      grid_from_options(name, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(message("unifrom", {}), HasSubstr("uniform"));
  EXPECT_THAT(message("uniform", {{"bits", "9"}}), HasSubstr("1 to 8"));
  EXPECT_THAT(message("uniform", {{"bit", "4"}}), HasSubstr("bits"));
  EXPECT_THAT(message("uniform", {{"clip", "max"}}), HasSubstr("none or mse"));
  EXPECT_THAT(message("uniform", {{"bits", "1"}, {"symmetry", "sym_signed"}}),
              HasSubstr("sym_signed"));
  EXPECT_THAT(message("nf4", {{"group_size", "64"}}), HasSubstr("block_size"));
}

}  // namespace
}  // namespace fewbit
