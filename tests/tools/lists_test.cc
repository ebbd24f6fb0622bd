#include "tools/common/lists.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace slim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ParseIntListTest, ReadsNumbersInOrder) {
  EXPECT_THAT(*ParseIntList("--lengths", "512,16", 1, 1000), ElementsAre(512, 16));
}

TEST(ParseIntListTest, NamesFlagItemAndRange) {
  for (const char* text : {"", "1,", "1,,2", "0", "1001", "1.5", "x", "99999999999999999999"}) {
    const auto list = ParseIntList("--lengths", text, 1, 1000);
    ASSERT_FALSE(list.ok()) << text;
    EXPECT_THAT(std::string(list.status().message()), HasSubstr("--lengths")) << text;
    EXPECT_THAT(std::string(list.status().message()), HasSubstr("1 to 1000")) << text;
  }
}

TEST(ParseRateListTest, RefusesNaNInfinityAndZero) {
  EXPECT_THAT(*ParseRateList("--rates", "0.5,2", 100), ElementsAre(0.5, 2));
  for (const char* text : {"nan", "inf", "0", "-1", "101", ""}) {
    EXPECT_FALSE(ParseRateList("--rates", text, 100).ok()) << text;
  }
}

TEST(ParseLengthMixTest, NormalisesWeightsAndPicksByThem) {
  const auto mix = ParseLengthMix("--mix", "64:3,2048:1", 8192);
  ASSERT_TRUE(mix.ok()) << mix.status();
  EXPECT_THAT(mix->weights, ElementsAre(0.75, 0.25));
  EXPECT_EQ(mix->Pick(0), 64);
  EXPECT_EQ(mix->Pick(0.74), 64);
  EXPECT_EQ(mix->Pick(0.76), 2048);
  EXPECT_EQ(mix->Pick(0.9999999), 2048);
  EXPECT_EQ(mix->longest(), 2048);
}

TEST(ParseLengthMixTest, CountsAMissingWeightAsOne) {
  EXPECT_THAT(ParseLengthMix("--mix", "1,2", 8192)->weights, ElementsAre(0.5, 0.5));
}

TEST(ParseLengthMixTest, RefusesWhatIsNotALengthAndAWeight) {
  for (const char* text : {"", "0:1", "64:0", "64:nan", "64:-1", "9000:1", "64:1:1", "a:1"}) {
    EXPECT_FALSE(ParseLengthMix("--mix", text, 8192).ok()) << text;
  }
}

}  // namespace
}  // namespace slim
