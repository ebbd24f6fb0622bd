#include "server/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/config_values.h"
#include "server/http_endpoint.h"
#include "server/process_stats.h"

namespace slim {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Metrics::Facts TestFacts() {
  Metrics::Facts facts;
  facts.model_name = "tiny";
  facts.version = "0.1.0";
  facts.revision = "abc";
  facts.backend = "cpu";
  facts.architecture = "llama";
  facts.dtype = "Q4_1";
  facts.num_layers = 12;
  return facts;
}

// One of everything, so that each family has a series.
void FeedEverything(Metrics* metrics) {
  metrics->OnRpcDone("sliminfer.v1.Inference/Generate", "OK");
  metrics->OnRejected("OVERLOAD");
  metrics->OnFirstToken(absl::Milliseconds(120));
  metrics->OnInterTokenGap(absl::Milliseconds(12));
  FinishedEvent finished;
  finished.reason = FinishReason::kLength;
  finished.completion_tokens = 7;
  finished.report.prompt_tokens = 100;
  finished.report.kept_token_layers = 800;
  finished.report.pruned_token_layers = 400;
  finished.report.stored_kv_bytes = 10;
  finished.report.full_kv_bytes = 20;
  finished.report.stages.push_back(
      {4, 50, 2, 1, absl::Milliseconds(1), absl::Milliseconds(5), {}, {}});
  finished.report.stages.push_back(
      {99, 50, 2, 1, absl::Milliseconds(1), absl::Milliseconds(5), {}, {}});
  metrics->OnFinished(Request(), finished);
  metrics->OnCancelled("prefill", CancelCause::kClient, absl::Milliseconds(3));
  StepResult step;
  step.prefill_rows = 64;
  step.decode_rows = 2;
  step.kv_stall = absl::Microseconds(40);
  step.outputs.resize(3);
  step.outputs[1].token = 5;
  step.outputs[2].token = 6;
  metrics->OnStep(step, absl::Milliseconds(30));
}

TEST(MetricsTest, EventsAppearOnThePage) {
  const auto metrics = Metrics::Create(TestFacts());
  FeedEverything(metrics.get());
  WorkerStats stats;
  stats.running_requests = 3;
  stats.accepting = true;
  stats.engine.kv.device.total_slabs = 100;
  stats.engine.kv.device.used_slabs = 25;
  stats.engine.prefix_cache_hit_tokens = 77;
  metrics->SetStatsSource([&] { return stats; });
  const std::string page = metrics->Render();
  for (const char* part :
       {"grpc_method=\"sliminfer.v1.Inference/Generate\"", "finished_reason=\"length\"",
        "cause=\"client\"", "process_resident_memory_bytes ", "reason=\"OVERLOAD\"",
        "sliminfer_prompt_tokens_total{model_name=\"tiny\"} 100",
        "sliminfer_prefix_cache_hits_total{model_name=\"tiny\"} 77", "outcome=\"pruned\"",
        "kind=\"full_equivalent\""}) {
    EXPECT_THAT(page, HasSubstr(part));
  }
  EXPECT_THAT(page, HasSubstr("sliminfer_generation_tokens_total{model_name=\"tiny\"} 2"));
  EXPECT_THAT(page, HasSubstr("sliminfer_num_requests_running{model_name=\"tiny\"} 3"));
  EXPECT_THAT(page, HasSubstr("} 0.25\n"));
  EXPECT_THAT(page, HasSubstr("layer=\"4\""));
  EXPECT_THAT(page, Not(HasSubstr("layer=\"99\"")));  // no such layer: no new label value
}

TEST(MetricsTest, DetachedStatsSourceIsNotCalled) {
  const auto metrics = Metrics::Create(TestFacts());
  int calls = 0;
  metrics->SetStatsSource([&] {
    ++calls;
    return WorkerStats();
  });
  metrics->Render();
  metrics->SetStatsSource(nullptr);
  metrics->Render();
  EXPECT_EQ(calls, 1);
}

TEST(MetricsTest, PromtoolAcceptsThePage) {
  if (std::system("command -v promtool > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "promtool is not installed";
  }
  const auto metrics = Metrics::Create(TestFacts());
  FeedEverything(metrics.get());
  const std::string path = ::testing::TempDir() + "/metrics_page.txt";
  std::ofstream(path) << metrics->Render();
  EXPECT_EQ(std::system(absl::StrCat("promtool check metrics < ", path, " 1>&2").c_str()), 0);
}

TEST(ProcessStatsTest, ReadsThisProcess) {
  const ProcessStats stats = ReadProcessStats();
  EXPECT_GT(stats.resident_bytes, 1 << 20);
  EXPECT_GE(stats.open_fds, 3);
  EXPECT_GT(stats.start_time_seconds, 1.5e9);
  EXPECT_GE(stats.max_fds, stats.open_fds);
  EXPECT_GE(RaiseFileLimit(), static_cast<int64_t>(stats.max_fds));
}

// A raw HTTP exchange with 127.0.0.1: what comes back until the server closes.
std::string Exchange(const std::string& address, const std::string& request) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(ParseListenAddress(address)->port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0 &&
      send(fd, request.data(), request.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t n; (n = recv(fd, buffer, sizeof buffer, 0)) > 0;) answer.append(buffer, n);
  }
  close(fd);
  return answer;
}

std::string Get(const std::string& address, const std::string& path) {
  return Exchange(address, absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n\r\n"));
}

TEST(HttpEndpointTest, AnswersItsThreePathsOnly) {
  bool ready = true;
  HttpEndpoint::Handlers handlers{[] { return std::string("page\n"); }, [] { return true; },
                                  [&] { return ready; }};
  const auto endpoint = HttpEndpoint::Create("127.0.0.1:0", handlers);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  const std::string address = (*endpoint)->address();
  EXPECT_NE(ParseListenAddress(address)->port, 0);
  EXPECT_THAT(Get(address, "/metrics"), HasSubstr("page"));
  EXPECT_THAT(Get(address, "/healthz"), HasSubstr("200 OK"));
  EXPECT_THAT(Get(address, "/readyz"), HasSubstr("200 OK"));
  ready = false;
  EXPECT_THAT(Get(address, "/readyz"), HasSubstr("503"));
  EXPECT_THAT(Get(address, "/etc/passwd"), HasSubstr("404"));
  EXPECT_THAT(Get(address, "/metricsx"), HasSubstr("404"));
  EXPECT_THAT(Exchange(address, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
              HasSubstr("405"));
  EXPECT_THAT(Exchange(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
              Not(HasSubstr("page")));
}

TEST(HttpEndpointTest, TakenPortIsAnErrorNotACrash) {
  HttpEndpoint::Handlers handlers{[] { return std::string(); }, [] { return true; },
                                  [] { return true; }};
  const auto first = HttpEndpoint::Create("127.0.0.1:0", handlers);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = HttpEndpoint::Create((*first)->address(), handlers);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(HttpEndpoint::Create("unix:/tmp/x", handlers).ok());
}

TEST(HttpEndpointTest, SilentConnectionsDoNotStarveOthers) {
  HttpEndpoint::Handlers handlers{[] { return std::string("page\n"); }, [] { return true; },
                                  [] { return true; }};
  const auto endpoint = HttpEndpoint::Create("127.0.0.1:0", handlers);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  const std::string address = (*endpoint)->address();
  std::vector<int> silent;
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(ParseListenAddress(address)->port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int i = 0; i < 4; ++i) {
    silent.push_back(socket(AF_INET, SOCK_STREAM, 0));
    ASSERT_EQ(connect(silent.back(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  }
  EXPECT_THAT(Get(address, "/healthz"), HasSubstr("200 OK"));
  for (const int fd : silent) close(fd);
}

}  // namespace
}  // namespace slim
