#include "server/output_processor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/load/gguf_reader.h"
#include "tests/testing/tiny_model.h"

namespace slim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class OutputProcessorTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto source = GgufReader::Parse(MakeTinyModel());
    ASSERT_TRUE(source.ok());
    auto made = Tokenizer::Create(**source);
    ASSERT_TRUE(made.ok());
    tokenizer_ = made->release();
  }
  static void TearDownTestSuite() {
    delete tokenizer_;
    tokenizer_ = nullptr;
  }

  void SetUp() override {
    stop_.end_tokens = {kTinyModelImEnd};
    stop_.max_tokens = 1000;
    response_.token_ids = true;
  }

  static int32_t Byte(char c) { return 3 + static_cast<unsigned char>(c); }
  static TokenLogprobs Logprobs(int32_t token) {
    TokenLogprobs logprobs;
    logprobs.token = token;
    return logprobs;
  }

  // Feeds the tokens until one ends the generation; what was shown is joined.
  void Feed(const std::vector<int32_t>& tokens, bool with_logprobs = false) {
    OutputProcessor processor(tokenizer_, stop_, response_);
    for (const int32_t token : tokens) {
      ASSERT_FALSE(last_.finished.has_value()) << "fed after the end";
      last_ = processor.Add(token, with_logprobs ? absl::make_optional(Logprobs(token))
                                                 : absl::optional<TokenLogprobs>());
      if (last_.delta.has_value()) {
        text_ += last_.delta->text;
        texts_.push_back(last_.delta->text);
        ids_.insert(ids_.end(), last_.delta->token_ids.begin(), last_.delta->token_ids.end());
        for (const TokenLogprobs& logprobs : last_.delta->logprobs) {
          logprob_ids_.push_back(logprobs.token);
        }
      }
    }
    completion_tokens_ = processor.completion_tokens();
  }
  std::vector<int32_t> Bytes(const std::string& text) const {
    std::vector<int32_t> tokens;
    for (const char c : text) tokens.push_back(Byte(c));
    return tokens;
  }

  static const Tokenizer* tokenizer_;
  StopRules stop_;
  ResponseOptions response_;
  OutputProcessor::Result last_;
  std::string text_;
  std::vector<std::string> texts_;
  std::vector<int32_t> ids_;
  std::vector<int32_t> logprob_ids_;
  int64_t completion_tokens_ = 0;
};

const Tokenizer* OutputProcessorTest::tokenizer_ = nullptr;

TEST_F(OutputProcessorTest, PlainTextComesTokenByToken) {
  Feed(Bytes("abc"));
  EXPECT_THAT(texts_, ElementsAre("a", "b", "c"));
  EXPECT_EQ(ids_, Bytes("abc"));
  EXPECT_FALSE(last_.finished.has_value());
}

TEST_F(OutputProcessorTest, ACharacterComesWholeWithAllItsTokens) {
  Feed(Bytes("\xF0\x9F\x98\x80!"));
  EXPECT_THAT(texts_, ElementsAre("\xF0\x9F\x98\x80", "!"));
  EXPECT_EQ(ids_.size(), 5u);
}

TEST_F(OutputProcessorTest, UnfinishedCharacterBecomesAReplacementAtTheEnd) {
  stop_.max_tokens = 3;
  Feed(Bytes("a\xF0\x9F"));
  EXPECT_EQ(text_, "a\xEF\xBF\xBD");
  EXPECT_EQ(last_.finished, FinishReason::kLength);
  EXPECT_EQ(ids_.size(), 3u);
}

TEST_F(OutputProcessorTest, EndTokenFlushesWhatWasHeldBack) {
  stop_.strings = {"END"};
  std::vector<int32_t> tokens = Bytes("xEN\xC3");
  tokens.push_back(kTinyModelImEnd);
  Feed(tokens);
  EXPECT_EQ(text_, "xEN\xEF\xBF\xBD");
  EXPECT_EQ(last_.finished, FinishReason::kStop);
  EXPECT_EQ(ids_, Bytes("xEN\xC3")) << "the end token is not shown";
  EXPECT_EQ(completion_tokens_, 5) << "but counted";
}

