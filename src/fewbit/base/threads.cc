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

// A loop in flight: whoever works on it takes indices until none is left.
struct Loop {
  size_t count;
  const std::function<void(size_t)>& body;
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  size_t helpers = 0;  // Pool threads at work on it; guarded by the pool's mutex.

  bool has_indices_left() const { return next.load() < count; }

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

// Helpers for the loops of all callers. Several threads may have loops in flight; helpers join the
// one that has fewest of them, as long as fewer threads than the limit are at work.
class Pool {
 public:
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(Loop& loop, size_t limit) {
    {
      std::lock_guard lock(mutex_);
      while (workers_.size() + 1 < limit) workers_.emplace_back([this] { work(); });
      limit_ = limit;
      loops_.push_back(&loop);
      ++at_work_;
    }
    wake_.notify_all();
    loop.run();
    std::unique_lock lock(mutex_);
    std::erase(loops_, &loop);
    --at_work_;
    // The processor that this caller leaves may serve another one's loop.
    if (!loops_.empty()) wake_.notify_one();
    done_.wait(lock, [&] { return loop.helpers == 0; });
  }

 private:
  Loop* neediest() const {
    Loop* chosen = nullptr;
    for (Loop* loop : loops_) {
      if (loop->has_indices_left() && (!chosen || loop->helpers < chosen->helpers)) chosen = loop;
    }
    return chosen;
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      Loop* loop = nullptr;
      wake_.wait(lock, [&] {
        loop = at_work_ < limit_ ? neediest() : nullptr;
        return stopping_ || loop;
      });
      if (stopping_) return;
      ++loop->helpers;
      ++at_work_;
      lock.unlock();
      loop->run();
      lock.lock();
      --at_work_;
      if (--loop->helpers == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  std::vector<Loop*> loops_;
  size_t limit_ = 1, at_work_ = 0;
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
  Loop loop{count, body, {}, {}, {}, 0};
  pool().run(loop, threads);
  if (loop.failure) std::rethrow_exception(loop.failure);
}

void parallel_for_chunks(size_t count, size_t chunk,
                         const std::function<void(size_t, size_t)>& body) {
  chunk = std::max<size_t>(1, chunk);
  parallel_for((count + chunk - 1) / chunk,
               [&](size_t i) { body(i * chunk, std::min(count, (i + 1) * chunk)); });
}

}  // namespace fewbit
