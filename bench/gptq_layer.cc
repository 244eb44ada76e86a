// GPTQ of one layer, for bench/gptq_layer.py: reads W [out, in] and H [in, in] as raw floats, then
// solves the layer once for every line on standard input and prints its seconds and objective.
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <string>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/error_feedback.h"
#include "fewbit/formats/format_registry.h"

namespace {

using namespace fewbit;

Matrix read_matrix(const std::string& path, size_t rows, size_t cols) {
  const MappedFile file = MappedFile::open(path);
  Matrix result(rows, cols);
  require(file.bytes().size() == result.size() * sizeof(float), "{}: {} bytes; expected {}", path,
          file.bytes().size(), result.size() * sizeof(float));
  std::memcpy(result.data(), file.bytes().data(), file.bytes().size());
  return result;
}

void run(int argc, char** argv) {
  require(argc == 8, "usage: {} W.bin H.bin OUT IN BITS GROUP_SIZE none|mse", argv[0]);
  const size_t out = std::stoul(argv[3]), in = std::stoul(argv[4]);
  const Matrix weights = read_matrix(argv[1], out, in);
  const Matrix single = read_matrix(argv[2], in, in);
  const DoubleMatrix hessian(in, in, {single.values().begin(), single.values().end()});
  const auto grid =
      grid_from_options("uniform", {{"bits", argv[5]}, {"group_size", argv[6]}, {"clip", argv[7]}});
  const size_t group_size = grid->begin(out, in)->shape().group_size;
  for (std::string line; std::getline(std::cin, line);) {
    const Stopwatch total;
    const HessianFactor factor = factorize_hessian(hessian.view(), group_size, {});
    const double factor_seconds = total.seconds();
    const ErrorFeedbackResult result = quantize_with_feedback(*grid, weights.view(), factor, {});
    const double seconds = total.seconds();
    const double objective =
        feedback_objective(weights.view(), result.matrix.dequantize().view(), hessian.view());
    std::printf(
        "{\"seconds\": %.6f, \"factor_seconds\": %.6f, \"objective\": %.9g, "
        "\"loss\": %.9g, \"bits_per_weight\": %.6f, \"threads\": %zu}\n",
        seconds, factor_seconds, objective, result.loss, result.matrix.bits_per_weight(),
        thread_count());
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
