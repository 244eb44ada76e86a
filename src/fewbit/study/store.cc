#include "fewbit/study/store.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstring>
#include <set>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr const char* kSchema = R"sql(
CREATE TABLE job (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  spec TEXT NOT NULL,
  state TEXT NOT NULL,
  error TEXT NOT NULL DEFAULT '',
  in_plan INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX job_state ON job (state, in_plan);
CREATE TABLE need (
  job_key TEXT NOT NULL,
  needs_key TEXT NOT NULL,
  PRIMARY KEY (job_key, needs_key)
);
CREATE INDEX need_reverse ON need (needs_key);
CREATE TABLE result (
  key TEXT PRIMARY KEY,
  result TEXT NOT NULL,
  losses BLOB NOT NULL,
  counts BLOB NOT NULL,
  finished_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);
CREATE TABLE plan (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  text TEXT NOT NULL
);
)sql";

constexpr JobKind kKinds[] = {JobKind::reference, JobKind::quantize, JobKind::measure};
constexpr JobState kStates[] = {JobState::pending, JobState::running, JobState::done,
                                JobState::failed};

JobKind kind_from_name(std::string_view name) {
  for (JobKind kind : kKinds) {
    if (job_kind_name(kind) == name) return kind;
  }
  fail("study.sqlite: unknown job kind '{}'", name);
}

JobState state_from_name(std::string_view name) {
  for (JobState state : kStates) {
    if (job_state_name(state) == name) return state;
  }
  fail("study.sqlite: unknown job state '{}'", name);
}

// SQLite's exceptions become errors that name the store.
template <class Body>
decltype(auto) in_store(const std::filesystem::path& directory, Body&& body) {
  try {
    return body();
  } catch (const SQLite::Exception& error) {
    fail("{}: {}", (directory / "study.sqlite").string(), error.what());
  }
}

Job read_job(const SQLite::Statement& row) {
  Job job;
  job.id = row.getColumn(0).getInt64();
  job.key = row.getColumn(1).getString();
  job.kind = kind_from_name(row.getColumn(2).getString());
  job.spec = parse_json(row.getColumn(3).getString(), "study.sqlite: job");
  job.state = state_from_name(row.getColumn(4).getString());
  job.error = row.getColumn(5).getString();
  return job;
}

constexpr const char* kJobColumns = "id, key, kind, spec, state, error";

std::vector<double> read_doubles(const SQLite::Column& column) {
  std::vector<double> values(static_cast<size_t>(column.getBytes()) / sizeof(double));
  if (!values.empty()) std::memcpy(values.data(), column.getBlob(), values.size() * sizeof(double));
  return values;
}

void bind_doubles(SQLite::Statement& statement, int index, const std::vector<double>& values) {
  // An empty vector binds an empty blob, not NULL.
  statement.bind(index, values.empty() ? static_cast<const void*>("") : values.data(),
                 static_cast<int>(values.size() * sizeof(double)));
}

}  // namespace

std::string_view job_kind_name(JobKind kind) {
  switch (kind) {
    case JobKind::reference:
      return "reference";
    case JobKind::quantize:
      return "quantize";
    case JobKind::measure:
      return "measure";
  }
  return "";
}

std::string_view job_state_name(JobState state) {
  switch (state) {
    case JobState::pending:
      return "pending";
    case JobState::running:
      return "running";
    case JobState::done:
      return "done";
    case JobState::failed:
      return "failed";
  }
  return "";
}

StudyStore::StudyStore(StudyStore&& other) noexcept
    : directory_(std::move(other.directory_)),
      database_(std::move(other.database_)),
      mutex_(std::move(other.mutex_)),
      lock_(std::exchange(other.lock_, -1)) {}

StudyStore::~StudyStore() {
  database_.reset();
  if (lock_ >= 0) ::close(lock_);
}

