// Tokens per second and model FLOPs utilisation of training, against the best matrix product that
// this machine shows in the same run.
//
//   fewbit_train_throughput [--dtype f32 bf16] [--size d128 d256 d512] [--seconds 10] [--json]
//                           [--quantizer paretoq:bits=2 [--activations absmax:bits=8]]
//
// With a quantizer, plain and quantized steps take turns, so that a busy neighbour hits both, and
// the ratio of their medians is reported.
//
// Peak: a 1024-cube with all threads, the higher of oneDNN (plain and its own layout) and of what
// ATen calls for float32 (OpenBLAS). Model FLOPs per token: 6 per weight of a matrix product (the
// head included, the embedding not), and attention's products, of which a causal model needs
// 6 L d T; "mfu, full" counts them for all pairs of positions, as many papers do.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <ctime>
#include <functional>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>

#include "fewbit/base/error.h"
#include "fewbit/base/json.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/threads.h"
#include "fewbit/model/tensor_source.h"
#include "fewbit/train/gradient_step.h"
#include "fewbit/train/suite.h"
#include "fewbit/train/training_state.h"

namespace fewbit {
namespace {

struct Size {
  const char* name;
  size_t layers, hidden, heads, vocabulary;
};
// 0.8 M, 4.8 M and 25 M non-embedding parameters.
constexpr Size kSizes[] = {{"d32", 2, 32, 2, 256},
                           {"d64", 2, 64, 2, 256},
                           {"d128", 4, 128, 4, 256},
                           {"d256", 6, 256, 4, 4096},
                           {"d512", 8, 512, 8, 4096}};

struct Arguments {
  std::vector<std::string> dtypes = {"f32", "bf16"}, sizes = {"d128", "d256", "d512"};
  double seconds = 10;
  size_t context = 256, sequences = 16, shards = 4;
  std::string quantizer, activations;
  bool json = false;
};

// Seconds since construction: of the wall clock, or of processor time, which a busy neighbour does
// not take (with FEWBIT_THREADS=1: idle threads that spin count too).
class Timer {
 public:
  static inline bool processor_time = false;
  double seconds() const { return processor_time ? now() - start_ : clock_.seconds(); }

 private:
  static double now() {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }
  double start_ = now();
  Stopwatch clock_;
};

// Rate of the best of several rounds that last `seconds` in all.
double best_rate(double flops, double seconds, const std::function<void()>& work) {
  work();
  double best = 0;
  const Timer total;
  do {
    const Timer clock;
    work();
    best = std::max(best, flops / clock.seconds());
  } while (total.seconds() < seconds);
  return best;
}

double onednn_rate(dnnl::memory::data_type type, dnnl::memory::format_tag layout, double seconds) {
  constexpr dnnl::memory::dim kCube = 1024;
  using dnnl::memory;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const memory::desc plain({kCube, kCube}, type, memory::format_tag::ab);
  const memory::desc weights({kCube, kCube}, type, layout);
  const memory::desc out({kCube, kCube}, memory::data_type::f32, memory::format_tag::ab);
  const dnnl::matmul::primitive_desc description({plain, weights, out}, engine);
  const dnnl::matmul kernel(description);
  memory a(plain, engine), b(description.weights_desc(), engine), c(out, engine);
  return best_rate(2.0 * kCube * kCube * kCube, seconds, [&] {
    kernel.execute(stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}});
  });
}

struct Peaks {
  double openblas = 0, onednn = 0;
  double best() const { return std::max(openblas, onednn); }
};

