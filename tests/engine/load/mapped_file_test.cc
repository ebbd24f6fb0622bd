#include "engine/load/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/testing/gguf_writer.h"

namespace slim {
namespace {

using ::testing::HasSubstr;

void ExpectOpenError(const std::string& path, absl::StatusCode code, const std::string& text) {
  const auto file = MappedFile::Open(path);
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.status().code(), code) << file.status();
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(text));
}

// How many of the pages that hold `bytes` are in this process' memory, by /proc/self/smaps' Rss of
// the mapping that begins at `begin`, in KiB. -1 when it is not listed.
int64_t ResidentKib(const void* begin) {
  std::FILE* maps = std::fopen("/proc/self/smaps", "r");
  if (maps == nullptr) return -1;
  char line[1024];
  bool inside = false;
  int64_t result = -1;
  while (result < 0 && std::fgets(line, sizeof(line), maps) != nullptr) {
    uintptr_t first = 0;
    uintptr_t last = 0;
    long kib = 0;
    if (std::sscanf(line, "%lx-%lx ", &first, &last) == 2) {
      inside = first == reinterpret_cast<uintptr_t>(begin);
    } else if (inside && std::sscanf(line, "Rss: %ld kB", &kib) == 1) {
      result = kib;
    }
  }
  std::fclose(maps);
  return result;
}

TEST(MappedFileTest, GivesTheBytesOfTheFile) {
  const std::string path = WriteTempFile("bytes", std::string("a\0b\xff", 4));
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(std::string((*file)->contents()), std::string("a\0b\xff", 4));
  EXPECT_EQ((*file)->path(), path);
}

TEST(MappedFileTest, FollowsASymbolicLink) {
  const std::string path = WriteTempFile("target", "contents");
  const std::string link = path + ".link";
  ASSERT_EQ(::symlink(path.c_str(), link.c_str()), 0);
  const auto file = MappedFile::Open(link);
  ::unlink(link.c_str());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->contents(), "contents");
}

TEST(MappedFileTest, StaysReadableAfterTheNameIsGone) {
  const std::string path = WriteTempFile("unlinked", "contents");
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(::unlink(path.c_str()), 0);
  EXPECT_EQ((*file)->contents(), "contents");
}

TEST(MappedFileTest, MissingFileIsNotFound) {
  ExpectOpenError("/nonexistent/model.gguf", absl::StatusCode::kNotFound,
                  "/nonexistent/model.gguf");
}

TEST(MappedFileTest, DanglingLinkIsNotFound) {
  const std::string link = WriteTempFile("dangling", "x") + ".link";
  ASSERT_EQ(::symlink("/nonexistent/model.gguf", link.c_str()), 0);
  ExpectOpenError(link, absl::StatusCode::kNotFound, link);
  ::unlink(link.c_str());
}

TEST(MappedFileTest, DirectoryIsRefused) {
  ExpectOpenError("/tmp", absl::StatusCode::kInvalidArgument, "\"/tmp\" is a directory");
}

TEST(MappedFileTest, EmptyFileIsRefused) {
  const std::string path = WriteTempFile("empty", "");
  ExpectOpenError(path, absl::StatusCode::kInvalidArgument, path + "\" is empty");
}

TEST(MappedFileTest, DeviceIsRefused) {
  ExpectOpenError("/dev/zero", absl::StatusCode::kInvalidArgument, "not a regular file");
}

TEST(MappedFileTest, PipeIsRefusedWithoutWaitingForAWriter) {
  const std::string path = WriteTempFile("pipe", "x");
  ASSERT_EQ(::unlink(path.c_str()), 0);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  ExpectOpenError(path, absl::StatusCode::kInvalidArgument, "not a regular file");
}

TEST(MappedFileTest, NoPermissionIsSaid) {
  const std::string path = WriteTempFile("secret", "x");
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  // Root may read every file, so root becomes somebody else for a moment.
  const bool root = ::geteuid() == 0;
  if (root && ::seteuid(65534) != 0) GTEST_SKIP() << "cannot give up root's rights";
  ExpectOpenError(path, absl::StatusCode::kPermissionDenied, path);
  if (root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
}

TEST(MappedFileTest, EmptyPathAndNulInPathAreRefused) {
  ExpectOpenError("", absl::StatusCode::kInvalidArgument, "must not be empty");
  ExpectOpenError(std::string("/tmp/a\0b", 8), absl::StatusCode::kInvalidArgument, "NUL");
}

TEST(MappedFileTest, ControlCharactersOfAPathAreEscapedInTheMessage) {
  const auto file = MappedFile::Open("/nonexistent/\x1b[31m\nmodel");
  ASSERT_FALSE(file.ok());
  const std::string message(file.status().message());
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

TEST(MappedFileTest, ReleasedPagesLeaveMemoryAndComeBackUnchanged) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  std::string contents(16 * page + 5, '\0');
  for (size_t i = 0; i < contents.size(); ++i) contents[i] = static_cast<char>(i * 31 + i / page);
  const auto file = MappedFile::Open(WriteTempFile("pages", contents));
  ASSERT_TRUE(file.ok()) << file.status();
  const char* const data = (*file)->contents().data();
  ASSERT_EQ(std::string((*file)->contents()), contents);
  const int64_t before = ResidentKib(data);
  (*file)->ReleasePages(data, contents.size());
  const int64_t after = ResidentKib(data);
  if (before >= 0) {
    EXPECT_GT(before, 0);
    EXPECT_EQ(after, 0);
  }
  EXPECT_EQ(std::string((*file)->contents()), contents);
}

TEST(MappedFileTest, ReleaseKeepsPagesThatNeighboursShare) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const auto file = MappedFile::Open(WriteTempFile("shared", std::string(4 * page, 'x')));
  ASSERT_TRUE(file.ok()) << file.status();
  const char* const data = (*file)->contents().data();
  ASSERT_EQ(std::string((*file)->contents()), std::string(4 * page, 'x'));
  const int64_t before = ResidentKib(data);
  // Covers no whole page.
  (*file)->ReleasePages(data + 1, 2 * page - 2);
  EXPECT_EQ(ResidentKib(data), before);
  // Covers page 1 only.
  (*file)->ReleasePages(data + 1, 2 * page - 1);
  if (before > 0) {
    EXPECT_EQ(ResidentKib(data), before - static_cast<int64_t>(page / 1024));
  }
}

TEST(MappedFileTest, ReleaseClipsARangeOutsideTheMapping) {
  const auto file = MappedFile::Open(WriteTempFile("clip", "contents"));
  ASSERT_TRUE(file.ok()) << file.status();
  const char* const data = (*file)->contents().data();
  std::vector<char> other(100'000, 'o');
  (*file)->ReleasePages(other.data(), other.size());
  (*file)->ReleasePages(nullptr, SIZE_MAX);
  (*file)->ReleasePages(data, SIZE_MAX);
  (*file)->ReleasePages(data + 8, SIZE_MAX);
  EXPECT_EQ((*file)->contents(), "contents");
  EXPECT_EQ(other, std::vector<char>(100'000, 'o'));
}

}  // namespace
}  // namespace slim
