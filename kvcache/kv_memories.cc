#include "kvcache/kv_memories.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace slim {
namespace {

class HostSlabs final : public SlabMemory {
 public:
  HostSlabs(void* base, int64_t bytes) : base_(static_cast<char*>(base)), bytes_(bytes) {}
  ~HostSlabs() override { munmap(base_, static_cast<size_t>(bytes_)); }
  char* base() const override { return base_; }
  bool host_readable() const override { return true; }
  void Fill(void* data, unsigned char value, int64_t bytes) override {
    std::memset(data, value, static_cast<size_t>(bytes));
  }

 private:
  char* const base_;
  const int64_t bytes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SlabMemory>> MapHostSlabs(int64_t bytes) {
  void* base = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot map ", bytes, " bytes for KV slabs: ", std::strerror(errno)));
  }
  // Only a hint: attention walks slabs in random order and gains from large pages.
  (void)madvise(base, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return std::unique_ptr<SlabMemory>(std::make_unique<HostSlabs>(base, bytes));
}

}  // namespace slim