Peaks measure_peaks(ops::MatmulDtype dtype, double seconds) {
  const int threads = static_cast<int>(thread_count());
  omp_set_num_threads(threads);
  at::set_num_threads(threads);
  const auto type = dtype == ops::MatmulDtype::bf16 ? dnnl::memory::data_type::bf16
                                                    : dnnl::memory::data_type::f32;
  Peaks peaks;
  for (const auto layout : {dnnl::memory::format_tag::ab, dnnl::memory::format_tag::any}) {
    peaks.onednn = std::max(peaks.onednn, onednn_rate(type, layout, seconds / 3));
  }
  if (dtype == ops::MatmulDtype::f32) {
    constexpr int64_t kCube = 1024;
    const at::Tensor a = at::rand({kCube, kCube}), b = at::rand({kCube, kCube});
    at::Tensor c = at::empty({kCube, kCube});
    peaks.openblas =
        best_rate(2.0 * kCube * kCube * kCube, seconds / 3, [&] { at::mm_out(c, a, b); });
  }
  return peaks;
}

struct FlopsPerToken {
  double products = 0, causal_attention = 0;
};

FlopsPerToken flops_per_token(const ModelSpec& spec, size_t context) {
  double weights = 0;
  for (const TensorSpec& tensor : model_tensors(spec)) {
    if (tensor.shape.size() == 2 && tensor.name != "embed.weight") {
      weights += static_cast<double>(tensor.shape[0] * tensor.shape[1]);
    }
  }
  if (spec.tied_head) weights += static_cast<double>(spec.vocab_size * spec.hidden_size);
  const auto attention = static_cast<double>(spec.blocks.size() * spec.heads * spec.head_size);
  return {6 * weights, 6 * attention * static_cast<double>(context)};
}

// A model under training, plain or under quantizers.
class Workload {
 public:
  Workload(const Decoder& decoder, ops::MatmulDtype dtype, const Arguments& arguments,
           const QuantizerOptions& quantizers)
      : state_(decoder.spec(), *random_tensors(decoder.spec(), 1)) {
    if (!quantizers.plan.empty()) state_.start_quantizers(quantizers);
    step_ = std::make_unique<GradientStep>(decoder, GradientOptions{arguments.shards, dtype},
                                           state_.tensors, &state_.quantizers);
  }

  void update(const TrainingBatch& batch) {
    if (state_.step == 0) step_->start_activations(batch);
    const Timer clock;
    const double loss = step_->run(batch);
    require(std::isfinite(loss), "the loss is {}", loss);
    adamw_step(state_.tensors, step_->gradients(), step_->norm(), 1e-3, state_.step++, {});
    constexpr uint64_t kWarmSteps = 2;
    if (state_.step > kWarmSteps) times_.push_back(clock.seconds());
  }

  double median_seconds() {
    const auto middle = times_.begin() + static_cast<std::ptrdiff_t>(times_.size() / 2);
    std::nth_element(times_.begin(), middle, times_.end());
    return *middle;
  }

 private:
  TrainingState state_;
  std::unique_ptr<GradientStep> step_;
  std::vector<double> times_;
};

// Seconds per update, medians; quantized is 0 without a quantizer.
struct StepSeconds {
  double plain = 0, quantized = 0;
};

StepSeconds seconds_per_step(const ModelSpec& spec, ops::MatmulDtype dtype,
                             const Arguments& arguments) {
  std::vector<int32_t> tokens(1 << 20);
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>((i * 2654435761u >> 7) % spec.vocab_size);
  }
  const Decoder decoder(spec, nullptr);
  DataOrder data(tokens, arguments.context, arguments.sequences, 0);
  Workload plain(decoder, dtype, arguments, {});
  std::optional<Workload> quantized;
  if (!arguments.quantizer.empty()) {
    quantized.emplace(
        decoder, dtype, arguments,
        QuantizerOptions{QuantizerPlan::parse(arguments.quantizer), arguments.activations});
  }
  const Timer total;
  constexpr uint64_t kMinSteps = 5;
  for (uint64_t i = 0; i < kMinSteps || total.seconds() < arguments.seconds; ++i) {
    const TrainingBatch batch = data.batch(i);
    plain.update(batch);
    if (quantized) quantized->update(batch);
  }
  return {plain.median_seconds(), quantized ? quantized->median_seconds() : 0};
}

