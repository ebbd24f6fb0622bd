// Replays the inputs the fuzzer found worth keeping (tests/data/gguf_corpus, minimised by
// `gguf_fuzz -merge=1`): every one is a distinct path through the reader. An input that ever
// broke the reader belongs there too.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "engine/load/gguf_reader.h"
#include "tests/engine/load/exercise.h"

namespace slim {
namespace {

TEST(GgufCorpusTest, EveryInputIsRefusedOrConsistent) {
  int accepted = 0;
  int refused = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SLIM_TEST_DATA "/gguf_corpus")) {
    SCOPED_TRACE(entry.path().string());
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string contents((std::istreambuf_iterator<char>(file)),
                               std::istreambuf_iterator<char>());
    const auto from_memory = GgufReader::Parse(contents);
    if (from_memory.ok()) ExerciseReader(**from_memory);
    ++(from_memory.ok() ? accepted : refused);
    // A mapped file must be judged alike; an empty one does not get that far.
    if (contents.empty()) continue;
    const auto from_file = GgufReader::Open(entry.path().string());
    EXPECT_EQ(from_file.status().code(), from_memory.status().code());
    if (from_file.ok()) ExerciseReader(**from_file);
  }
  EXPECT_GT(accepted, 10);
  EXPECT_GT(refused, 10);
}

}  // namespace
}  // namespace slim
