#include "engine/tokenizer/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace slim {
namespace {

using Ids = std::vector<int32_t>;
using Rules = std::map<std::pair<int32_t, int32_t>, std::pair<int, int32_t>>;  // rank, merged

// The definition in plain code: the best pair, leftmost first, until there is none.
Ids NaiveMerge(const Rules& rules, Ids ids) {
  while (true) {
    size_t best = ids.size();
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto rule = rules.find({ids[i], ids[i + 1]});
      if (rule == rules.end()) continue;
      if (best == ids.size() || rule->second.first < rules.at({ids[best], ids[best + 1]}).first) {
        best = i;
      }
    }
    if (best == ids.size()) return ids;
    ids[best] = rules.at({ids[best], ids[best + 1]}).second;
    ids.erase(ids.begin() + best + 1);
  }
}

TEST(BpeTest, AgreesWithTheDefinitionOnRandomRulesAndLengths) {
  std::mt19937 random(3);
  for (int round = 0; round < 400; ++round) {
    const int num_rules = 1 + static_cast<int>(random() % 30);
    Rules rules;
    BpeMerger merger(num_rules);
    int32_t num_tokens = 3;
    for (int rank = 0; rank < num_rules; ++rank) {
      const auto left = static_cast<int32_t>(random() % num_tokens);
      const auto right = static_cast<int32_t>(random() % num_tokens);
      const bool fresh = rules.emplace(std::pair(left, right), std::pair(rank, num_tokens)).second;
      EXPECT_EQ(merger.Add(left, right, num_tokens), fresh);
      if (fresh) ++num_tokens;
    }
    BpeScratch scratch;
    for (const size_t length : {0u, 1u, 2u, 5u, 47u, 48u, 49u, 50u, 120u, 300u}) {
      scratch.ids.clear();
      for (size_t i = 0; i < length; ++i) {
        scratch.ids.push_back(static_cast<int32_t>(random() % 3));
      }
      const Ids expected = NaiveMerge(rules, scratch.ids);
      merger.Merge(&scratch);
      ASSERT_EQ(scratch.ids, expected) << "round " << round << " length " << length;
    }
  }
}

TEST(BpeTest, NegativeIdsNeverMergeAndSeparate) {
  BpeMerger merger(1);
  merger.Add(1, 1, 2);
  for (const size_t length : {3u, 99u}) {
    BpeScratch scratch;
    for (size_t i = 0; i < length; ++i) scratch.ids.push_back(i % 2 == 0 ? 1 : -1);
    const Ids before = scratch.ids;
    merger.Merge(&scratch);
    EXPECT_EQ(scratch.ids, before);
  }
}

TEST(BpeTest, ARepeatedPairKeepsItsFirstRank) {
  BpeMerger merger(3);
  EXPECT_TRUE(merger.Add(1, 2, 3));
  EXPECT_FALSE(merger.Add(1, 2, 9));
  BpeScratch scratch;
  scratch.ids = {1, 2};
  merger.Merge(&scratch);
  EXPECT_EQ(scratch.ids, Ids{3});
}

TEST(BpeTest, WithoutMergesNothingChanges) {
  const BpeMerger merger(0);
  BpeScratch scratch;
  scratch.ids = {5, 6, 7};
  merger.Merge(&scratch);
  EXPECT_EQ(scratch.ids, (Ids{5, 6, 7}));
}

}  // namespace
}  // namespace slim