StudyStore StudyStore::open(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  require(!error, "{}: cannot create: {}", directory.string(), error.message());
  StudyStore store;
  store.directory_ = directory;
  const std::filesystem::path lock_path = directory / "lock";
  store.lock_ = ::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  require(store.lock_ >= 0, "{}: cannot open: {}", lock_path.string(), std::strerror(errno));
  require(::flock(store.lock_, LOCK_EX | LOCK_NB) == 0, "{}: another process is running this study",
          directory.string());
  in_store(directory, [&] {
    store.database_ = std::make_unique<SQLite::Database>(
        (directory / "study.sqlite").string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
    store.database_->exec("PRAGMA journal_mode = WAL");
    store.database_->exec("PRAGMA synchronous = FULL");
    store.database_->setBusyTimeout(10000);
    store.create_or_check_schema();
    store.database_->exec("UPDATE job SET state = 'pending' WHERE state = 'running'");
  });
  return store;
}

StudyStore StudyStore::open_read_only(const std::filesystem::path& directory) {
  require(std::filesystem::exists(directory / "study.sqlite"),
          "{}: not a study (no study.sqlite in it)", directory.string());
  StudyStore store;
  store.directory_ = directory;
  in_store(directory, [&] {
    store.database_ = std::make_unique<SQLite::Database>((directory / "study.sqlite").string(),
                                                         SQLite::OPEN_READWRITE);
    store.database_->setBusyTimeout(10000);
    store.create_or_check_schema();
  });
  return store;
}

void StudyStore::create_or_check_schema() {
  const int version = database_->execAndGet("PRAGMA user_version").getInt();
  if (version == 0) {
    SQLite::Transaction transaction(*database_);
    database_->exec(kSchema);
    database_->exec(fmt::format("PRAGMA user_version = {}", kSchemaVersion));
    transaction.commit();
    return;
  }
  require(version == kSchemaVersion, "{}: schema version {}; this fewbit reads version {}",
          (directory_ / "study.sqlite").string(), version, kSchemaVersion);
}

void StudyStore::add_jobs(const std::vector<Job>& jobs, bool retry_failed) {
  std::lock_guard lock(*mutex_);
  in_store(directory_, [&] {
    SQLite::Transaction transaction(*database_);
    SQLite::Statement insert(*database_,
                             "INSERT INTO job (key, kind, spec, state) VALUES (?, ?, ?, 'pending') "
                             "ON CONFLICT (key) DO NOTHING");
    SQLite::Statement need(*database_, "INSERT INTO need VALUES (?, ?) ON CONFLICT DO NOTHING");
    for (const Job& job : jobs) {
      insert.bind(1, job.key);
      insert.bind(2, std::string(job_kind_name(job.kind)));
      insert.bind(3, job.spec.dump());
      insert.exec();
      insert.reset();
      for (const std::string& needed : job.needs) {
        need.bind(1, job.key);
        need.bind(2, needed);
        need.exec();
        need.reset();
      }
    }
    if (retry_failed) {
      database_->exec("UPDATE job SET state = 'pending', error = '' WHERE state = 'failed'");
    }
    transaction.commit();
  });
}

void StudyStore::set_plan(const std::string& plan_text, const std::vector<std::string>& keys) {
  std::lock_guard lock(*mutex_);
  in_store(directory_, [&] {
    SQLite::Transaction transaction(*database_);
    SQLite::Statement plan(*database_, "INSERT OR REPLACE INTO plan VALUES (1, ?)");
    plan.bind(1, plan_text);
    plan.exec();
    database_->exec("UPDATE job SET in_plan = 0");
    SQLite::Statement mark(*database_, "UPDATE job SET in_plan = 1 WHERE key = ?");
    for (const std::string& key : keys) {
      mark.bind(1, key);
      mark.exec();
      mark.reset();
    }
    transaction.commit();
  });
}

std::string StudyStore::plan_text() const {
  std::lock_guard lock(*mutex_);
  return in_store(directory_, [&]() -> std::string {
    SQLite::Statement query(*database_, "SELECT text FROM plan");
    return query.executeStep() ? query.getColumn(0).getString() : std::string();
  });
}

void StudyStore::reopen_lost_models(const std::function<bool(const std::string& key)>& exists) {
  for (const Job& job : jobs()) {
    if (job.kind != JobKind::quantize || job.state != JobState::done) continue;
    if (all_dependents_ended(job.key) || exists(job.key)) continue;
    std::lock_guard lock(*mutex_);
    in_store(directory_, [&] {
      SQLite::Transaction transaction(*database_);
      for (const char* text :
           {"DELETE FROM result WHERE key = ?", "UPDATE job SET state = 'pending' WHERE key = ?"}) {
        SQLite::Statement statement(*database_, text);
        statement.bind(1, job.key);
        statement.exec();
      }
      transaction.commit();
    });
  }
}

std::optional<Job> StudyStore::take_ready_job() {
  std::lock_guard lock(*mutex_);
  return in_store(directory_, [&]() -> std::optional<Job> {
    SQLite::Transaction transaction(*database_);
    SQLite::Statement query(
        *database_,
        fmt::format("SELECT {} FROM job WHERE state = 'pending' AND in_plan = 1 AND NOT EXISTS ("
                    "SELECT 1 FROM need LEFT JOIN job AS other ON other.key = need.needs_key "
                    "WHERE need.job_key = job.key AND other.state IS NOT 'done') "
                    "ORDER BY id LIMIT 1",
                    kJobColumns));
    if (!query.executeStep()) return std::nullopt;
    Job job = read_job(query);
    query.reset();
    SQLite::Statement update(*database_, "UPDATE job SET state = 'running' WHERE id = ?");
    update.bind(1, job.id);
    update.exec();
    SQLite::Statement needs(*database_, "SELECT needs_key FROM need WHERE job_key = ?");
    needs.bind(1, job.key);
    while (needs.executeStep()) job.needs.push_back(needs.getColumn(0).getString());
    transaction.commit();
    job.state = JobState::running;
    return job;
  });
}

void StudyStore::finish(const Job& job, const JobResult& result) {
  std::lock_guard lock(*mutex_);
  in_store(directory_, [&] {
    SQLite::Transaction transaction(*database_);
    SQLite::Statement insert(
        *database_, "INSERT INTO result (key, result, losses, counts) VALUES (?, ?, ?, ?)");
    insert.bind(1, job.key);
    insert.bind(2, result.result.dump());
    bind_doubles(insert, 3, result.losses);
    bind_doubles(insert, 4, result.counts);
    insert.exec();
    SQLite::Statement update(*database_, "UPDATE job SET state = 'done', error = '' WHERE key = ?");
    update.bind(1, job.key);
    update.exec();
    transaction.commit();
  });
}

void StudyStore::fail_job(const Job& job, const std::string& error) {
  std::lock_guard lock(*mutex_);
  in_store(directory_, [&] {
    SQLite::Transaction transaction(*database_);
    SQLite::Statement update(
        *database_, "UPDATE job SET state = 'failed', error = ? WHERE key = ? AND state != 'done'");
    SQLite::Statement dependents(*database_, "SELECT job_key FROM need WHERE needs_key = ?");
    std::vector<std::pair<std::string, std::string>> failing = {{job.key, error}};
    std::set<std::string> seen;
    while (!failing.empty()) {
      const auto [key, reason] = failing.back();
      failing.pop_back();
      if (!seen.insert(key).second) continue;
      update.bind(1, reason);
      update.bind(2, key);
      update.exec();
      update.reset();
      dependents.bind(1, key);
      while (dependents.executeStep()) {
        failing.emplace_back(dependents.getColumn(0).getString(),
                             reason.starts_with("needs: ") ? reason : "needs: " + reason);
      }
      dependents.reset();
    }
    transaction.commit();
  });
}

void StudyStore::release(const Job& job) {
  std::lock_guard lock(*mutex_);
  in_store(directory_, [&] {
    SQLite::Statement update(
        *database_, "UPDATE job SET state = 'pending' WHERE key = ? AND state = 'running'");
    update.bind(1, job.key);
    update.exec();
  });
}

std::optional<JobResult> StudyStore::result(const std::string& key) const {
  std::lock_guard lock(*mutex_);
  return in_store(directory_, [&]() -> std::optional<JobResult> {
    SQLite::Statement query(*database_, "SELECT result, losses, counts FROM result WHERE key = ?");
    query.bind(1, key);
    if (!query.executeStep()) return std::nullopt;
    return JobResult{parse_json(query.getColumn(0).getString(), "study.sqlite: result"),
                     read_doubles(query.getColumn(1)), read_doubles(query.getColumn(2))};
  });
}

std::vector<Job> StudyStore::jobs() const {
  std::lock_guard lock(*mutex_);
  return in_store(directory_, [&] {
    std::map<std::string, std::vector<std::string>> needs;
    SQLite::Statement need(*database_, "SELECT job_key, needs_key FROM need");
    while (need.executeStep()) {
      needs[need.getColumn(0).getString()].push_back(need.getColumn(1).getString());
    }
    std::vector<Job> jobs;
    SQLite::Statement query(
        *database_, fmt::format("SELECT {} FROM job WHERE in_plan = 1 ORDER BY id", kJobColumns));
    while (query.executeStep()) {
      jobs.push_back(read_job(query));
      jobs.back().needs = needs[jobs.back().key];
    }
    return jobs;
  });
}

std::map<JobState, size_t> StudyStore::counts() const {
  std::lock_guard lock(*mutex_);
  return in_store(directory_, [&] {
    std::map<JobState, size_t> counts;
    SQLite::Statement query(*database_,
                            "SELECT state, COUNT(*) FROM job WHERE in_plan = 1 GROUP BY state");
    while (query.executeStep()) {
      counts[state_from_name(query.getColumn(0).getString())] =
          static_cast<size_t>(query.getColumn(1).getInt64());
    }
    return counts;
  });
}

bool StudyStore::all_dependents_ended(const std::string& key) const {
  std::lock_guard lock(*mutex_);
  return in_store(directory_, [&] {
    SQLite::Statement query(
        *database_,
        "SELECT COUNT(*) FROM need JOIN job ON job.key = need.job_key "
        "WHERE need.needs_key = ? AND job.in_plan = 1 AND job.state IN ('pending', 'running')");
    query.bind(1, key);
    query.executeStep();
    return query.getColumn(0).getInt64() == 0;
  });
}

}  // namespace fewbit
