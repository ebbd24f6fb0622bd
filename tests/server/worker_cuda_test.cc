// The worker over the real engine and the CUDA backend, on a runtime that works in host memory: a
// device that breaks ends everything at once and for all, a cancel gives every page back.

#include <atomic>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda/cuda_module.h"
#include "engine/load/gguf_reader.h"
#include "gmock/gmock.h"
#include "server/status_reason.h"
#include "server/worker.h"
#include "tests/server/worker_harness.h"
#include "tests/testing/cuda_on_host/queue.h"
#include "tests/testing/tiny_model.h"

namespace slim {
namespace {

using ::testing::HasSubstr;

constexpr int kBlock = 32;

class WorkerCudaTest : public testing::TestWithParam<KvTier> {
 protected:
  WorkerCudaTest() { cuda_on_host::Repair(); }
  ~WorkerCudaTest() override {
    if (worker_ != nullptr) worker_->Stop(absl::ZeroDuration());
    worker_.reset();
    cuda_on_host::Repair();
  }

  void Start() {
    TinyModelOptions model;
    model.num_layers = 6;
    model.context_tokens = 2048;
    auto source = GgufReader::Parse(bytes_ = MakeTinyModel(model));
    ASSERT_TRUE(source.ok()) << source.status();
    auto backend = CreateCudaBackend();
    ASSERT_TRUE(backend.ok()) << backend.status();
    Engine::Options options;
    options.block_tokens = kBlock;
    options.kv_tier = GetParam();
    options.kv_device_bytes = int64_t{4} << 20;
    if (GetParam() == KvTier::kDiscrete) options.kv_host_bytes = int64_t{32} << 20;
    auto engine = Engine::Create(options, *std::move(source), *std::move(backend), &clock_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    Worker::Options worker;
    worker.scheduler.prefill_chunk_tokens = 64;
    worker.on_fatal = [this](const absl::Status& status) {
      fatal_ = status;
      ++fatal_calls_;
    };
    auto made = Worker::Create(std::move(worker), *std::move(engine), &TestTokenizer(), &clock_,
                               &observer_);
    ASSERT_TRUE(made.ok()) << made.status();
    worker_ = *std::move(made);
  }

  absl::Status Submit(const std::string& id, const Answer& answer, int64_t prompt_tokens,
                      int64_t max_new_tokens) {
    Request request;
    request.id = id;
    request.spec.prompt = MakePrompt(id, prompt_tokens);
    request.spec.max_new_tokens = max_new_tokens;
    request.spec.sampling.temperature = 0;
    request.stop.ignore_end_tokens = true;
    request.response.token_ids = true;
    request.arrival = clock_.Now();
    request.stream = answer.stream();
    return worker_->Submit(std::move(request));
  }

  std::string bytes_;
  SteadyClock clock_;
  CountingObserver observer_;
  absl::Status fatal_;  // read after fatal_calls_
  std::atomic<int> fatal_calls_{0};
  std::unique_ptr<Worker> worker_;
};
INSTANTIATE_TEST_SUITE_P(Tiers, WorkerCudaTest,
                         testing::Values(KvTier::kUnified, KvTier::kDiscrete),
                         [](const auto& info) {
                           return info.param == KvTier::kUnified ? "unified" : "discrete";
                         });

TEST_P(WorkerCudaTest, ADeviceThatBreaksEndsEverythingOnceAndForAll) {
  struct Fault {
    const char* call;
    int skip;
  };
  for (const Fault& fault :
       {Fault{"launch", 0}, Fault{"launch", 700}, Fault{"cudaStreamSynchronize", 5},
        Fault{"cudaMemcpyAsync", 40}, Fault{"cudaStreamSynchronize", 40}}) {
    fatal_calls_ = 0;
    Start();
    cuda_on_host::BreakDevice(fault.call, cudaErrorIllegalAddress, fault.skip);
    std::vector<std::unique_ptr<Answer>> answers;
    for (int i = 0; i < 3; ++i) {
      auto answer = std::make_unique<Answer>();
      const absl::Status submitted = Submit(absl::StrCat("r", i), *answer, 200, 500);
      if (submitted.ok()) {
        answers.push_back(std::move(answer));
      } else {  // the device broke before this one came
        EXPECT_EQ(submitted.code(), absl::StatusCode::kUnavailable) << submitted;
      }
    }
    ASSERT_FALSE(answers.empty());
    for (const auto& answer : answers) {
      EXPECT_EQ(answer->Await().code(), absl::StatusCode::kUnavailable) << fault.call;
    }
    EXPECT_FALSE(worker_->stats().healthy) << fault.call;
    EXPECT_FALSE(worker_->stats().accepting);
    Answer late;
    EXPECT_EQ(Submit("late", late, 20, 1).code(), absl::StatusCode::kUnavailable);
    worker_->Stop(absl::Seconds(60));
    EXPECT_EQ(fatal_calls_.load(), 1) << fault.call;
    EXPECT_EQ(fatal_.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(fatal_.message()), HasSubstr("cuda")) << fault.call;
    EXPECT_EQ(worker_->stats().running_requests, 0);
    worker_.reset();
    cuda_on_host::Repair();
  }
}

TEST_P(WorkerCudaTest, ACancelGivesEveryPageBackAndTheNextRequestIsServed) {
  Start();
  for (int round = 0; round < 6; ++round) {
    const std::string id = absl::StrCat("c", round);
    Answer answer;
    ASSERT_TRUE(Submit(id, answer, 900, 500).ok());
    if (round % 2 == 0) {
      answer.AwaitAccepted();
    } else {
      answer.AwaitDeltas(2);
    }
    EXPECT_TRUE(worker_->Cancel(id, CancelCause::kClient));
    EXPECT_EQ(answer.Await().code(), absl::StatusCode::kCancelled);
    Answer next;
    ASSERT_TRUE(Submit(absl::StrCat("n", round), next, 100, 4).ok());
    EXPECT_TRUE(next.Await().ok());
    EXPECT_EQ(next.tokens().size(), 4u);
  }
  worker_->Stop(absl::Seconds(60));
  EXPECT_EQ(worker_->stats().engine.kv.device.used_slabs, 0);
  EXPECT_EQ(worker_->stats().engine.kv.device.reserved_slabs, 0);
  EXPECT_TRUE(worker_->stats().healthy);
  EXPECT_EQ(fatal_calls_.load(), 0);
}

}  // namespace
}  // namespace slim
