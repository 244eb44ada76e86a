// The store of a study: one SQLite database (WAL) that holds the plan's jobs and their results.
//
// A job is reference (measure a checkpoint on a dataset), quantize (make a model, once) or measure
// (a quantized model on a dataset); each waits only for the jobs whose output it reads. A job's
// results and its state change in one transaction, so that a kill, a power loss or a full disk
// neither loses nor repeats a finished job. One process at a time owns a store (a lock beside it);
// within it any number of threads may call.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "fewbit/base/json.h"

namespace SQLite {
class Database;
}

namespace fewbit {

enum class JobKind { reference, quantize, measure };
enum class JobState { pending, running, done, failed };

std::string_view job_kind_name(JobKind kind);
std::string_view job_state_name(JobState state);

// What a job is. `key` is the SHA-256 of everything its result depends on: equal keys, equal job.
struct Job {
  int64_t id = 0;
  std::string key;
  JobKind kind = JobKind::reference;
  Json spec;                       // Checkpoint, recipe, seed, dataset: what the runner reads.
  std::vector<std::string> needs;  // Keys of the jobs that must be done first.
  JobState state = JobState::pending;
  std::string error;  // Why it failed.
};

// A finished job's outcome: `result` is the row that tables and laws read, `losses` the loss of
// every window (empty for quantize jobs).
struct JobResult {
  Json result;
  std::vector<double> losses;
  std::vector<double> counts;  // Scored tokens of every window.
};

class StudyStore {
 public:
  // The layout this version writes; another one in the file is an Error, never guessed at.
  static constexpr int kSchemaVersion = 1;

  // Opens or creates DIR/study.sqlite and takes the lock; Error if another process holds it.
  // Jobs that a killed process left running become pending again.
  static StudyStore open(const std::filesystem::path& directory);
  // Reads only, without the lock: for status, export and report while a study runs.
  static StudyStore open_read_only(const std::filesystem::path& directory);
  ~StudyStore();
  StudyStore(StudyStore&&) noexcept;

  // Adds the jobs that are not there yet; jobs that are keep their state. Failed ones become
  // pending again if `retry_failed`.
  void add_jobs(const std::vector<Job>& jobs, bool retry_failed);
  // Keys that the current plan no longer holds keep their results but are not run.
  void set_plan(const std::string& plan_text, const std::vector<std::string>& keys);
  std::string plan_text() const;

  // Quantize jobs that are done but whose model `exists` denies, while a measurement still needs
  // it, run again: a model is a cache, results are not.
  void reopen_lost_models(const std::function<bool(const std::string& key)>& exists);

  // A pending job of the plan whose needs are all done, now marked running; the lowest id first.
  std::optional<Job> take_ready_job();
  void finish(const Job& job, const JobResult& result);
  // Records the error; jobs that need this one fail with it.
  void fail_job(const Job& job, const std::string& error);
  // Back to pending: for a worker that was interrupted.
  void release(const Job& job);

  std::optional<JobResult> result(const std::string& key) const;
  // Jobs of the plan in id order.
  std::vector<Job> jobs() const;
  std::map<JobState, size_t> counts() const;
  // True if every job of the plan that needs `key` has ended.
  bool all_dependents_ended(const std::string& key) const;

  const std::filesystem::path& directory() const { return directory_; }

 private:
  StudyStore() = default;
  void create_or_check_schema();

  std::filesystem::path directory_;
  std::unique_ptr<SQLite::Database> database_;
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
  int lock_ = -1;
};

}  // namespace fewbit
