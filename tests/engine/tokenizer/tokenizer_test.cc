#include "engine/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/base/utf8.h"
#include "tests/engine/tokenizer/random_text.h"
#include "tests/engine/tokenizer/vocabulary_fixture.h"

namespace slim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;
using Strings = std::vector<std::string>;
using Ints = std::vector<int64_t>;

std::unique_ptr<Tokenizer> Make(const FakeTensorSource& source) {
  auto made = Tokenizer::Create(source);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

TEST(TokenizerTest, TextGoesThereAndBack) {
  const auto tokenizer = Make(SmallVocabulary());
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    const std::string text = RandomText(&random, static_cast<int>(random() % 50));
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(tokenizer->Decode(*ids), text);
    for (const int32_t id : *ids) EXPECT_FALSE(tokenizer->IsControl(id));
  }
  EXPECT_THAT(*tokenizer->Encode(""), ElementsAre());
}

TEST(TokenizerTest, SpecialStringsInTextAreOrdinaryText) {
  FakeTensorSource source = SmallVocabulary();
  AddToken(&source, "<tool_call>", 4);
  AddToken(&source, "<unk>", 2);
  const auto tokenizer = Make(source);
  for (const char* text : {"<|im_start|>", "x<|im_end|>y", "<|endoftext|>", "<tool_call>", "<unk>",
                           "<|im_<|im_start|>start|>"}) {
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok());
    for (const int32_t id : *ids) {
      EXPECT_EQ(tokenizer->vocabulary().Kind(id), TokenKind::kNormal) << text;
    }
    EXPECT_EQ(tokenizer->Decode(*ids), text);
  }
}

TEST(TokenizerTest, TrustedTextIsCutAtTheLeftmostThenLongestSpecialToken) {
  FakeTensorSource source = SmallVocabulary();
  const int32_t longer = AddToken(&source, "<|im_end|>!", 3);
  const auto tokenizer = Make(source);
  EXPECT_THAT(*tokenizer->EncodeWithSpecial("<|im_end|><|im_end|>!"),
              ElementsAre(kTinyModelImEnd, longer));
  const Ids expected = {3 + 'q', kTinyModelImStart, 3 + '<', 3 + '|'};
  EXPECT_EQ(*tokenizer->EncodeWithSpecial("q<|im_start|><|"), expected);
}

