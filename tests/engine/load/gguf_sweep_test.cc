// Systematic damage: every prefix of a file and every single-byte change of its directory. The
// result is a status or a consistent reader, never a crash, and memory stays bounded by the file's
// size: this binary replaces operator new to see the largest request.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>

#include "engine/load/gguf_reader.h"
#include "tests/engine/load/exercise.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/tiny_model.h"

namespace {

std::atomic<size_t> g_largest_request_bytes{0};

void* CountedAllocate(size_t bytes) noexcept {
  size_t largest = g_largest_request_bytes.load(std::memory_order_relaxed);
  while (bytes > largest && !g_largest_request_bytes.compare_exchange_weak(largest, bytes)) {
  }
  return std::malloc(bytes == 0 ? 1 : bytes);
}

}  // namespace

void* operator new(size_t bytes) {
  void* const memory = CountedAllocate(bytes);
  if (memory == nullptr) std::abort();
  return memory;
}
void* operator new[](size_t bytes) { return operator new(bytes); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return CountedAllocate(bytes); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept {
  return CountedAllocate(bytes);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }

namespace slim {
namespace {

constexpr size_t kAllowedBesideFileBytes = size_t{16} << 20;

TinyModelOptions SmallOptions() {
  TinyModelOptions options;
  options.num_layers = 1;
  options.num_heads = 2;
  options.num_kv_heads = 1;
  options.ffn_width = 32;
  options.vocab_size = kTinyModelMinVocab + 10;
  options.weight_dtypes = {DType::kQ4_1, DType::kQ4_0, DType::kQ8_0,
                           DType::kF16,  DType::kBF16, DType::kF32};
  return options;
}

// Parses, reads everything when that worked, and checks the largest allocation. True: accepted.
bool Probe(const std::string& contents) {
  std::string copy = contents;
  g_largest_request_bytes = 0;
  const auto reader = GgufReader::Parse(std::move(copy));
  if (reader.ok()) ExerciseReader(**reader);
  EXPECT_LE(g_largest_request_bytes.load(), 2 * contents.size() + kAllowedBesideFileBytes);
  if (!reader.ok()) {
    EXPECT_FALSE(reader.status().message().empty());
    EXPECT_TRUE(reader.status().code() == absl::StatusCode::kInvalidArgument ||
                reader.status().code() == absl::StatusCode::kUnimplemented)
        << reader.status();
  }
  return reader.ok();
}

TEST(GgufSweepTest, EveryPrefixOfAFileIsRefused) {
  const std::string file = MakeTinyModel(SmallOptions());
  ASSERT_LE(file.size(), size_t{64} << 10);
  ASSERT_TRUE(Probe(file));
  for (size_t length = 0; length < file.size(); ++length) {
    ASSERT_FALSE(Probe(file.substr(0, length))) << length;
  }
}

TEST(GgufSweepTest, EverySingleByteOfTheDirectoryFlippedEightWays) {
  const GgufWriter writer = MakeTinyModelWriter(SmallOptions());
  std::string file = writer.Finish();
  const size_t header_bytes = writer.HeaderBytes();
  ASSERT_LT(header_bytes, file.size());
  int64_t accepted = 0;
  int64_t refused = 0;
  for (size_t position = 0; position < header_bytes; ++position) {
    for (int bit = 0; bit < 8; ++bit) {
      file[position] = static_cast<char>(file[position] ^ (1 << bit));
      ++(Probe(file) ? accepted : refused);
      file[position] = static_cast<char>(file[position] ^ (1 << bit));
    }
    ASSERT_FALSE(HasFailure()) << position;
  }
  // Changed letters of a string are sound, changed lengths and counts are not.
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(refused, 1000);
}

TEST(GgufSweepTest, ExtremeNumbersAtEveryPlaceOfTheDirectory) {
  // Only the table and the first pairs: the vocabulary in between repeats one pattern.
  GgufWriter writer;
  writer.AddString("general.architecture", "llama");
  writer.AddUint32("general.alignment", 32);
  writer.AddStrings("words", {"a", "bc"});
  writer.AddFloats("numbers", {1, 2, 3});
  writer.AddTensor("a", {32, 2}, DType::kF32, std::string(256, 'd'));
  writer.AddTensor("b", {32, 2}, DType::kQ4_1, std::string(40, 'd'));
  const std::string file = writer.Finish();
  for (size_t position = 0; position + 8 <= writer.HeaderBytes(); ++position) {
    for (const uint64_t value :
         {uint64_t{0}, uint64_t{1}, ~uint64_t{0}, uint64_t{1} << 63, uint64_t{1} << 32,
          (uint64_t{1} << 63) - 1, (uint64_t{1} << 61) + 1, ~uint64_t{0} - 31, uint64_t{1} << 24,
          uint64_t{file.size()}, uint64_t{65536}}) {
      std::string changed = file;
      changed.replace(position, sizeof(value), reinterpret_cast<const char*>(&value),
                      sizeof(value));
      Probe(changed);
    }
    ASSERT_FALSE(HasFailure()) << position;
  }
}

// The announced counts are as large as the file lets them be: the costliest input per byte.
TEST(GgufSweepTest, CountsThatJustFitTheFileStayWithinTheMemoryBound) {
  for (const bool tensors : {false, true}) {
    GgufWriter writer;
    if (tensors) writer.set_num_tensors(65536);
    if (!tensors) writer.set_num_pairs(65536);
    std::string file = writer.Finish();
    file.append(65536 * 40, '\0');
    EXPECT_FALSE(Probe(file));
  }
}

TEST(GgufSweepTest, OneMebibyteOfGarbageIsRefusedQuickly) {
  std::string file = GgufWriter().Finish();
  file.replace(8, 16, std::string("\xff\xff\0\0\0\0\0\0\xff\xff\0\0\0\0\0\0", 16));
  uint64_t state = 1;
  while (file.size() < (size_t{1} << 20)) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    file.push_back(static_cast<char>(state >> 56));
  }
  EXPECT_FALSE(Probe(file));
}

}  // namespace
}  // namespace slim
