// Products on packed weights. Every row tells GB/s of packed bytes and, for one token, the
// fraction of the bandwidth that a plain read of the same size reaches in the same run on as many
// threads; for many tokens the fraction of the int8 dot products that the processor can start.
//
//   fewbit_kernels_bench --benchmark_filter=matvec/Q4_K
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/kernels/kernel_peaks.h"
#include "fewbit/kernels/packed_bytes.h"
#include "fewbit/kernels/packed_matrix.h"

namespace fewbit {
namespace {

// Well beyond the last-level cache at one bit.
constexpr size_t kRows = 131072, kCols = 4096;
// Prefill: a layer of a small model.
constexpr size_t kPrefillRows = 2048, kPrefillCols = 2048, kPrefillTokens = 480;

struct Format {
  std::string name;
  PackedMatrix (*make)(size_t rows, size_t cols);
};

std::vector<std::byte> filler(size_t count) {
  std::vector<std::byte> bytes(count);
  uint64_t state = 1;
  for (size_t i = 0; i + 8 <= count; i += 8) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    // Small exponents wherever a half may be.
    const uint64_t word = (state >> 7) & 0x3f3f3f3f3f3f3f3fu;
    std::memcpy(&bytes[i], &word, 8);
  }
  return bytes;
}

template <GgmlType kType>
PackedMatrix ggml(size_t rows, size_t cols) {
  return PackedMatrix::from_ggml(kType, rows, cols, filler(rows * ggml_bytes(kType, cols)));
}

template <int kBits, size_t kGroup, UniformPlane::ZeroPoint kKind>
PackedMatrix uniform(size_t rows, size_t cols) {
  UniformPlane plane(rows, cols, kBits, kGroup, kKind, Dtype::f16);
  const auto bytes = filler(plane.codes.bytes.size());
  std::memcpy(plane.codes.bytes.data(), bytes.data(), bytes.size());
  for (size_t i = 0; i < plane.scales.size(); ++i) plane.scales.set(i, 0.01f);
  return PackedMatrix::from_quantized(QuantizedMatrix(plane));
}

PackedMatrix nf4(size_t rows, size_t cols) {
  CodebookPlane plane;
  plane.codes = CodeMatrix(rows, cols, 4);
  plane.codebook_name = "nf4";
  plane.block_size = 64;
  plane.absmax = StoredFloats(Dtype::f32, rows * cols / 64);
  return PackedMatrix::from_quantized(QuantizedMatrix(plane));
}

template <Dtype kType>
PackedMatrix dense(size_t rows, size_t cols) {
  return PackedMatrix::from_dense(kType, rows / 4, cols,
                                  filler(rows / 4 * cols * dtype_bytes(kType)));
}

std::vector<Format> formats() {
  using enum UniformPlane::ZeroPoint;
  return {{"Q8_0", ggml<GgmlType::q8_0>},
          {"Q4_0", ggml<GgmlType::q4_0>},
          {"Q4_1", ggml<GgmlType::q4_1>},
          {"Q5_0", ggml<GgmlType::q5_0>},
          {"Q5_1", ggml<GgmlType::q5_1>},
          {"Q2_K", ggml<GgmlType::q2_k>},
          {"Q3_K", ggml<GgmlType::q3_k>},
          {"Q4_K", ggml<GgmlType::q4_k>},
          {"Q5_K", ggml<GgmlType::q5_k>},
          {"Q6_K", ggml<GgmlType::q6_k>},
          {"IQ4_NL", ggml<GgmlType::iq4_nl>},
          {"IQ4_XS", ggml<GgmlType::iq4_xs>},
          {"TQ2_0", ggml<GgmlType::tq2_0>},
          {"Q1_0", ggml<GgmlType::q1_0>},
          {"nf4", nf4},
          {"uniform_b1_g128", uniform<1, 128, symmetric>},
          {"uniform_b2_g128", uniform<2, 128, symmetric>},
          {"uniform_b2_g128_zero", uniform<2, 128, integer>},
          {"uniform_b2_row", uniform<2, 0, symmetric>},
          {"uniform_b3_g128", uniform<3, 128, symmetric>},
          {"uniform_b4_g128", uniform<4, 128, symmetric>},
          {"uniform_b4_g32", uniform<4, 32, symmetric>},
          {"f16", dense<Dtype::f16>}};
}

double seconds_of(const auto& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Seconds of one plain read by the configured threads.
double seconds_of_read(std::span<const std::byte> bytes) {
  return seconds_of([&] {
    constexpr size_t kChunk = size_t{1} << 18;
    parallel_for_chunks(bytes.size(), kChunk, [&](size_t first, size_t last) {
      benchmark::DoNotOptimize(sum_of_words(bytes.subspan(first, last - first)));
    });
  });
}

void matvec_row(benchmark::State& state, const Format& format, size_t threads) {
  set_thread_count(threads);
  const PackedMatrix weights = format.make(kRows, kCols);
  // Memory of the same kind as the weights': huge pages make plain reads faster, too.
  const PackedBytes memory(weights.bytes());
  const auto plain = std::as_bytes(std::span(memory.data(), memory.size()));
  std::vector<float> x(kCols), y(weights.rows());
  RandomStream(1, "bench").fill_normal(x, 0, 1);
  // The machine may be busy: products and reads take turns, and the best of each counts.
  double best = 1e9, best_read = 1e9;
  for (auto _ : state) {
    const double seconds = seconds_of([&] { matvec(weights, x, y); });
    benchmark::DoNotOptimize(y.data());
    best = std::min(best, seconds);
    best_read = std::min(best_read, seconds_of_read(plain));
    state.SetIterationTime(seconds);
  }
  const double bytes = static_cast<double>(weights.bytes());
  state.counters["GB/s"] = bytes / best / 1e9;
  state.counters["read_GB/s"] = bytes / best_read / 1e9;
  state.counters["fraction"] = best_read / best;
  state.counters["Gweights/s"] = static_cast<double>(weights.rows() * kCols) / best / 1e9;
}

void prefill_row(benchmark::State& state, const Format& format, size_t threads) {
  set_thread_count(threads);
  const PackedMatrix weights = format.make(kPrefillRows, kPrefillCols);
  Matrix x(kPrefillTokens, kPrefillCols), y(kPrefillTokens, weights.rows());
  RandomStream(1, "bench").fill_normal(x.values(), 0, 1);
  double best = 1e9;
  for (auto _ : state) {
    const double seconds = seconds_of([&] { matmul(weights, x.view(), y.view()); });
    best = std::min(best, seconds);
    state.SetIterationTime(seconds);
  }
  const double operations =
      2.0 * static_cast<double>(weights.rows()) * kPrefillCols * kPrefillTokens;
  const double peak = dot_product_peak() * static_cast<double>(threads);
  state.counters["Gop/s"] = operations / best / 1e9;
  state.counters["peak_Gop/s"] = peak / 1e9;
  state.counters["fraction"] = operations / best / peak;
}

int register_rows() {
  for (const Format& format : formats()) {
    for (const size_t threads : {1, 2}) {
      const std::string suffix = format.name + "/threads:" + std::to_string(threads);
      benchmark::RegisterBenchmark(("matvec/" + suffix).c_str(), matvec_row, format, threads)
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond);
      benchmark::RegisterBenchmark(("prefill/" + suffix).c_str(), prefill_row, format, threads)
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
  return 0;
}
[[maybe_unused]] const int registered = register_rows();

}  // namespace
}  // namespace fewbit
