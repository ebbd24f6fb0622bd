#include "engine/load/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace slim {
namespace {

// Closes the descriptor when it goes out of scope; a mapping outlives its descriptor.
class ScopedFd {
 public:
  explicit ScopedFd(int fd) : fd_(fd) {}
  ~ScopedFd() {
    if (fd_ >= 0) ::close(fd_);
  }
  ScopedFd(const ScopedFd&) = delete;
  ScopedFd& operator=(const ScopedFd&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

int OpenReadOnly(const std::string& path) {
  int fd;
  do {
    // O_NONBLOCK: opening a pipe without a writer must be an error below, not a wait.
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  const std::string shown = absl::StrCat("file \"", absl::Utf8SafeCEscape(path), "\"");
  if (path.empty() || path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(shown, ": a path must not be empty nor contain a NUL byte"));
  }
  const ScopedFd fd(OpenReadOnly(path));
  if (fd.get() < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", shown));
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", shown));
  }
  if (S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(shown, " is a directory, not a regular file"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(shown, " is not a regular file"));
  }
  if (info.st_size <= 0) return absl::InvalidArgumentError(absl::StrCat(shown, " is empty"));
  const auto size_bytes = static_cast<size_t>(info.st_size);
  void* const data = ::mmap(nullptr, size_bytes, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED) {
    return absl::ErrnoToStatus(errno,
                               absl::StrCat("cannot map ", shown, " of ", size_bytes, " bytes"));
  }
  return std::unique_ptr<MappedFile>(
      new MappedFile(path, static_cast<const char*>(data), size_bytes));
}

MappedFile::~MappedFile() { ::munmap(const_cast<char*>(data_), size_bytes_); }

void MappedFile::ReleasePages(const void* begin, size_t bytes) const {
  static const auto page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto map_first = reinterpret_cast<uintptr_t>(data_);
  const uintptr_t map_last = map_first + size_bytes_;
  const uintptr_t first = std::clamp(reinterpret_cast<uintptr_t>(begin), map_first, map_last);
  // Clipped before the addition, which could wrap for a length from a caller's mistake.
  const uintptr_t last = first + std::min<uintptr_t>(bytes, map_last - first);
  const uintptr_t first_page = (first + page_bytes - 1) / page_bytes * page_bytes;
  // The last page of the file belongs to nobody else, so it may go even where it is partly filled.
  const uintptr_t last_page = last == map_last ? (last + page_bytes - 1) / page_bytes * page_bytes
                                               : last / page_bytes * page_bytes;
  if (first_page >= last_page) return;
  // A hint only: if the kernel refuses it, the pages merely stay.
  (void)::madvise(reinterpret_cast<void*>(first_page), last_page - first_page, MADV_DONTNEED);
}

}  // namespace slim
