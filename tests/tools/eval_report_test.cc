#include "tools/eval/eval_report.h"

#include <algorithm>
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace slim {
namespace {

using testing::ElementsAre;

ItemOutcome Outcome(const std::string& task, int64_t length, double depth, bool dense_correct,
                    bool pruned_correct, std::vector<bool> recalled) {
  ItemOutcome outcome;
  outcome.task = task;
  outcome.length = length;
  outcome.depth = depth;
  ModeOutcome dense, pruned;
  dense.correct = dense_correct;
  dense.kl = kNoValue;
  dense.answer_nll = 1;
  pruned.correct = pruned_correct;
  pruned.kl = 0.5;
  pruned.answer_nll = 2;
  pruned.recalled = std::move(recalled);
  outcome.modes = {dense, pruned};
  return outcome;
}

const EvalRow* Find(const std::vector<EvalRow>& rows, const std::string& task, int64_t length,
                    const std::string& pruning) {
  for (const EvalRow& row : rows) {
    if (row.task == task && row.length == length && row.pruning == pruning) return &row;
  }
  return nullptr;
}

TEST(EvalReportTest, PairsEveryModeWithDense) {
  const std::vector<ItemOutcome> outcomes = {Outcome("kv", 2048, 0.1, true, true, {true, true}),
                                             Outcome("kv", 2048, 0.9, true, false, {true, false}),
                                             Outcome("kv", 4096, 0.5, false, true, {true, true}),
                                             Outcome("mdqa", 2048, kNoValue, false, false, {})};
  const std::vector<EvalRow> rows = MakeEvalRows(outcomes, {"off", "profile"});
  const EvalRow* kv = Find(rows, "kv", 2048, "profile");
  ASSERT_NE(kv, nullptr);
  EXPECT_EQ(kv->n, 2);
  EXPECT_DOUBLE_EQ(kv->accuracy, 0.5);
  EXPECT_EQ(kv->dense_correct, 2);
  EXPECT_EQ(kv->kept, 1);
  EXPECT_DOUBLE_EQ(kv->block_recall, 0.5);
  EXPECT_THAT(kv->recall_by_stage, ElementsAre(1.0, 0.5));
  EXPECT_DOUBLE_EQ(kv->recall_by_depth[0], 1);
  EXPECT_DOUBLE_EQ(kv->recall_by_depth[4], 0);
  EXPECT_TRUE(std::isnan(kv->recall_by_depth[2]));

  const EvalRow* retrieval = Find(rows, "retrieval", 0, "profile");
  ASSERT_NE(retrieval, nullptr);
  EXPECT_EQ(retrieval->n, 3);
  const EvalRow* all = Find(rows, "all", 0, "off");
  ASSERT_NE(all, nullptr);
  EXPECT_EQ(all->n, 4);
  EXPECT_DOUBLE_EQ(all->accuracy, 0.5);
  EXPECT_TRUE(std::isnan(all->kl_mean));
  EXPECT_TRUE(std::isnan(all->block_recall));
  EXPECT_NE(Find(rows, "all", 2048, "profile"), nullptr);
}

TEST(EvalReportTest, TableHasOneLinePerRow) {
  const std::vector<EvalRow> rows =
      MakeEvalRows({Outcome("kv", 2048, 0.1, true, true, {true})}, {"off", "profile"});
  const std::string table = EvalTable(rows);
  EXPECT_EQ(static_cast<size_t>(std::count(table.begin(), table.end(), '\n')), rows.size() + 1);
}

TEST(EvalReportTest, NothingGivesNoRows) { EXPECT_TRUE(MakeEvalRows({}, {"off"}).empty()); }

}  // namespace
}  // namespace slim
