// Tokens per second of a model, read and written: FEWBIT_BENCH_MODEL names its checkpoint.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>

#include "fewbit/base/random.h"
#include "fewbit/runtime/packed_model.h"

namespace fewbit {
namespace {

const PackedModel* bench_model(benchmark::State& state) {
  static const std::unique_ptr<const PackedModel> model = [] {
    const char* path = std::getenv("FEWBIT_BENCH_MODEL");
    return path == nullptr ? nullptr : std::make_unique<PackedModel>(open_checkpoint(path));
  }();
  if (!model) state.SkipWithError("FEWBIT_BENCH_MODEL names no checkpoint");
  return model.get();
}

std::vector<int32_t> random_tokens(size_t count, size_t vocabulary) {
  std::vector<int32_t> tokens(count);
  RandomStream random(1, "tokens");
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(vocabulary));
  return tokens;
}

void bench_prefill(benchmark::State& state) {
  const PackedModel* model = bench_model(state);
  if (model == nullptr) return;
  const auto count = static_cast<size_t>(state.range(0));
  const auto tokens = random_tokens(count, model->spec().vocab_size);
  KvCache cache = model->make_cache(count);
  for (auto _ : state) {
    cache.truncate(0);
    benchmark::DoNotOptimize(model->prefill(cache, tokens));
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(bench_prefill)->Arg(32)->Arg(128)->Arg(512)->UseRealTime()->Unit(benchmark::kMillisecond);

// One token of each of `sequences` sequences behind `context` others, logits included.
void bench_decode(benchmark::State& state) {
  const PackedModel* model = bench_model(state);
  if (model == nullptr) return;
  const auto context = static_cast<size_t>(state.range(0));
  const auto sequences = static_cast<size_t>(state.range(1));
  const auto tokens = random_tokens(context + 1, model->spec().vocab_size);
  std::vector<KvCache> caches;
  for (size_t i = 0; i < sequences; ++i) {
    caches.push_back(model->make_cache(context + 1));
    if (context > 0) model->prefill(caches.back(), std::span(tokens).first(context));
  }
  Matrix logits(sequences, model->spec().vocab_size);
  for (auto _ : state) {
    std::vector<SequenceRun> runs;
    for (KvCache& cache : caches) {
      cache.truncate(context);
      runs.push_back({&cache, std::span(tokens).last(1)});
    }
    const Panel hidden = model->run(runs);
    model->logits(hidden.view(), logits.view());
    benchmark::DoNotOptimize(logits.data());
  }
  state.SetItemsProcessed(state.iterations() * state.range(1));
}
BENCHMARK(bench_decode)
    ->Args({16, 1})
    ->Args({1024, 1})
    ->Args({16, 4})
    ->Args({16, 8})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace fewbit
