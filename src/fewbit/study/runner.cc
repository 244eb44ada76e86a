#include "fewbit/study/runner.h"

#include <ATen/Parallel.h>

#include <atomic>
#include <condition_variable>
#include <thread>

#include "fewbit/base/error.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/log.h"
#include "fewbit/base/progress.h"
#include "fewbit/base/threads.h"
#include "fewbit/study/jobs.h"

namespace fewbit {
namespace {

// Workers wait at most this long for a job to become ready, so that an interrupt is noticed.
constexpr auto kPoll = std::chrono::milliseconds(100);

class Workers {
 public:
  Workers(const StudyPlan& plan, StudyStore& store, Progress& progress)
      : plan_(plan), store_(store), progress_(progress) {}

  void run(size_t count, int threads_each) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < count; ++i) {
      threads.emplace_back([this, threads_each] {
        at::set_num_threads(threads_each);
        work();
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (fault_) std::rethrow_exception(fault_);
    throw_if_interrupted();
  }

 private:
  void work() {
    try {
      while (!interrupted() && !stopped_) {
        const auto job = store_.take_ready_job();
        if (job) {
          ++running_;
          run_one(*job);
          --running_;
          changed_.notify_all();
        } else if (running_ == 0) {
          return;
        } else {
          std::unique_lock lock(mutex_);
          changed_.wait_for(lock, kPoll);
        }
      }
    } catch (...) {
      // The store itself failed (a full disk): all workers stop, what had finished is safe.
      std::lock_guard lock(mutex_);
      if (!fault_) fault_ = std::current_exception();
      stopped_ = true;
    }
  }

  void run_one(const Job& job) {
    try {
      const JobResult result = run_job(job, store_, plan_.batch_tokens);
      store_.finish(job, result);
    } catch (const Interrupted&) {
      store_.release(job);
      return;
    } catch (const std::exception& error) {
      store_.fail_job(job, error.what());
      warn("{} of {} failed: {}", job_kind_name(job.kind),
           job.spec.value("checkpoint", std::string()), error.what());
    }
    if (job.kind == JobKind::measure && !plan_.keep_models) remove_model_of(job);
    progress_.set(ended());
  }

  // A model that every measurement has read is no longer needed.
  void remove_model_of(const Job& job) {
    const std::string key = job.spec.at("model");
    if (!store_.all_dependents_ended(key)) return;
    std::error_code ignored;
    std::filesystem::remove_all(model_directory(store_, key), ignored);
  }

  uint64_t ended() {
    auto counts = store_.counts();
    return counts[JobState::done] + counts[JobState::failed];
  }

  const StudyPlan& plan_;
  StudyStore& store_;
  Progress& progress_;
  std::atomic<size_t> running_{0};
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::exception_ptr fault_;
};

// Models that a killed process left but whose quantize job must run again, or whose measurements
// have all ended, are removed; done jobs with pending measurements keep theirs.
void tidy_models(const StudyStore& store, bool keep_models) {
  const std::filesystem::path folder = store.directory() / "models";
  std::error_code error;
  std::map<std::string, const Job*> wanted;
  const auto jobs = store.jobs();
  for (const Job& job : jobs) {
    if (job.kind == JobKind::quantize && job.state == JobState::done &&
        (keep_models || !store.all_dependents_ended(job.key))) {
      wanted[model_directory(store, job.key).filename().string()] = &job;
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (!wanted.contains(entry.path().filename().string())) {
      std::filesystem::remove_all(entry.path(), error);
    }
  }
}

}  // namespace

std::map<JobState, size_t> run_study(const StudyPlan& plan, StudyStore& store,
                                     const StudyOptions& options) {
  const std::vector<Job> jobs = plan_jobs(plan);
  store.add_jobs(jobs, options.retry_failed);
  std::vector<std::string> keys;
  for (const Job& job : jobs) keys.push_back(job.key);
  store.set_plan(plan.text, keys);
  store.reopen_lost_models(
      [&](const std::string& key) { return std::filesystem::exists(model_directory(store, key)); });
  tidy_models(store, plan.keep_models);

  const size_t threads = thread_count();
  const size_t workers = std::max<size_t>(1, options.workers);
  const size_t threads_each = std::max<size_t>(1, threads / workers);
  set_thread_count(threads_each);
  Progress progress("study", jobs.size(), "jobs");
  auto counts = store.counts();
  progress.set(counts[JobState::done] + counts[JobState::failed]);
  // Job-level bars would overwrite the study's.
  set_progress_enabled(false);
  try {
    Workers(plan, store, progress).run(workers, static_cast<int>(threads_each));
  } catch (...) {
    set_progress_enabled(true);
    set_thread_count(threads);
    throw;
  }
  set_progress_enabled(true);
  set_thread_count(threads);
  progress.finish();
  return store.counts();
}

}  // namespace fewbit
