// One step of a fake quantizer, forward and backward, on a weight of 1024 x 1024: the fused pass
// and the ATen formula that specifies it.
#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include "fewbit/train/fake_quant_formula.h"
#include "fewbit/train/quantizer_registry.h"
#include "fewbit/train/quantizer_rules.h"

namespace fewbit {
namespace {

constexpr int64_t kSize = 1024;

void count_weights(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations() * kSize * kSize);
}

void step(benchmark::State& state, const char* name,
          const std::map<std::string, std::string>& options) {
  const at::Tensor weight = at::randn({kSize, kSize}).set_requires_grad(true);
  const at::Tensor gradient = at::randn({kSize, kSize});
  const auto quantizer = make_fake_quant(name, options, weight);
  for (auto _ : state) {
    quantizer->forward(weight).backward(gradient);
    weight.mutable_grad().reset();
  }
  count_weights(state);
}

void formula_step(benchmark::State& state) {
  const at::Tensor weight = at::randn({kSize, kSize}), gradient = at::randn({kSize, kSize});
  const at::Tensor scale = weight.abs().amax(1, true);
  const LevelRule rule = stretched_rule(4, kSize * kSize);
  for (auto _ : state) {
    at::Tensor out = formula::levels(weight, scale, at::Tensor(), rule.grid) * scale;
    auto parts =
        formula::level_backward(weight, scale, at::Tensor(), gradient, rule.grid, rule.gradient);
    benchmark::DoNotOptimize(out.data_ptr());
    benchmark::DoNotOptimize(parts.groups.data_ptr());
  }
  count_weights(state);
}

BENCHMARK_CAPTURE(step, paretoq_1, "paretoq", {{"bits", "1"}});
BENCHMARK_CAPTURE(step, paretoq_2, "paretoq", {{"bits", "2"}});
BENCHMARK_CAPTURE(step, paretoq_2_g64, "paretoq", {{"bits", "2"}, {"group_size", "64"}});
BENCHMARK_CAPTURE(step, paretoq_4, "paretoq", {{"bits", "4"}});
BENCHMARK_CAPTURE(step, bitnet, "bitnet", {});
BENCHMARK_CAPTURE(step, efficientqat_2_g64, "efficientqat", {{"bits", "2"}});
BENCHMARK(formula_step);

}  // namespace
}  // namespace fewbit
