#include "fewbit/base/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fewbit {
namespace {

thread_local bool inside_parallel_for = false;

// How often a thread looks again before it sleeps. Decoders start a loop every few microseconds,
// and waking a sleeping thread takes longer than many of them; at some 20 ns a look this bridges
// such gaps, and costs little where no loop follows.
constexpr int kLooksBeforeSleep = 2000;

inline void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits a little for `condition`; whether it holds.
template <class Condition>
bool holds_soon(const Condition& condition) {
  for (int i = 0; i < kLooksBeforeSleep; ++i) {
    if (condition()) return true;
    pause_processor();
  }
  return false;
}

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
  std::atomic<size_t> helpers{0};  // Pool threads at work on it; changed under the pool's mutex.

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
      changes_.fetch_add(1);
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
      changes_.fetch_add(1);
    }
    wake_.notify_all();
    loop.run();
    {
      std::lock_guard lock(mutex_);
      std::erase(loops_, &loop);
      --at_work_;
      // The processor that this caller leaves may serve another one's loop.
      if (!loops_.empty()) {
        changes_.fetch_add(1);
        wake_.notify_one();
      }
    }
    // Nobody joins any more; a helper that has left does not touch the loop again.
    const auto alone = [&] { return loop.helpers.load() == 0; };
    if (holds_soon(alone)) return;
    std::unique_lock lock(mutex_);
    done_.wait(lock, alone);
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
      const auto wanted = [&] {
        loop = at_work_ < limit_ ? neediest() : nullptr;
        return stopping_ || loop;
      };
      if (!wanted()) {
        const uint64_t seen = changes_.load();
        lock.unlock();
        holds_soon([&] { return changes_.load() != seen; });
        lock.lock();
        wake_.wait(lock, wanted);
      }
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
  std::atomic<uint64_t> changes_{
      0};  // Of loops_ and at_work_, for those who look without the lock.
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
  Loop loop{count, body, {}, {}, {}, {}};
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
