#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "fewbit/formats/ggml_blocks.h"

namespace fewbit {
namespace {

// Bytes per second are those of the packed side; items are elements.
void BM_DequantizeGgml(benchmark::State& state) {
  const GgmlTypeInfo& info = ggml_type_info(static_cast<GgmlType>(state.range(0)));
  constexpr size_t kElements = 1 << 20;
  std::vector<std::byte> bytes(ggml_bytes(info.type, kElements));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 41 % 113);
  std::vector<float> out(kElements);
  for (auto _ : state) {
    dequantize_ggml(info.type, bytes, out);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetLabel(std::string(info.name));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * bytes.size()));
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kElements));
}

void every_decodable_type(benchmark::internal::Benchmark* bench) {
  for (const GgmlTypeInfo& info : ggml_types()) {
    if (ggml_decodable(info.type)) bench->Arg(info.id());
  }
}
BENCHMARK(BM_DequantizeGgml)->Apply(every_decodable_type);

}  // namespace
}  // namespace fewbit
