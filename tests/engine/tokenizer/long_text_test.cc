// Texts that broke other tokenizers: long runs, on a small stack, in linear time.
#include <gtest/gtest.h>
#include <pthread.h>

#include <ctime>
#include <functional>
#include <thread>

#include "engine/tokenizer/tokenizer.h"
#include "tests/engine/tokenizer/random_text.h"
#include "tests/engine/tokenizer/vocabulary_fixture.h"

namespace slim {
namespace {

// Generous: sanitizers pass, a quadratic algorithm takes minutes.
constexpr double kLimitSeconds = 20;

// Of this process: what other programs take of the machine does not count.
double ProcessorSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

std::string Repeat(absl::string_view unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text.append(unit.data(), unit.size());
  return text;
}

void RunOnSmallStack(const std::function<void()>& work) {
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 256 << 10), 0);
  pthread_t thread;
  const auto run = [](void* argument) -> void* {
    (*static_cast<const std::function<void()>*>(argument))();
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, run, const_cast<std::function<void()>*>(&work)),
            0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

struct LongText {
  const char* name;
  std::string unit;
};

const LongText kTexts[] = {
    {"Letter", "A"},
    {"Space", " "},
    {"LineEnd", "\n"},
    {"Digit", "7"},
    {"Punctuation", "!"},
    {"Apostrophe", "'"},
    {"Chinese", "\xE4\xB8\xAD"},
    {"CombiningMark", "\xCC\x81"},
    {"Emoji", "\xF0\x9F\x98\x80"},
    {"NoBreakSpace", "\xC2\xA0"},
    {"Alternating", "a1 !\n"},
    {"LetterAndMark", "a\xCC\x81"},
    {"SpacesThenLetter", "          x"},
    {"LineEndsAndSpaces", "\n \r\n  "},
    {"SpecialToken", "<|im_start|>"},
    {"HalfSpecialToken", "<|im_"},
};

class LongTextTest : public ::testing::TestWithParam<LongText> {};

TEST_P(LongTextTest, TwoMebibytesGoThereAndBackOnASmallStackInLinearTime) {
  for (const char* pre : {"smollm", "llama-bpe"}) {
    FakeTensorSource source = SmallVocabulary(1200);
    source.Set("tokenizer.ggml.pre", std::string(pre));
    const auto tokenizer = Tokenizer::Create(source);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const std::string text = Repeat(GetParam().unit, 2 << 20);
    const double start = ProcessorSeconds();
    RunOnSmallStack([&] {
      const auto ids = (*tokenizer)->Encode(text);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_TRUE((*tokenizer)->Decode(*ids) == text) << "another text came back";
    });
    const double seconds = ProcessorSeconds() - start;
    RecordProperty(std::string(pre) + "_milliseconds", static_cast<int>(seconds * 1e3));
    EXPECT_LT(seconds, kLimitSeconds);
  }
}

TEST_P(LongTextTest, TrustedTextIsCutInLinearTime) {
  FakeTensorSource source = SmallVocabulary();
  AddToken(&source, "<" + std::string(60000, '|'), 3);
  const auto tokenizer = Tokenizer::Create(source);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string text = Repeat(GetParam().unit, 1 << 20);
  const double start = ProcessorSeconds();
  RunOnSmallStack([&] { EXPECT_TRUE((*tokenizer)->EncodeWithSpecial(text).ok()); });
  const double seconds = ProcessorSeconds() - start;
  EXPECT_LT(seconds, kLimitSeconds);
}

INSTANTIATE_TEST_SUITE_P(All, LongTextTest, ::testing::ValuesIn(kTexts),
                         [](const auto& info) { return info.param.name; });

TEST(TokenizerThreadsTest, ThreadsShareATokenizerAndAgree) {
  const auto tokenizer = Tokenizer::Create(SmallVocabulary());
  ASSERT_TRUE(tokenizer.ok());
  std::mt19937 random(2);
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < 200; ++i) {
    texts.push_back(RandomText(&random, 80));
    expected.push_back(*(*tokenizer)->Encode(texts.back()));
  }
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i) {
        if (*(*tokenizer)->Encode(texts[i]) != expected[i]) ++wrong[t];
        if ((*tokenizer)->Decode(expected[i]) != texts[i]) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

}  // namespace
}  // namespace slim