void run(const Arguments& arguments) {
  Json report = {{"threads", thread_count()}, {"results", Json::array()}};
  if (!arguments.json) {
    fmt::print("{} threads, context {}, {} sequences per step in {} shards\n", thread_count(),
               arguments.context, arguments.sequences, arguments.shards);
  }
  for (const std::string& dtype_name : arguments.dtypes) {
    const auto dtype = dtype_name == "bf16" ? ops::MatmulDtype::bf16 : ops::MatmulDtype::f32;
    for (const std::string& name : arguments.sizes) {
      const Size* size = std::find_if(std::begin(kSizes), std::end(kSizes),
                                      [&](const Size& s) { return name == s.name; });
      require(size != std::end(kSizes), "unknown size '{}'", name);
      ModelSpec spec =
          llama_spec(size->layers, size->hidden, size->heads, 0, arguments.context, false);
      spec.vocab_size = size->vocabulary;
      // The machine's peak right before and after, so that a busy neighbour hits both.
      const Peaks before = measure_peaks(dtype, 1);
      const StepSeconds step = seconds_per_step(spec, dtype, arguments);
      const double seconds = step.plain;
      const Peaks after = measure_peaks(dtype, 1);
      const Peaks peak{std::max(before.openblas, after.openblas),
                       std::max(before.onednn, after.onednn)};
      const FlopsPerToken flops = flops_per_token(spec, arguments.context);
      const double rate = static_cast<double>(arguments.sequences * arguments.context) / seconds;
      const double mfu = rate * (flops.products + flops.causal_attention) / peak.best();
      const double mfu_full = rate * (flops.products + 2 * flops.causal_attention) / peak.best();
      report["results"].push_back({{"size", name},
                                   {"dtype", dtype_name},
                                   {"params", spec.non_embedding_params()},
                                   {"tokens_per_second", rate},
                                   {"mfu", mfu},
                                   {"mfu_full_attention", mfu_full},
                                   {"peak_openblas", peak.openblas},
                                   {"peak_onednn", peak.onednn}});
      if (step.quantized > 0) {
        report["results"].back()["quantizer"] = arguments.quantizer;
        report["results"].back()["quantized_over_plain"] = step.quantized / seconds;
      }
      if (!arguments.json) {
        fmt::print(
            "{:<5} {:<4} N {:>9}  {:>9.0f} tokens/s  mfu {:5.1f} % (full {:5.1f} %)  peak GFLOP/s: "
            "OpenBLAS {:.0f}, oneDNN {:.0f}\n",
            name, dtype_name, spec.non_embedding_params(), rate, 100 * mfu, 100 * mfu_full,
            peak.openblas / 1e9, peak.onednn / 1e9);
        if (step.quantized > 0) {
          fmt::print("      {} {}: {:.3f} times the plain step\n", arguments.quantizer,
                     arguments.activations, step.quantized / seconds);
        }
      }
    }
  }
  if (arguments.json) fmt::print("{}\n", report.dump(2));
}

}  // namespace
}  // namespace fewbit

int main(int argc, char** argv) {
  fewbit::Arguments arguments;
  CLI::App app{"Throughput of training"};
  app.add_option("--dtype", arguments.dtypes, "f32, bf16");
  app.add_option("--size", arguments.sizes, "d32, d64, d128, d256, d512");
  app.add_option("--seconds", arguments.seconds, "of training per size");
  app.add_option("--context", arguments.context);
  app.add_option("--sequences", arguments.sequences);
  app.add_option("--shards", arguments.shards);
  app.add_option("--quantizer", arguments.quantizer, "as in a suite");
  app.add_option("--activations", arguments.activations, "as in a suite");
  app.add_flag("--json", arguments.json);
  app.add_flag("--processor-time", fewbit::Timer::processor_time,
               "measure processor time; for FEWBIT_THREADS=1 on a busy machine");
  CLI11_PARSE(app, argc, argv);
  try {
    fewbit::run(arguments);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 2;
  }
  return 0;
}
