#include "fewbit/network/gemm.h"

#include <ATen/Parallel.h>
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// Above this many multiply-adds, a product with a transposed right factor is faster through the
// blocked kernel than through sgemm (measured on Zen 4: 114 against 108 GFLOP/s; below it the
// kernel's fixed cost counts for more).
constexpr size_t kBlockedKernelWork = size_t{1} << 21;

using dnnl::memory;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

struct Key {
  GemmShape shape;
  bool bf16, bf16_out;
  friend bool operator==(const Key&, const Key&) = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    size_t hash = 0;
    const GemmShape& s = key.shape;
    for (const size_t value :
         {s.m, s.n, s.k, s.stride_a, s.stride_b, s.stride_c, size_t{s.transpose_a},
          size_t{s.transpose_b}, size_t{s.accumulate}, size_t{key.bf16}, size_t{key.bf16_out}}) {
      hash = hash * 0x9e3779b97f4a7c15ull + value;
    }
    return hash ^ (hash >> 32);
  }
};

memory::desc matrix(size_t rows, size_t cols, bool transposed, size_t stride,
                    memory::data_type type) {
  const auto r = static_cast<memory::dim>(rows), c = static_cast<memory::dim>(cols);
  const auto step = static_cast<memory::dim>(stride);
  return transposed ? memory::desc({r, c}, type, memory::dims{1, step})
                    : memory::desc({r, c}, type, memory::dims{step, 1});
}

// A generated kernel with its arguments.
class Kernel {
 public:
  explicit Kernel(const Key& key) {
    const GemmShape& s = key.shape;
    const auto type = key.bf16 ? memory::data_type::bf16 : memory::data_type::f32;
    const memory::desc a = matrix(s.m, s.k, s.transpose_a, s.stride_a, type);
    const memory::desc b = matrix(s.k, s.n, s.transpose_b, s.stride_b, type);
    const memory::desc c = matrix(s.m, s.n, false, s.stride_c,
                                  key.bf16_out ? memory::data_type::bf16 : memory::data_type::f32);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (s.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), attributes,
                                                   cpu_engine());
    kernel_ = dnnl::matmul(description);
    a_ = memory(a, cpu_engine(), DNNL_MEMORY_NONE);
    b_ = memory(b, cpu_engine(), DNNL_MEMORY_NONE);
    c_ = memory(c, cpu_engine(), DNNL_MEMORY_NONE);
    const memory scratch(description.scratchpad_desc(), cpu_engine());
    arguments_ = {{DNNL_ARG_SRC, a_},
                  {DNNL_ARG_WEIGHTS, b_},
                  {DNNL_ARG_DST, c_},
                  {DNNL_ARG_SCRATCHPAD, scratch}};
  }

  void run(dnnl::stream& stream, const void* a, const void* b, void* c) {
    a_.set_data_handle(const_cast<void*>(a));
    b_.set_data_handle(const_cast<void*>(b));
    c_.set_data_handle(c);
    kernel_.execute(stream, arguments_);
  }

 private:
  dnnl::primitive kernel_;
  memory a_, b_, c_;
  std::unordered_map<int, memory> arguments_;
};

// Evaluation meets a new shape with every length; a full cache begins anew.
constexpr size_t kKeptKernels = 512;

void run_kernel(const Key& key, const void* a, const void* b, void* c) {
  thread_local std::unordered_map<Key, Kernel, KeyHash> kernels;
  thread_local dnnl::stream stream(cpu_engine());
  auto found = kernels.find(key);
  if (found == kernels.end()) {
    if (kernels.size() >= kKeptKernels) kernels.clear();
    found = kernels.emplace(key, Kernel(key)).first;
  }
  found->second.run(stream, a, b, c);
}

// True if there is nothing to multiply: an empty sum is zero.
template <class C>
bool trivial(const GemmShape& shape, C* c) {
  if (shape.m == 0 || shape.n == 0) return true;
  if (shape.k > 0) return false;
  for (size_t row = 0; row < shape.m && !shape.accumulate; ++row) {
    std::fill_n(c + row * shape.stride_c, shape.n, C{});
  }
  return true;
}

}  // namespace

void gemm(const GemmShape& shape, const float* a, const float* b, float* c) {
  if (trivial(shape, c)) return;
  const SerialLibraries serial;
  if (shape.transpose_b && shape.m * shape.n * shape.k >= kBlockedKernelWork) {
    run_kernel({shape, false, false}, a, b, c);
    return;
  }
  const auto dim = [](size_t value) { return static_cast<dnnl_dim_t>(value); };
  const dnnl::status status =
      dnnl::sgemm(shape.transpose_a ? 'T' : 'N', shape.transpose_b ? 'T' : 'N', dim(shape.m),
                  dim(shape.n), dim(shape.k), 1.0f, a, dim(shape.stride_a), b, dim(shape.stride_b),
                  shape.accumulate ? 1.0f : 0.0f, c, dim(shape.stride_c));
  if (status != dnnl::status::success) throw std::logic_error("oneDNN refused a matrix product");
}

void gemm(const GemmShape& shape, const Bf16* a, const Bf16* b, float* c) {
  if (trivial(shape, c)) return;
  const SerialLibraries serial;
  run_kernel({shape, true, false}, a, b, c);
}

void gemm(const GemmShape& shape, const Bf16* a, const Bf16* b, Bf16* c) {
  if (trivial(shape, c)) return;
  const SerialLibraries serial;
  run_kernel({shape, true, true}, a, b, c);
}

SerialLibraries::SerialLibraries() {
  // ATen sets this thread's number of threads on its first use of them; that must be behind us.
  at::get_num_threads();
  threads_ = omp_get_max_threads();
  if (threads_ != 1) omp_set_num_threads(1);
}

SerialLibraries::~SerialLibraries() {
  if (threads_ != 1) omp_set_num_threads(threads_);
}

}  // namespace fewbit