TEST_F(OutputProcessorTest, IgnoredEndTokenIsPassedOver) {
  stop_.ignore_end_tokens = true;
  Feed({Byte('a'), kTinyModelImEnd, Byte('b')});
  EXPECT_EQ(text_, "ab");
  EXPECT_THAT(ids_, ElementsAre(Byte('a'), kTinyModelImEnd, Byte('b')));
}

TEST_F(OutputProcessorTest, StopStringAcrossTokensIsHeldBackAndHidden) {
  stop_.strings = {"###"};
  Feed(Bytes("a#b##c###"), /*with_logprobs=*/true);
  EXPECT_EQ(text_, "a#b##c");
  EXPECT_THAT(texts_, ElementsAre("a", "#b", "##c"));
  EXPECT_EQ(last_.finished, FinishReason::kStop);
  EXPECT_EQ(last_.stop_match, "###");
  EXPECT_EQ(ids_, Bytes("a#b##c")) << "tokens of the hidden stop string are not delivered";
  EXPECT_EQ(logprob_ids_, ids_);
  EXPECT_EQ(completion_tokens_, 9);
}

TEST_F(OutputProcessorTest, IncludedStopStringIsShownWithItsTokens) {
  stop_.strings = {"END"};
  stop_.include_stop = true;
  Feed(Bytes("xEND"));
  EXPECT_EQ(text_, "xEND");
  EXPECT_EQ(ids_, Bytes("xEND"));
}

TEST_F(OutputProcessorTest, OfSeveralStopStringsTheFirstToCompleteWins) {
  stop_.strings = {"abcd", "bc"};
  Feed(Bytes("xabc"));
  EXPECT_EQ(text_, "xa");
  EXPECT_EQ(last_.stop_match, "bc");
}

TEST_F(OutputProcessorTest, StopTokenEndsAndIsShownOnlyWhereAskedFor) {
  stop_.token_ids = {Byte('!')};
  Feed(Bytes("hi!"));
  EXPECT_EQ(text_, "hi");
  EXPECT_EQ(last_.finished, FinishReason::kStop);
  EXPECT_EQ(last_.stop_match, "!");
  EXPECT_EQ(ids_, Bytes("hi"));
}

TEST_F(OutputProcessorTest, IncludedStopTokenIsShown) {
  stop_.token_ids = {Byte('!')};
  stop_.include_stop = true;
  Feed(Bytes("hi!"));
  EXPECT_EQ(text_, "hi!");
  EXPECT_EQ(ids_, Bytes("hi!"));
}

TEST_F(OutputProcessorTest, StopAtTheLastAllowedTokenIsAStop) {
  stop_.strings = {"c"};
  stop_.max_tokens = 3;
  Feed(Bytes("abc"));
  EXPECT_EQ(last_.finished, FinishReason::kStop);
}

TEST_F(OutputProcessorTest, LengthShowsWhatWasHeldBack) {
  stop_.strings = {"cde"};
  stop_.max_tokens = 4;
  Feed(Bytes("abcd"));
  EXPECT_EQ(last_.finished, FinishReason::kLength);
  EXPECT_EQ(text_, "abcd");
  EXPECT_EQ(ids_, Bytes("abcd"));
}

TEST_F(OutputProcessorTest, WithoutTextStopStringsStillWork) {
  response_.text = false;
  stop_.strings = {"END"};
  Feed(Bytes("xEND"));
  EXPECT_EQ(text_, "");
  EXPECT_EQ(last_.finished, FinishReason::kStop);
  EXPECT_EQ(ids_, Bytes("x"));
}

TEST_F(OutputProcessorTest, WithoutTextAndStopStringsIdsComeAtOnce) {
  response_.text = false;
  Feed(Bytes("\xF0\x9F"));
  EXPECT_THAT(texts_, ElementsAre("", ""));
  EXPECT_EQ(ids_.size(), 2u);
}

TEST_F(OutputProcessorTest, NothingToShowIsNoDelta) {
  response_.token_ids = false;
  stop_.strings = {"ab"};
  Feed(Bytes("a"));
  EXPECT_FALSE(last_.delta.has_value());
  EXPECT_THAT(ids_, IsEmpty());
}

TEST_F(OutputProcessorTest, TokensOutsideTheVocabularyHaveNoText) {
  Feed({Byte('a'), 1 << 20, -1, Byte('b')});
  EXPECT_EQ(text_, "ab");
  EXPECT_EQ(ids_.size(), 4u);
}

}  // namespace
}  // namespace slim
