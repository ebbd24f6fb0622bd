// The pinned host pool without a driver: chunks, errors that name the option, release.

#include <map>

#include "engine/backend/cuda/pinned_slabs.h"
#include "gmock/gmock.h"

namespace slim::cuda {
namespace {

using ::testing::HasSubstr;

// Remembers what is pinned; fails from a number of bytes on.
struct FakeDriver {
  std::map<void*, int64_t> pinned;
  int64_t limit = int64_t{1} << 40;
  int64_t total = 0;

  PinCalls calls() {
    PinCalls calls;
    calls.pin = [this](void* data, int64_t bytes) -> absl::Status {
      if (total + bytes > limit) return absl::ResourceExhaustedError("cudaHostRegister: no memory");
      pinned[data] = bytes;
      total += bytes;
      return absl::OkStatus();
    };
    calls.unpin = [this](void* data) { EXPECT_EQ(pinned.erase(data), 1u); };
    return calls;
  }
};

TEST(CudaPinnedSlabsTest, ChunksHoldWholeSlabsAndWholePages) {
  for (const int64_t stride : {64, 192, 8192, 262144, 1048640}) {
    const int64_t chunk = PinnedChunkBytes(stride);
    EXPECT_EQ(chunk % stride, 0) << stride;
    EXPECT_EQ(chunk % 4096, 0) << stride;
    EXPECT_LE(chunk, int64_t{1} << 30);
    EXPECT_GT(chunk, int64_t{1} << 29);
  }
}

TEST(CudaPinnedSlabsTest, PinsTheWholePoolAndReleasesIt) {
  FakeDriver driver;
  const int64_t stride = 262144, slabs = 10000;  // 2.4 GiB of addresses, none touched
  {
    auto memory = CreatePinnedSlabs(stride, slabs, int64_t{1} << 40, driver.calls());
    ASSERT_TRUE(memory.ok()) << memory.status();
    EXPECT_TRUE((*memory)->host_readable());
    EXPECT_EQ(driver.total, stride * slabs);
    char* next = (*memory)->base();
    for (const auto& [data, bytes] : driver.pinned) {
      EXPECT_EQ(data, next);  // ascending, without gaps
      next += bytes;
    }
    (*memory)->Fill((*memory)->base() + stride, 7, 3);
    EXPECT_EQ((*memory)->base()[stride + 2], 7);
    EXPECT_EQ((*memory)->base()[stride + 3], 0);
  }
  EXPECT_TRUE(driver.pinned.empty());
}

TEST(CudaPinnedSlabsTest, NamesTheOptionWhenMemoryIsShort) {
  FakeDriver driver;
  absl::Status status = CreatePinnedSlabs(4096, 1000, 1000000, driver.calls()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--kv_host_bytes"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("4096000"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("1000000"));
  EXPECT_EQ(driver.total, 0);

  driver.limit = int64_t{3} << 29;  // the second chunk fails
  status = CreatePinnedSlabs(262144, 10000, int64_t{1} << 40, driver.calls()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--kv_host_bytes"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("cudaHostRegister"));
  EXPECT_TRUE(driver.pinned.empty());  // the first chunk was released
}

}  // namespace
}  // namespace slim::cuda
