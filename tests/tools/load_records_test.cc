// From what calls did to the row of a load test.
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/bench/serve_bench.h"

namespace slim {
namespace {

using testing::ElementsAre;

absl::Time At(double seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }

CallRecord Completed(double due, const std::vector<double>& deltas) {
  CallRecord record;
  record.due = At(due);
  for (const double time : deltas) record.delta_times.push_back(At(time));
  record.tokens = static_cast<int64_t>(deltas.size());
  record.finished = true;
  record.code = grpc::StatusCode::OK;
  return record;
}

TEST(CallRecordTest, CountsFromWhenTheCallWasDue) {
  EXPECT_DOUBLE_EQ(Completed(1, {3.5, 4}).TimeToFirstToken(), 2.5);
  EXPECT_TRUE(std::isnan(CallRecord().TimeToFirstToken()));
}

TEST(AppendGapsTest, TakesGapsInsideTheWindow) {
  std::vector<double> gaps;
  AppendGaps({At(1), At(2), At(4), At(7)}, At(1.5), At(6), &gaps);
  EXPECT_THAT(gaps, ElementsAre(2));
  AppendGaps({}, At(0), At(9), &gaps);
  EXPECT_EQ(gaps.size(), 1u);
}

TEST(MakeServeRowTest, CountsCompletedRejectedAndFailed) {
  CallRecord rejected;
  rejected.code = grpc::StatusCode::RESOURCE_EXHAUSTED;
  CallRecord failed;
  failed.code = grpc::StatusCode::INTERNAL;
  CallRecord cut = Completed(0, {1});
  cut.finished = false;  // OK without a Finished event is no answer
  const ServeRow row = MakeServeRow(
      2, {Completed(0, {1, 1.5, 2}), Completed(1, {4}), rejected, failed, cut}, absl::Seconds(10));
  EXPECT_EQ(row.completed, 2);
  EXPECT_EQ(row.rejected, 1);
  EXPECT_EQ(row.failed, 2);
  EXPECT_DOUBLE_EQ(row.ttft_seconds_p50, 1);
  EXPECT_DOUBLE_EQ(row.inter_token_seconds_p50, 0.5);
  EXPECT_DOUBLE_EQ(row.tokens_per_second, 0.5);
}

TEST(MakeServeRowTest, SaysNothingWhereNothingCameBack) {
  const ServeRow row = MakeServeRow(2, {}, absl::Seconds(1));
  EXPECT_TRUE(std::isnan(row.ttft_seconds_p99));
  EXPECT_EQ(row.tokens_per_second, 0);
}

}  // namespace
}  // namespace slim
