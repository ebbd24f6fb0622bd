#include "engine/sample/stop_condition.h"

#include <gtest/gtest.h>

#include <random>

namespace slim {
namespace {

StopRules Options(std::vector<std::string> strings, int64_t max_tokens = 1000) {
  StopRules options;
  options.strings = std::move(strings);
  options.end_tokens = {99};
  options.max_tokens = max_tokens;
  return options;
}

// Feeds the pieces as tokens; returns all shown text and the last result.
std::pair<std::string, StopCondition::Result> Feed(StopCondition& stop,
                                                   const std::vector<std::string>& pieces) {
  std::string shown;
  StopCondition::Result last;
  for (const std::string& piece : pieces) {
    last = stop.Add(1, piece, piece);
    shown += last.text;
    if (last.finished) break;
  }
  return {shown, last};
}

TEST(StopConditionTest, AStopStringAcrossTokensIsFoundAndNotShown) {
  StopCondition stop(Options({"STOP"}));
  const auto [shown, last] = Feed(stop, {"abc S", "T", "OP def"});
  EXPECT_EQ(shown, "abc ");
  ASSERT_TRUE(last.finished.has_value());
  EXPECT_EQ(*last.finished, StopCondition::Reason::kStop);
  EXPECT_EQ(last.match, "STOP");
}

TEST(StopConditionTest, WhatOnlyLookedLikeAStopIsShownLater) {
  StopCondition stop(Options({"STOP"}));
  EXPECT_EQ(stop.Add(1, "abc ST", "").text, "abc ");
  EXPECT_EQ(stop.Add(1, "ART", "").text, "START");
  EXPECT_EQ(stop.Add(1, "ST", "").text, "");
  EXPECT_EQ(stop.Flush(), "ST");
}

TEST(StopConditionTest, IncludeStopShowsIt) {
  StopRules options = Options({"END"});
  options.include_stop = true;
  StopCondition stop(options);
  EXPECT_EQ(Feed(stop, {"xE", "ND", "y"}).first, "xEND");
}

TEST(StopConditionTest, EndTokensStopUnlessIgnored) {
  StopCondition stop(Options({}));
  const auto result = stop.Add(99, "", "<|im_end|>");
  ASSERT_TRUE(result.finished.has_value());
  EXPECT_EQ(result.match, "<|im_end|>");
  StopRules options = Options({});
  options.ignore_end_tokens = true;
  StopCondition ignoring(options);
  EXPECT_FALSE(ignoring.Add(99, "", "").finished.has_value());
  options.token_ids = {99};
  StopCondition asked(options);
  EXPECT_TRUE(asked.Add(99, "", "").finished.has_value());
}

TEST(StopConditionTest, LengthEndsAndFlushesWhatIsHeld) {
  StopCondition stop(Options({"STOP"}, 2));
  EXPECT_FALSE(stop.Add(1, "a", "").finished.has_value());
  const auto result = stop.Add(1, "bST", "");
  EXPECT_EQ(*result.finished, StopCondition::Reason::kLength);
  EXPECT_EQ(result.text, "bST");
}

TEST(StopConditionTest, AStopThatIsAPrefixOfAnotherWins) {
  StopCondition stop(Options({"abcd", "ab"}));
  const auto [shown, last] = Feed(stop, {"xabcd"});
  EXPECT_EQ(shown, "x");
  EXPECT_EQ(last.match, "ab");
}

// The definition in plain code: the first position at which a stop string ends.
std::string NaiveShown(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    for (const std::string& stop : stops) {
      if (end >= stop.size() && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        return text.substr(0, end - stop.size());
      }
    }
  }
  return text;
}

TEST(StopConditionTest, AgreesWithTheDefinitionOnRandomTexts) {
  std::mt19937 random(7);
  const auto word = [&](int longest) {
    std::string text;
    const int n = 1 + static_cast<int>(random() % longest);
    for (int i = 0; i < n; ++i) text.push_back(static_cast<char>('a' + random() % 2));
    return text;
  };
  int stopped = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops, pieces;
    for (size_t i = 0; i < 1 + random() % 3; ++i) stops.push_back(word(6));
    std::string whole;
    for (int i = 0; i < 8; ++i) {
      pieces.push_back(word(4));
      whole += pieces.back();
    }
    StopCondition stop(Options(stops));
    auto [shown, last] = Feed(stop, pieces);
    if (last.finished) {
      ++stopped;
    } else {
      shown += stop.Flush();
    }
    EXPECT_EQ(shown, NaiveShown(whole, stops));
  }
  EXPECT_GT(stopped, 500);
}

