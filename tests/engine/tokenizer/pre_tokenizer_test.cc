#include "engine/tokenizer/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/tokenizer/random_text.h"

namespace slim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Pieces = std::vector<std::string>;

std::unique_ptr<PreTokenizer> Make(absl::string_view name, bool allow_jit = true) {
  auto made = PreTokenizer::Create(name, allow_jit);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

Pieces Split(const PreTokenizer& pre_tokenizer, absl::string_view text) {
  Pieces pieces;
  const absl::Status status = pre_tokenizer.Split(
      text, [&](absl::string_view piece) { pieces.push_back(std::string(piece)); });
  EXPECT_TRUE(status.ok()) << status;
  return pieces;
}

TEST(PreTokenizerTest, SmolLmSplitsDigitsApartAndKeepsTheSpacesBeforeThem) {
  const auto smollm = Make("smollm");
  EXPECT_THAT(Split(*smollm, "I'll pay 42 €!"),
              ElementsAre("I", "'ll", " pay", " ", "4", "2", " €!"));
  EXPECT_THAT(Split(*smollm, "a   b  7\n\n"), ElementsAre("a", "  ", " b", "  ", "7", "\n\n"));
}

TEST(PreTokenizerTest, Gpt2KeepsNumbersWholeWithTheirSpace) {
  EXPECT_THAT(Split(*Make("gpt-2"), "It's 1234  x"), ElementsAre("It", "'s", " 1234", " ", " x"));
}

TEST(PreTokenizerTest, Llama3SplitsDigitsInThreesAndJoinsLineEnds) {
  const auto llama3 = Make("llama-bpe");
  EXPECT_TRUE(llama3->whole_piece_first());
  EXPECT_THAT(Split(*llama3, "HE'LL\n\n  12345 (x)!\n"),
              ElementsAre("HE", "'LL", "\n\n", " ", " ", "123", "45", " (", "x", ")!\n"));
}

TEST(PreTokenizerTest, Qwen2SplitsDigitsApart) {
  EXPECT_THAT(Split(*Make("qwen2"), "a 12\tb"), ElementsAre("a", " ", "1", "2", "\tb"));
}

TEST(PreTokenizerTest, AnUnknownNameIsNamedTogetherWithTheKnownOnes) {
  const absl::Status status = PreTokenizer::Create("viking").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("viking"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("smollm"));
  EXPECT_EQ(PreTokenizer::Create("").status().code(), absl::StatusCode::kUnimplemented);
}

TEST(PreTokenizerTest, TheInterpreterGivesTheSamePiecesAndTheyJoinToTheText) {
  std::mt19937 random(11);
  for (const char* name : {"smollm", "gpt-2", "llama-bpe", "qwen2"}) {
    const auto compiled = Make(name);
    const auto interpreted = Make(name, /*allow_jit=*/false);
    EXPECT_FALSE(interpreted->uses_jit());
    for (int round = 0; round < 300; ++round) {
      const std::string text = RandomText(&random, static_cast<int>(random() % 60));
      const Pieces pieces = Split(*compiled, text);
      EXPECT_EQ(pieces, Split(*interpreted, text)) << name;
      std::string joined;
      for (const std::string& piece : pieces) {
        EXPECT_FALSE(piece.empty());
        joined += piece;
      }
      EXPECT_EQ(joined, text) << name;
    }
  }
}

TEST(PreTokenizerTest, ARunOfAMebibyteIsNoErrorWithOrWithoutMachineCode) {
  for (const char* name : {"smollm", "gpt-2", "llama-bpe", "qwen2"}) {
    for (const bool allow_jit : {true, false}) {
      const auto pre_tokenizer = Make(name, allow_jit);
      for (const char c : {'A', ' ', '\n', '7', '!', '\''}) {
        const std::string text(1 << 20, c);
        size_t bytes = 0;
        const absl::Status status =
            pre_tokenizer->Split(text, [&](absl::string_view piece) { bytes += piece.size(); });
        EXPECT_TRUE(status.ok()) << name << " '" << c << "': " << status;
        EXPECT_EQ(bytes, text.size());
      }
      // Spaces with no line end after them make \s*[\r\n]+ go all the way back.
      const std::string text = "\n" + std::string(1 << 20, ' ') + "x";
      EXPECT_TRUE(pre_tokenizer->Split(text, [](absl::string_view) {}).ok()) << name;
    }
  }
}

}  // namespace
}  // namespace slim
