#include "engine/backend/cpu/workspace.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

absl::Status NoMemory(int64_t bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes"));
}

}  // namespace

absl::StatusOr<Buffer> AllocateAligned(int64_t bytes) {
  if (bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot allocate ", bytes, " bytes"));
  }
  if (bytes > (int64_t{1} << 46)) return NoMemory(bytes);
  const int64_t wanted = std::max<int64_t>(bytes, 1);
  if (wanted < kHugePage) {
    const int64_t rounded = (wanted + 63) / 64 * 64;
    void* data = std::aligned_alloc(64, rounded);
    if (data == nullptr) return NoMemory(bytes);
    std::memset(data, 0, rounded);
    return Buffer(data, bytes, [](void* p) { std::free(p); });
  }
  // Mapped with room to align, so that whole huge pages fit.
  const int64_t mapped = (wanted + kHugePage - 1) / kHugePage * kHugePage + kHugePage;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return NoMemory(bytes);
  const auto address = reinterpret_cast<uintptr_t>(base);
  const uintptr_t aligned = (address + kHugePage - 1) / kHugePage * kHugePage;
  void* data = reinterpret_cast<void*>(aligned);
  // A hint: refused or unknown, the memory works all the same.
  (void)madvise(data, mapped - kHugePage, MADV_HUGEPAGE);
  return Buffer(data, bytes, [base, mapped](void*) { munmap(base, mapped); });
}

absl::StatusOr<void*> Scratch::Reserve(int64_t bytes) {
  if (buffer_.data() == nullptr || bytes > buffer_.bytes()) {
    buffer_ = Buffer();
    SLIM_ASSIGN_OR_RETURN(buffer_, AllocateAligned(bytes + bytes / 4));
  }
  return buffer_.data();
}

}  // namespace slim
