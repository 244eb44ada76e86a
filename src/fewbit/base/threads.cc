#include "fewbit/base/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fewbit {
namespace {

thread_local bool inside_parallel_for = false;

size_t default_thread_count() {
  if (const char* text = std::getenv("FEWBIT_THREADS")) {
    const long value = std::strtol(text, nullptr, 10);
    if (value > 0) return static_cast<size_t>(value);
  }
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
    return static_cast<size_t>(std::max(1, CPU_COUNT(&allowed)));
  }
  return std::max(1u, std::thread::hardware_concurrency());
}

// One loop in flight: workers take indices until none is left.
struct Loop {
  size_t count;
  const std::function<void(size_t)>& body;
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;

  void run() {
    inside_parallel_for = true;
    for (size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      try {
        body(i);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        next.store(count);
      }
    }
    inside_parallel_for = false;
  }
};

class Pool {
 public:
  ~Pool() { resize(0); }

  void run(Loop& loop, size_t helpers) {
    std::lock_guard one_loop_at_a_time(run_mutex_);
    if (workers_.size() != helpers) resize(helpers);
    {
      std::lock_guard lock(mutex_);
      loop_ = &loop;
      running_ = workers_.size();
      ++generation_;
    }
    wake_.notify_all();
    loop.run();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return running_ == 0; });
    loop_ = nullptr;
  }

 private:
  void resize(size_t helpers) {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    stopping_ = false;
    const uint64_t seen = generation_;
    for (size_t i = 0; i < helpers; ++i) workers_.emplace_back([this, seen] { work(seen); });
  }

  void work(uint64_t seen) {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
      Loop* loop = loop_;
      lock.unlock();
      loop->run();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex run_mutex_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  Loop* loop_ = nullptr;
  size_t running_ = 0;
  uint64_t generation_ = 0;
  bool stopping_ = false;
};

std::atomic<size_t>& configured_count() {
  static std::atomic<size_t> count{default_thread_count()};
  return count;
}

Pool& pool() {
  static Pool instance;
  return instance;
}

}  // namespace

size_t thread_count() { return configured_count().load(); }

void set_thread_count(size_t count) { configured_count().store(std::max<size_t>(1, count)); }

void parallel_for(size_t count, const std::function<void(size_t)>& body) {
  const size_t threads = thread_count();
  if (count <= 1 || threads == 1 || inside_parallel_for) {
    for (size_t i = 0; i < count; ++i) body(i);
    return;
  }
  Loop loop{count, body, {}, {}, {}};
  pool().run(loop, threads - 1);
  if (loop.failure) std::rethrow_exception(loop.failure);
}

void parallel_for_chunks(size_t count, size_t chunk,
                         const std::function<void(size_t, size_t)>& body) {
  chunk = std::max<size_t>(1, chunk);
  parallel_for((count + chunk - 1) / chunk,
               [&](size_t i) { body(i * chunk, std::min(count, (i + 1) * chunk)); });
}

}  // namespace fewbit