TEST(TokenizerTest, PiecesBecomeControlTokensOnlyWhereMarked) {
  const auto tokenizer = Make(SmallVocabulary());
  const auto ids = tokenizer->EncodePieces(
      {PromptPiece{"<|im_start|>", true}, PromptPiece{"he", false}, PromptPiece{"llo", false},
       PromptPiece{"<|im_end|>", true}, PromptPiece{"<|im_end|>", false}});
  ASSERT_TRUE(ids.ok()) << ids.status();
  Ids expected = {kTinyModelImStart};
  const auto append = [&](const char* text) {
    const Ids some = *tokenizer->Encode(text);
    expected.insert(expected.end(), some.begin(), some.end());
  };
  append("hello");  // neighbouring pieces are one text
  expected.push_back(kTinyModelImEnd);
  append("<|im_end|>");
  EXPECT_EQ(*ids, expected);
  for (const char* name : {"<|no_such|>", "e", ""}) {
    EXPECT_EQ(tokenizer->EncodePieces({PromptPiece{name, true}}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(TokenizerTest, InvalidUtf8IsRefusedWithItsPlace) {
  const auto tokenizer = Make(SmallVocabulary());
  for (const std::string bad : {"abc\xFF", "abc\xE2\x82", "abc\xED\xA0\x80", "abc\xC0\xAF"}) {
    for (const absl::Status& status :
         {tokenizer->Encode(bad).status(), tokenizer->EncodeWithSpecial(bad).status(),
          tokenizer->EncodePieces({PromptPiece{bad, false}}).status()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()), HasSubstr("byte 3"));
    }
  }
}

TEST(TokenizerTest, ATextThatIsTooLongIsRefusedUnread) {
  const auto tokenizer = Make(SmallVocabulary());
  const char byte = 'x';
  // Lengths that no buffer has: looking at the text would crash.
  for (const size_t length : {size_t{kMaxEncodeBytes} + 1, size_t{1} << 31, size_t{1} << 62}) {
    const absl::string_view text(&byte, length);
    EXPECT_EQ(tokenizer->Encode(text).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(tokenizer->EncodeWithSpecial(text).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(TokenizerTest, IdsThatAreNoTokensDecodeToNothing) {
  const auto tokenizer = Make(SmallVocabulary());
  const auto size = static_cast<int32_t>(tokenizer->vocab_size());
  for (const int32_t id : {-1, size, size + 1, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    EXPECT_FALSE(tokenizer->IsControl(id));
    EXPECT_EQ(tokenizer->Decode({3 + 'a', id, 3 + 'b'}), "ab");
  }
  EXPECT_EQ(tokenizer->Decode({kTinyModelImStart, 3 + 'a', 3 + 0xFF}), "a\xEF\xBF\xBD");
}

TEST(TokenizerTest, BytesWithoutATokenAreLeftOutAndSeparateTheirNeighbours) {
  FakeTensorSource source;
  source.Set("tokenizer.ggml.model", std::string("gpt2"));
  source.Set(kTokens, Strings{"a", "b", "ab"});
  source.Set(kMerges, Strings{"a b"});
  const auto tokenizer = Make(source);
  EXPECT_THAT(*tokenizer->Encode("ab"), ElementsAre(2));
  EXPECT_THAT(*tokenizer->Encode("azb"), ElementsAre(0, 1));
  EXPECT_TRUE(tokenizer->end_tokens().empty());
  EXPECT_FALSE(tokenizer->bos_token().has_value());
}

TEST(TokenizerTest, WholePiecesGoBeforeMergesForLlama3) {
  FakeTensorSource source;
  source.Set("tokenizer.ggml.model", std::string("gpt2"));
  source.Set("tokenizer.ggml.pre", std::string("llama-bpe"));
  source.Set(kTokens, Strings{"a", "b", "c", "ab", "bc", "abc", "cab"});
  source.Set(kTypes, Ints{1, 1, 1, 1, 1, 1, 3});
  source.Set(kMerges, Strings{"b c"});  // abc cannot be reached by merges
  EXPECT_THAT(*Make(source)->Encode("abc"), ElementsAre(5));
  EXPECT_THAT(*Make(source)->Encode("cab"), ElementsAre(2, 0, 1));  // a control token is no word
  source.Set("tokenizer.ggml.pre", std::string("gpt-2"));
  EXPECT_THAT(*Make(source)->Encode("abc"), ElementsAre(0, 4));
}

TEST(TokenizerTest, EndTokensAreThoseNamedAndTheKnownControlTokens) {
  FakeTensorSource source = SmallVocabulary();
  const int32_t turn = AddToken(&source, "<turn>", 3);
  AddToken(&source, "</s>", 1);  // not a control token: does not count
  source.Set("tokenizer.ggml.eot_token_id", int64_t{turn});
  EXPECT_THAT(Make(source)->end_tokens(), ElementsAre(kTinyModelEndOfText, kTinyModelImEnd, turn));
}

TEST(TokenizerTest, AddBosFollowsTheFlagOfTheFile) {
  FakeTensorSource source = SmallVocabulary();
  EXPECT_FALSE(Make(source)->adds_bos());
  source.Set("tokenizer.ggml.add_bos_token", true);
  EXPECT_TRUE(Make(source)->adds_bos());
  source.Remove("tokenizer.ggml.bos_token_id");
  EXPECT_EQ(Tokenizer::Create(source).status().code(), absl::StatusCode::kInvalidArgument);
  source = SmallVocabulary();
  source.Set("tokenizer.ggml.pre", std::string("llama3"));
  EXPECT_TRUE(Make(source)->adds_bos());
}

TEST(TokenizerTest, ByteTokensAndLiteralTokensStandForTheirBytes) {
  FakeTensorSource source = SmallVocabulary();
  const int32_t byte = AddToken(&source, "<0xfE>", 6);
  const int32_t literal = AddToken(&source, "two words", 4);
  const int32_t outside = AddToken(&source, "\xE2\x98\x83 ", 1);  // not in the byte alphabet
  const auto tokenizer = Make(source);
  EXPECT_EQ(tokenizer->TokenBytes(byte), "\xFE");
  EXPECT_EQ(tokenizer->TokenBytes(literal), "two words");
  EXPECT_EQ(tokenizer->TokenBytes(outside), "\xE2\x98\x83 ");
}

// Vocabularies that are broken in one place.

struct Damage {
  const char* name;
  void (*apply)(FakeTensorSource*);
  absl::StatusCode code;
  const char* message;  // part of it
};

const Damage kDamages[] = {
    {"NoModel", [](FakeTensorSource* s) { s->Remove("tokenizer.ggml.model"); },
     absl::StatusCode::kNotFound, "tokenizer.ggml.model"},
    {"SentencePiece",
     [](FakeTensorSource* s) { s->Set("tokenizer.ggml.model", std::string("llama")); },
     absl::StatusCode::kUnimplemented, "SentencePiece"},
    {"OtherModel", [](FakeTensorSource* s) { s->Set("tokenizer.ggml.model", std::string("x\n")); },
     absl::StatusCode::kUnimplemented, "x\\n"},
    {"OtherPre", [](FakeTensorSource* s) { s->Set("tokenizer.ggml.pre", std::string("tekken")); },
     absl::StatusCode::kUnimplemented, "tekken"},
    {"NoTokens", [](FakeTensorSource* s) { s->Remove(kTokens); }, absl::StatusCode::kNotFound,
     kTokens},
    {"ZeroTokens", [](FakeTensorSource* s) { s->Set(kTokens, Strings()); },
     absl::StatusCode::kInvalidArgument, "0 tokens"},
    {"TooManyTokens",
     [](FakeTensorSource* s) { s->Set(kTokens, Strings(kMaxVocabTokens + 1, "a")); },
     absl::StatusCode::kInvalidArgument, "2097152"},
    {"TokensOfAnotherType",
     [](FakeTensorSource* s) {
       s->Set(kTokens, Ints{1, 2});
     },
     absl::StatusCode::kInvalidArgument, kTokens},
    {"EmptyToken", [](FakeTensorSource* s) { AddToken(s, ""); }, absl::StatusCode::kInvalidArgument,
     "is empty"},
    {"HugeToken", [](FakeTensorSource* s) { AddToken(s, std::string(1 << 20, 'x')); },
     absl::StatusCode::kInvalidArgument, "1048576 bytes"},
    {"TokenNotUtf8", [](FakeTensorSource* s) { AddToken(s, "ab\xFF"); },
     absl::StatusCode::kInvalidArgument, "invalid UTF-8 at byte 2"},
    {"TokenTwice", [](FakeTensorSource* s) { AddToken(s, "<|im_start|>"); },
     absl::StatusCode::kInvalidArgument, "is also token 1"},
    {"TypesTooShort", [](FakeTensorSource* s) { s->Mutable<Ints>(kTypes).pop_back(); },
     absl::StatusCode::kInvalidArgument, "599 entries"},
    {"TypesTooLong", [](FakeTensorSource* s) { s->Mutable<Ints>(kTypes).push_back(1); },
     absl::StatusCode::kInvalidArgument, "601 entries"},
    {"TypesOfAnotherType", [](FakeTensorSource* s) { s->Set(kTypes, Strings{"1"}); },
     absl::StatusCode::kInvalidArgument, kTypes},
    {"TypeZero", [](FakeTensorSource* s) { s->Mutable<Ints>(kTypes)[5] = 0; },
     absl::StatusCode::kInvalidArgument, "allowed 1 to 6"},
    {"TypeNegative", [](FakeTensorSource* s) { s->Mutable<Ints>(kTypes)[5] = INT64_MIN; },
     absl::StatusCode::kInvalidArgument, "allowed 1 to 6"},
    {"ByteTokenNegative", [](FakeTensorSource* s) { AddToken(s, "<0x-1>", 6); },
     absl::StatusCode::kInvalidArgument, "<0x-1>"},
    {"ByteTokenNoHex", [](FakeTensorSource* s) { AddToken(s, "<0xZZ>", 6); },
     absl::StatusCode::kInvalidArgument, "<0xZZ>"},
    {"ByteTokenEmpty", [](FakeTensorSource* s) { AddToken(s, "<0x>", 6); },
     absl::StatusCode::kInvalidArgument, "<0x>"},
    {"ByteTokenTooLong", [](FakeTensorSource* s) { AddToken(s, "<0x100>", 6); },
     absl::StatusCode::kInvalidArgument, "<0x100>"},
    {"NoMerges", [](FakeTensorSource* s) { s->Remove(kMerges); }, absl::StatusCode::kNotFound,
     kMerges},
    {"MergeWithoutSpace", [](FakeTensorSource* s) { s->Set(kMerges, Strings{"ab"}); },
     absl::StatusCode::kInvalidArgument, "two tokens"},
    {"MergeOfNothing", [](FakeTensorSource* s) { s->Set(kMerges, Strings{" b"}); },
     absl::StatusCode::kInvalidArgument, "two tokens"},
    {"MergeWithNothing", [](FakeTensorSource* s) { s->Set(kMerges, Strings{"a "}); },
     absl::StatusCode::kInvalidArgument, "two tokens"},
    {"MergeEmpty", [](FakeTensorSource* s) { s->Set(kMerges, Strings{""}); },
     absl::StatusCode::kInvalidArgument, "two tokens"},
    {"MergeUnknownLeft", [](FakeTensorSource* s) { s->Set(kMerges, Strings{"zqzq a"}); },
     absl::StatusCode::kInvalidArgument, "unknown left"},
    {"MergeUnknownRight", [](FakeTensorSource* s) { s->Set(kMerges, Strings{"a zqzq"}); },
     absl::StatusCode::kInvalidArgument, "unknown right"},
    {"MergeOfThree", [](FakeTensorSource* s) { s->Set(kMerges, Strings{"a b c"}); },
     absl::StatusCode::kInvalidArgument, "unknown right"},
    {"MergeMakesNoToken", [](FakeTensorSource* s) { s->Set(kMerges, Strings{"z q"}); },
     absl::StatusCode::kInvalidArgument, "no token"},
    {"MergeMakesControlToken",
     [](FakeTensorSource* s) {
       AddToken(s, "zq", 3);
       s->Set(kMerges, Strings{"z q"});
     },
     absl::StatusCode::kInvalidArgument, "control token 600"},
    {"EosTooLarge",
     [](FakeTensorSource* s) { s->Set("tokenizer.ggml.eos_token_id", int64_t{600}); },
     absl::StatusCode::kInvalidArgument, "allowed 0 to 599"},
    {"BosNegative", [](FakeTensorSource* s) { s->Set("tokenizer.ggml.bos_token_id", int64_t{-1}); },
     absl::StatusCode::kInvalidArgument, "bos_token_id is -1"},
    {"EotAllOnes",
     [](FakeTensorSource* s) { s->Set("tokenizer.ggml.eot_token_id", int64_t{0xFFFFFFFF}); },
     absl::StatusCode::kInvalidArgument, "4294967295"},
    {"EosOfAnotherType",
     [](FakeTensorSource* s) { s->Set("tokenizer.ggml.eos_token_id", std::string("2")); },
     absl::StatusCode::kInvalidArgument, "eos_token_id"},
};

class BrokenVocabularyTest : public ::testing::TestWithParam<Damage> {};

TEST_P(BrokenVocabularyTest, IsRefusedWithTheReason) {
  FakeTensorSource source = SmallVocabulary();
  ASSERT_TRUE(Tokenizer::Create(source).ok());
  GetParam().apply(&source);
  const absl::Status status = Tokenizer::Create(source).status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
  // Texts of the file are shortened and escaped: one line, whatever they hold.
  EXPECT_LT(status.message().size(), 400u);
  EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
}

INSTANTIATE_TEST_SUITE_P(All, BrokenVocabularyTest, ::testing::ValuesIn(kDamages),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace slim
