// What the client prints: errors, progress bar, closing line; and where it cuts blocks.
#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/client/answer_view.h"
#include "tools/client/connection.h"
#include "tools/client/explain.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(IsLocalAddressTest, KnowsThisMachine) {
  for (const char* address : {"127.0.0.1:50051", "127.9.0.1:1", "localhost:1", "[::1]:1",
                              "unix:/run/x", "unix:x", "dns:///localhost:1", "ipv4:127.0.0.1:1"}) {
    EXPECT_TRUE(IsLocalAddress(address)) << address;
  }
  for (const char* address : {"10.0.0.1:1", "example.org:1", "127.example.org:1", "0.0.0.0:1", "",
                              "localhost.example.org:1", "[::]:1", "dns:///example.org:1"}) {
    EXPECT_FALSE(IsLocalAddress(address)) << address;
  }
}

TEST(ErrorTextTest, ShowsCodeMessageReasonAndDelay) {
  RpcError error{grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full", "OVERLOAD", 1500};
  const std::string text = ErrorText(error, "h:1");
  EXPECT_THAT(text, HasSubstr("RESOURCE_EXHAUSTED: the queue is full"));
  EXPECT_THAT(text, HasSubstr("reason: OVERLOAD"));
  EXPECT_THAT(text, HasSubstr("try again in 1.5 s"));
}

TEST(ErrorTextTest, SaysHowToStartAServerWhereNoneIs) {
  RpcError error{grpc::StatusCode::UNAVAILABLE, "Connection refused", "", absl::nullopt};
  const std::string text = ErrorText(error, "h:1");
  EXPECT_THAT(text, HasSubstr("h:1"));
  EXPECT_THAT(text, HasSubstr("sliminfer-server"));
  // A server that shuts down is another matter.
  error.reason = "SHUTTING_DOWN";
  EXPECT_THAT(ErrorText(error, "h:1"), testing::Not(HasSubstr("sliminfer-server")));
}

TEST(ErrorTextTest, DoesNotLetTheServerColourTheTerminal) {
  RpcError error{grpc::StatusCode::INTERNAL, "\x1b[31mred", "", absl::nullopt};
  EXPECT_THAT(ErrorText(error, "h:1"), testing::Not(HasSubstr("\x1b")));
}

TEST(ConnectionTest, RefusesATokenThatWouldTravelReadable) {
  ConnectionOptions options;
  options.token = "secret";
  options.address = "example.org:443";
  EXPECT_EQ(Connection::Create(options, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.address = "127.0.0.1:1";
  EXPECT_TRUE(Connection::Create(options, nullptr).ok());
  options.tls_ca = "/nowhere/ca.pem";
  EXPECT_EQ(Connection::Create(options, nullptr).status().code(), absl::StatusCode::kNotFound);
}

TEST(ConnectionTest, RefusesHalfAClientCertificate) {
  ConnectionOptions options;
  options.tls_cert = "/nowhere/cert.pem";
  EXPECT_FALSE(Connection::Create(options, nullptr).ok());
}

TEST(ProgressBarTest, FillsWithTheWork) {
  v1::Progress progress;
  progress.set_total_tokens(8000);
  progress.set_prefilled_tokens(4000);
  progress.set_retained_tokens(8000);
  EXPECT_EQ(ProgressBar(progress, 4), "[##..]  50 %  4,000 of 8,000 prompt tokens");
  progress.set_prefilled_tokens(9000);
  progress.set_retained_tokens(1024);
  EXPECT_EQ(ProgressBar(progress, 4), "[####] 100 %  9,000 of 8,000 prompt tokens, 1,024 kept");
  EXPECT_THAT(ProgressBar(v1::Progress(), 4), HasSubstr("[....]   0 %"));
}

TEST(ClosingLineTest, CountsTokensTimeAndWhatWasPruned) {
  v1::Finished finished;
  finished.set_finish_reason(v1::STOP);
  finished.mutable_usage()->set_prompt_tokens(5000);
  finished.mutable_usage()->set_completion_tokens(21);
  finished.mutable_usage()->set_pruned_tokens(3000);
  finished.mutable_timing()->set_time_to_first_token_seconds(1.234);
  finished.mutable_timing()->set_decode_seconds(0.5);
  EXPECT_EQ(ClosingLine(finished),
            "5,000 prompt + 21 new tokens | first token 1.23 s | 40.0 tok/s | 3,000 pruned (60 %) "
            "| stop");
}

TEST(ClosingLineTest, DoesNotDivideByNothing) {
  EXPECT_EQ(ClosingLine(v1::Finished()),
            "0 prompt + 0 new tokens | first token 0.00 s | 0 pruned | end");
}

TEST(CutBlocksTest, CutsAtBlockBoundariesOfThePrompt) {
  const std::vector<uint32_t> tokens = {1, 2, 3, 4, 5};
  EXPECT_THAT(CutBlocks(tokens, 0, 5, 2),
              ElementsAre(ElementsAre(1, 2), ElementsAre(3, 4), ElementsAre(5)));
  // Three template tokens before, two after.
  EXPECT_THAT(CutBlocks(tokens, 3, 10, 4),
              ElementsAre(ElementsAre(1), ElementsAre(2, 3, 4, 5), ElementsAre()));
}

TEST(CutBlocksTest, SurvivesCountsThatDoNotFit) {
  const std::vector<uint32_t> tokens = {1, 2, 3};
  EXPECT_THAT(CutBlocks(tokens, 100, 4, 2), ElementsAre(ElementsAre(), ElementsAre()));
  EXPECT_TRUE(CutBlocks(tokens, 0, 4, 0).empty());
  EXPECT_TRUE(CutBlocks(tokens, 0, 0, 2).empty());
}

TEST(MakeExplainReportTest, TakesOverTheServersReport) {
  v1::Finished finished;
  finished.mutable_usage()->set_prompt_tokens(64);
  v1::PruningReport* pruning = finished.mutable_pruning();
  pruning->set_block_tokens(32);
  pruning->set_digest("abc");
  v1::PruningReport::Stage* stage = pruning->add_stages();
  stage->set_layer(8);
  stage->add_block_ids(1);
  stage->add_scores(0.25f);
  const ExplainReport report = MakeExplainReport(finished, "answer");
  EXPECT_EQ(report.prompt_tokens, 64);
  EXPECT_EQ(report.block_tokens, 32);
  ASSERT_EQ(report.stages.size(), 1u);
  EXPECT_EQ(report.stages[0].layer, 8);
  EXPECT_THAT(report.stages[0].block_ids, ElementsAre(1));
  EXPECT_THAT(report.stages[0].scores, ElementsAre(0.25f));
}

}  // namespace
}  // namespace slim
