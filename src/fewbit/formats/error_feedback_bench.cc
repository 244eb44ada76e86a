// Stages of quantising one 4096-wide layer. FEWBIT_THREADS=1 gives the cost per core.
#include "fewbit/formats/error_feedback.h"

#include <benchmark/benchmark.h>

#include "fewbit/base/random.h"
#include "fewbit/formats/dense_algebra.h"
#include "fewbit/formats/format_registry.h"
#include "fewbit/formats/hessian.h"

namespace fewbit {
namespace {

constexpr size_t kFeatures = 4096;
// One panel of rows for each of two cores; the cost is proportional to them.
constexpr size_t kRows = 128;

Matrix random_matrix(size_t rows, size_t cols) {
  Matrix result(rows, cols);
  RandomStream(1, "bench").fill_normal(result.values(), 0, 1);
  return result;
}

const HessianFactor& shared_factor() {
  static const HessianFactor factor = [] {
    HessianAccumulator accumulator(kFeatures);
    accumulator.add(random_matrix(kFeatures / 4, kFeatures).view());
    return factorize_hessian(accumulator.symmetric(2).view(), 0, {});
  }();
  return factor;
}

void set_flops(benchmark::State& state, double multiply_adds) {
  state.counters["flop/s"] =
      benchmark::Counter(2 * multiply_adds, benchmark::Counter::kIsIterationInvariantRate);
}

void BM_Hessian(benchmark::State& state) {
  const Matrix x = random_matrix(1024, kFeatures);
  HessianAccumulator accumulator(kFeatures);
  for (auto _ : state) accumulator.add(x.view());
  set_flops(state, 1024.0 * kFeatures * kFeatures / 2);
}
BENCHMARK(BM_Hessian)->Unit(benchmark::kMillisecond);

SquareMatrix diagonal_heavy() {
  SquareMatrix a(kFeatures);
  for (size_t i = 0; i < kFeatures; ++i) {
    for (size_t j = 0; j < i; ++j) a(i, j) = 1e-3 * static_cast<double>((i * 31 + j * 17) % 7);
    a(i, i) = 100;
  }
  return a;
}

void BM_Cholesky(benchmark::State& state) {
  const SquareMatrix a = diagonal_heavy();
  for (auto _ : state) {
    SquareMatrix work = a;
    benchmark::DoNotOptimize(cholesky_in_place(work));
  }
  set_flops(state, 1.0 * kFeatures * kFeatures * kFeatures / 6);
}
BENCHMARK(BM_Cholesky)->Unit(benchmark::kMillisecond);

void BM_InvertLower(benchmark::State& state) {
  const SquareMatrix a = diagonal_heavy();
  for (auto _ : state) {
    SquareMatrix work = a;
    invert_lower_in_place(work);
  }
  set_flops(state, 1.0 * kFeatures * kFeatures * kFeatures / 6);
}
BENCHMARK(BM_InvertLower)->Unit(benchmark::kMillisecond);

void BM_ErrorFeedback(benchmark::State& state, const char* clip) {
  const Matrix w = random_matrix(kRows, kFeatures);
  const auto grid = grid_from_options("uniform", {{"clip", clip}});
  for (auto _ : state) {
    benchmark::DoNotOptimize(quantize_with_feedback(*grid, w.view(), shared_factor(), {}));
  }
  set_flops(state, 1.0 * kRows * kFeatures * kFeatures / 2);
}
BENCHMARK_CAPTURE(BM_ErrorFeedback, min_max, "none")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_ErrorFeedback, mse, "mse")->Unit(benchmark::kMillisecond);

void BM_ToNearest(benchmark::State& state, const char* format, const char* clip) {
  const Matrix w = random_matrix(kRows, kFeatures);
  std::map<std::string, std::string> options;
  if (*clip) options["clip"] = clip;
  const auto grid = grid_from_options(format, options);
  for (auto _ : state) benchmark::DoNotOptimize(quantize_to_nearest(*grid, w.view()));
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * w.size()));
}
BENCHMARK_CAPTURE(BM_ToNearest, uniform, "uniform", "none")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_ToNearest, uniform_mse, "uniform", "mse")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_ToNearest, nf4, "nf4", "")->Unit(benchmark::kMillisecond);

void BM_Dequantize(benchmark::State& state) {
  const Matrix w = random_matrix(kRows, kFeatures);
  const auto matrix = quantize_to_nearest(*grid_from_options("uniform", {}), w.view());
  for (auto _ : state) benchmark::DoNotOptimize(matrix.dequantize());
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * w.size()));
}
BENCHMARK(BM_Dequantize)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace fewbit
