// A regular file mapped read-only into memory. Immutable after Open, hence thread-safe.
//
// The size is taken once, from the open file. If another process truncates the file while it is
// mapped, reading the lost part raises SIGBUS and ends this process: nothing inside the process can
// prevent that. Keep model files on a read-only mount, and replace them by renaming a new file over
// the old one, never by writing into them.
#ifndef ENGINE_LOAD_MAPPED_FILE_H_
#define ENGINE_LOAD_MAPPED_FILE_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace slim {

class MappedFile {
 public:
  // Maps the whole file. Symbolic links are followed (model stores use them). Every error names the
  // path: NOT_FOUND, PERMISSION_DENIED; INVALID_ARGUMENT for a directory, device, pipe or an empty
  // file; other codes as absl::ErrnoToStatus maps them.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // All bytes of the file; page-aligned, valid as long as this object lives.
  absl::string_view contents() const { return absl::string_view(data_, size_bytes_); }
  const std::string& path() const { return path_; }

  // Gives the whole pages inside [begin, begin + bytes) back to the kernel; partial pages at both
  // ends stay, since neighbours share them. Reading them again faults them back in with the same
  // contents. A range that is not inside the mapping is clipped.
  void ReleasePages(const void* begin, size_t bytes) const;

 private:
  MappedFile(std::string path, const char* data, size_t size_bytes)
      : path_(std::move(path)), data_(data), size_bytes_(size_bytes) {}

  const std::string path_;
  const char* const data_;
  const size_t size_bytes_;
};

}  // namespace slim

#endif  // ENGINE_LOAD_MAPPED_FILE_H_
