// Progress of long work: one line redrawn on a terminal, plain lines at intervals in a pipe.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

namespace fewbit {

// Wall-clock seconds since construction.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Largest resident set of this process so far, in bytes.
uint64_t peak_resident_bytes();

// Writes to standard error. A disabled one prints nothing. Thread-safe.
class Progress {
 public:
  enum class Mode { automatic, off };

  // `label`: what is done ("gptq"); `total` items of `unit` ("blocks").
  Progress(std::string label, uint64_t total, std::string unit, Mode mode = Mode::automatic);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `note` stands at the end of the line ("loss 3.21").
  void advance(uint64_t count, const std::string& note = "");
  void set(uint64_t done, const std::string& note = "");
  // Ends the line; the destructor does the same.
  void finish();

 private:
  void draw(bool last);

  std::mutex mutex_;
  std::string label_, unit_, note_;
  uint64_t total_, done_ = 0, first_ = 0;
  bool enabled_, terminal_, has_first_ = false, finished_ = false, drawn_ = false;
  Stopwatch clock_;
  double last_drawn_ = -1e9;
};

// Progress objects are silent while this is off (--quiet, --json, tests).
void set_progress_enabled(bool enabled);

}  // namespace fewbit