TEST(StopConditionTest, IncludingTheStopAgreesWithTheDefinitionAndNothingIsShownTooEarly) {
  std::mt19937 random(8);
  const auto word = [&](int longest) {
    std::string text;
    const int n = 1 + static_cast<int>(random() % longest);
    for (int i = 0; i < n; ++i) text.push_back(static_cast<char>('a' + random() % 2));
    return text;
  };
  for (int round = 0; round < 3000; ++round) {
    const std::string single = word(8);
    std::vector<std::string> stops = {single, single.substr(0, 1 + random() % single.size())};
    if (random() % 2 == 0) std::swap(stops[0], stops[1]);
    StopRules rules = Options(stops);
    rules.include_stop = random() % 2 == 0;
    StopCondition stop(rules);
    std::string whole, shown;
    StopCondition::Result last;
    for (int i = 0; i < 12 && !last.finished; ++i) {
      const std::string piece = word(3);
      whole += piece;
      last = stop.Add(1, piece, piece);
      shown += last.text;
      if (last.finished) break;
      // What is shown is right, and only what may begin a stop string is held back.
      ASSERT_EQ(shown, whole.substr(0, shown.size()));
      const std::string held = whole.substr(shown.size());
      EXPECT_TRUE(held.empty() || stops[0].compare(0, held.size(), held) == 0 ||
                  stops[1].compare(0, held.size(), held) == 0);
    }
    const std::string before = NaiveShown(whole, stops);
    if (!last.finished) {
      EXPECT_EQ(shown + stop.Flush(), before);
    } else {
      EXPECT_EQ(shown, rules.include_stop ? before + last.match : before);
    }
  }
}

TEST(StopConditionTest, AStopThatRepeatsItselfIsFoundInARun) {
  StopCondition stop(Options({"aab"}));
  EXPECT_EQ(Feed(stop, {"a", "a", "a", "a", "b"}).first, "aa");
}

TEST(StopConditionTest, AStopOfManyBytesPerCharacterNeverCutsOne) {
  // U+00E9 and U+00E8 share their first byte.
  StopCondition stop(Options({"\xC3\xA9"}));
  EXPECT_EQ(stop.Add(1, "x\xC3\xA8", "").text, "x\xC3\xA8");
  EXPECT_EQ(Feed(stop, {"y\xC3\xA9z"}).first, "y");
}

TEST(StopConditionTest, AStopStringBeforeTheLastTokenIsAStopNotALength) {
  StopCondition stop(Options({"END"}, 1));
  const auto result = stop.Add(1, "an END", "");
  EXPECT_EQ(*result.finished, StopCondition::Reason::kStop);
  EXPECT_EQ(result.text, "an ");
}

TEST(StopConditionTest, AnEndTokenShowsWhatWasHeldBack) {
  StopCondition stop(Options({"STOP"}));
  EXPECT_EQ(stop.Add(1, "abST", "").text, "ab");
  const auto result = stop.Add(99, "", "<|im_end|>");
  EXPECT_EQ(result.text, "ST");
  EXPECT_EQ(*result.finished, StopCondition::Reason::kStop);
}

TEST(StopConditionTest, AskedForTokensStopWithAndWithoutTheirText) {
  StopRules rules = Options({});
  rules.token_ids = {7, 8};
  StopCondition without(rules);
  auto result = without.Add(8, "text", "text");
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.match, "text");
  rules.include_stop = true;
  StopCondition with(rules);
  EXPECT_EQ(with.Add(8, "text", "text").text, "text");
}

TEST(StopConditionTest, LongStopsCostTheSamePerCharacterHoweverTheyFail) {
  // Every character extends or breaks four almost complete matches: 1 MiB takes no time at all
  // unless each is compared again from its start.
  const std::string run(255, 'a');
  StopRules rules = Options({run + "b", run + "c", run + "d", run + "e"}, int64_t{1} << 40);
  StopCondition stop(rules);
  size_t shown = 0;
  const std::string piece(1 << 10, 'a');
  for (int i = 0; i < 1 << 10; ++i) {
    const auto result = stop.Add(1, piece, "");
    ASSERT_FALSE(result.finished.has_value());
    shown += result.text.size();
  }
  EXPECT_EQ(shown + 255, size_t{1} << 20);
  const auto last = stop.Add(1, "e", "");
  EXPECT_EQ(last.text, "");
  EXPECT_EQ(last.match, run + "e");
}

}  // namespace
}  // namespace slim
