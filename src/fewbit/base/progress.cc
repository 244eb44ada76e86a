#include "fewbit/base/progress.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>

namespace fewbit {
namespace {

std::atomic<bool> progress_enabled{true};

// Seconds between redraws on a terminal and between lines in a pipe.
constexpr double kTerminalInterval = 0.2, kPipeInterval = 10.0;

std::string format_seconds(double seconds) {
  const auto s = static_cast<uint64_t>(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  if (s >= 60) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}s", s);
}

std::string format_rate(double rate) {
  if (rate >= 1e6) return fmt::format("{:.2f}M", rate / 1e6);
  if (rate >= 1e3) return fmt::format("{:.1f}k", rate / 1e3);
  return fmt::format("{:.1f}", rate);
}

}  // namespace

uint64_t peak_resident_bytes() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;  // Linux counts kibibytes.
}

void set_progress_enabled(bool enabled) { progress_enabled.store(enabled); }

Progress::Progress(std::string label, uint64_t total, std::string unit, Mode mode)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      enabled_(mode == Mode::automatic && progress_enabled.load()),
      terminal_(::isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() { finish(); }

void Progress::advance(uint64_t count, const std::string& note) {
  std::lock_guard lock(mutex_);
  done_ += count;
  has_first_ = true;
  note_ = note;
  draw(false);
}

void Progress::set(uint64_t done, const std::string& note) {
  std::lock_guard lock(mutex_);
  // Work that a resumed run did not do itself must not inflate its rate.
  if (!has_first_) first_ = done;
  has_first_ = true;
  done_ = done;
  note_ = note;
  draw(false);
}

void Progress::finish() {
  std::lock_guard lock(mutex_);
  if (finished_) return;
  finished_ = true;
  if (drawn_ || terminal_) draw(true);
}

void Progress::draw(bool last) {
  if (!enabled_) return;
  const double now = clock_.seconds();
  if (!last && now - last_drawn_ < (terminal_ ? kTerminalInterval : kPipeInterval)) return;
  if (!terminal_ && !last && last_drawn_ < 0 && now < kPipeInterval) return;
  last_drawn_ = now;
  drawn_ = true;
  const double rate = now > 0 ? static_cast<double>(done_ - std::min(first_, done_)) / now : 0;
  std::string line = fmt::format("{}: {}/{} {}", label_, done_, total_, unit_);
  if (rate > 0) line += fmt::format(", {} {}/s", format_rate(rate), unit_);
  if (last) {
    line += fmt::format(", {}", format_seconds(now));
  } else if (rate > 0 && total_ > done_) {
    line += fmt::format(", {} left", format_seconds(static_cast<double>(total_ - done_) / rate));
  }
  if (!note_.empty()) line += ", " + note_;
  if (terminal_) {
    fmt::print(stderr, "\r\x1b[K{}{}", line, last ? "\n" : "");
  } else {
    fmt::print(stderr, "{}\n", line);
  }
  std::fflush(stderr);
}

}  // namespace fewbit
