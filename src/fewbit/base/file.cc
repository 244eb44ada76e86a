#include "fewbit/base/file.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <vector>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// Closes a descriptor at the end of a scope.
struct Descriptor {
  int value = -1;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

[[noreturn]] void fail_on(const std::filesystem::path& path, const char* action) {
  fail("{}: {}: {}", path.string(), action, std::strerror(errno));
}

void sync_directory_of(const std::filesystem::path& path) {
  const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
  Descriptor directory{::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  // Some file systems cannot sync a directory; the rename itself has succeeded.
  if (directory.value >= 0) (void)::fsync(directory.value);
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

// Whether a process of this machine has this number; a text that is no number names none.
bool process_lives(const std::string& number) {
  pid_t pid = 0;
  const char* end = number.data() + number.size();
  const auto [last, error] = std::from_chars(number.data(), end, pid);
  if (error != std::errc{} || last != end || pid <= 0) return false;
  return ::kill(pid, 0) == 0 || errno != ESRCH;
}

// A sibling of `path` that no other process uses. What killed processes of this machine left of
// the same path is removed.
std::filesystem::path temporary_sibling(const std::filesystem::path& path) {
  std::filesystem::path name = path.filename();
  if (name.empty()) name = path.parent_path().filename();
  const auto parent =
      path.filename().empty() ? path.parent_path().parent_path() : path.parent_path();
  const std::string prefix = fmt::format(".{}.tmp-{}-", name.string(), host_name());
  std::error_code error;
  std::vector<std::filesystem::path> left;
  for (std::filesystem::directory_iterator entry(parent.empty() ? "." : parent, error), end;
       !error && entry != end; entry.increment(error)) {
    const std::string other = entry->path().filename().string();
    if (!other.starts_with(prefix)) continue;
    const std::string pid = other.substr(prefix.size());
    if (!process_lives(pid.substr(0, pid.find('.')))) left.push_back(entry->path());
  }
  for (const auto& leftover : left) std::filesystem::remove_all(leftover, error);
  return parent / fmt::format("{}{}", prefix, ::getpid());
}

}  // namespace

MappedFile MappedFile::open(const std::filesystem::path& path) {
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.value < 0) fail_on(path, "cannot open");
  struct stat status {};
  if (::fstat(file.value, &status) != 0) fail_on(path, "cannot stat");
  require(S_ISREG(status.st_mode), "{}: not a regular file", path.string());
  MappedFile result;
  result.path_ = path;
  const size_t size = static_cast<size_t>(status.st_size);
  if (size == 0) return result;
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.value, 0);
  if (address == MAP_FAILED) fail_on(path, "cannot map");
  result.mapping_ = std::shared_ptr<const void>(
      address, [size](const void* p) { ::munmap(const_cast<void*>(p), size); });
  result.bytes_ = {static_cast<const std::byte*>(address), size};
  return result;
}

std::string read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  const MappedFile file = MappedFile::open(path);
  require(file.bytes().size() <= max_bytes, "{}: {} bytes; at most {} are accepted here",
          path.string(), file.bytes().size(), max_bytes);
  return std::string(as_text(file.bytes()));
}

AtomicFile::AtomicFile(std::filesystem::path path)
    : path_(std::move(path)), temporary_(temporary_sibling(path_)) {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_with_errno("cannot create");
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::fail_with_errno(const char* action) const { fail_on(path_, action); }

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      fail_with_errno("cannot write");
    }
    written_ += static_cast<size_t>(count);
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void AtomicFile::write(std::string_view text) { write(as_bytes(text)); }

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail_with_errno("cannot sync");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_with_errno("cannot rename into place");
  ::close(descriptor_);
  descriptor_ = -1;
  sync_directory_of(path_);
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

AtomicDirectory::AtomicDirectory(std::filesystem::path path, bool replace)
    : path_(std::move(path)), staging_(temporary_sibling(path_)), replace_(replace) {
  std::error_code ignored;
  if (!replace_ && std::filesystem::exists(path_, ignored)) {
    require(
        std::filesystem::is_directory(path_, ignored) && std::filesystem::is_empty(path_, ignored),
        "{}: exists already; name another place or ask for it to be replaced", path_.string());
  }
  std::filesystem::remove_all(staging_, ignored);
  std::error_code error;
  std::filesystem::create_directories(staging_, error);
  require(!error, "{}: cannot create: {}", staging_.string(), error.message());
}

AtomicDirectory::~AtomicDirectory() {
  if (committed_) return;
  std::error_code ignored;
  std::filesystem::remove_all(staging_, ignored);
}

void AtomicDirectory::commit() {
  // Exchanged in one step where the file system can; the old directory then has the staging name.
  if (::renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) == 0) {
    std::error_code ignored;
    std::filesystem::remove_all(staging_, ignored);
  } else {
    replace_in_two_steps();
  }
  committed_ = true;
  sync_directory_of(path_);
}

void AtomicDirectory::replace_in_two_steps() {
  std::error_code error;
  const bool replaces = std::filesystem::exists(path_, error);
  // The old directory steps aside first, so that a failure can put it back.
  const std::filesystem::path old = staging_.string() + ".old";
  if (replaces) {
    std::filesystem::rename(path_, old, error);
    require(!error, "{}: cannot be replaced: {}", path_.string(), error.message());
  }
  std::filesystem::rename(staging_, path_, error);
  if (error) {
    const std::string reason = error.message();
    if (replaces) std::filesystem::rename(old, path_, error);
    fail("{}: cannot rename into place: {}", path_.string(), reason);
  }
  if (replaces) std::filesystem::remove_all(old, error);
}

std::string sha256_hex(std::span<const std::byte> bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr) != 1) {
    throw std::logic_error("SHA-256 is not available in libcrypto");
  }
  std::string text;
  for (unsigned i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

std::string sha256_hex(std::string_view text) { return sha256_hex(as_bytes(text)); }

std::string sha256_file(const std::filesystem::path& path) {
  return sha256_hex(MappedFile::open(path).bytes());
}

}  // namespace fewbit
