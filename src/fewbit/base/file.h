// Files: memory-mapped reading, and writing that leaves either the old file or the whole new one.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace fewbit {

// A file mapped read-only; copies share the mapping, which lives as long as any of them.
class MappedFile {
 public:
  // Errors name the path and the system's reason. An empty file has empty bytes().
  static MappedFile open(const std::filesystem::path& path);

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::shared_ptr<const void> mapping_;
  std::span<const std::byte> bytes_;
};

// Reads a whole small file. `max_bytes`: larger files are refused before anything is read.
std::string read_text_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 30);

// Writes to a temporary name beside `path`; commit() syncs and renames. Without commit() nothing
// is left behind; what a killed process of this machine left, the next writer of `path` removes.
// A full disk is an Error, and the old file stays.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  size_t bytes_written() const { return written_; }
  void commit();

 private:
  [[noreturn]] void fail_with_errno(const char* action) const;

  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
  size_t written_ = 0;
};

void write_file_atomically(const std::filesystem::path& path, std::string_view text);

// A directory that appears whole: files are written into a temporary sibling, commit() renames it
// to `path`. `path` must not exist, or be an empty directory, unless `replace`. Remains of killed
// writers as in AtomicFile.
class AtomicDirectory {
 public:
  AtomicDirectory(std::filesystem::path path, bool replace);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  // Where to write until commit().
  const std::filesystem::path& staging() const { return staging_; }
  void commit();

 private:
  void replace_in_two_steps();

  std::filesystem::path path_, staging_;
  bool replace_, committed_ = false;
};

// SHA-256 of bytes, or of a file's content, in lower-case hexadecimal.
std::string sha256_hex(std::span<const std::byte> bytes);
std::string sha256_hex(std::string_view text);
std::string sha256_file(const std::filesystem::path& path);

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace fewbit
