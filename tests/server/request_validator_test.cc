#include "server/request_validator.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/status_reason.h"
#include "sliminfer/v1/inference.pb.h"

namespace slim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace v1 = sliminfer::v1;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

class RequestValidatorTest : public ::testing::Test {
 protected:
  RequestValidatorTest() {
    model_.num_layers = 12;
    model_.vocab_size = 1000;
    model_.context_tokens = 512;
    context_.model_name = "tiny";
    context_.pruning.model = &model_;
    context_.pruning.block_tokens = 32;
  }

  static v1::GenerateRequest TextRequest() {
    v1::GenerateRequest request;
    request.set_text("hello");
    return request;
  }
  absl::StatusOr<Request> Build(const v1::GenerateRequest& request, int prompt_tokens) {
    const absl::Status valid = ValidateGenerateRequest(request, context_);
    if (!valid.ok()) return valid;
    std::vector<int32_t> prompt(prompt_tokens);
    for (int i = 0; i < prompt_tokens; ++i) prompt[i] = i;
    return BuildRequest(request, prompt, context_);
  }

  ModelConfig model_;
  ValidationContext context_;
};

TEST_F(RequestValidatorTest, DefaultsAreTheDocumentedOnes) {
  const auto request = Build(TextRequest(), 10);
  ASSERT_TRUE(request.ok()) << request.status();
  const SamplingParams& sampling = request->spec.sampling;
  EXPECT_EQ(sampling.temperature, 1.0f);
  EXPECT_EQ(sampling.top_p, 1.0f);
  EXPECT_EQ(sampling.top_k, 0);
  EXPECT_EQ(sampling.repetition_penalty, 1.0f);
  EXPECT_EQ(request->spec.max_new_tokens, 256);
  EXPECT_EQ(request->spec.top_logprobs, -1);
  EXPECT_TRUE(request->response.text);
  EXPECT_FALSE(request->response.token_ids);
  EXPECT_TRUE(request->spec.pruning.stages.empty());
  EXPECT_THAT(request->id, HasSubstr("gen-"));
  EXPECT_EQ(request->priority, 0);
}

TEST_F(RequestValidatorTest, ZeroIsAValueAndNotUnset) {
  v1::GenerateRequest wire = TextRequest();
  wire.mutable_sampling()->set_temperature(0);
  wire.mutable_sampling()->set_seed(0);
  wire.mutable_response()->set_logprobs(0);
  wire.mutable_response()->set_text(false);
  const auto request = Build(wire, 10);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->spec.sampling.temperature, 0.0f);
  EXPECT_EQ(request->spec.seed, 0u);
  EXPECT_EQ(request->spec.top_logprobs, 0);
  EXPECT_FALSE(request->response.text);
}

TEST_F(RequestValidatorTest, LimitsThemselvesAreAccepted) {
  v1::GenerateRequest wire = TextRequest();
  wire.set_request_id(std::string(128, 'r'));
  wire.set_model("tiny");
  wire.set_priority(-100);
  wire.set_cache_salt(std::string(256, 's'));
  v1::SamplingParams* sampling = wire.mutable_sampling();
  sampling->set_temperature(2);
  sampling->set_top_p(1);
  sampling->set_top_k(1000);
  sampling->set_min_p(1);
  sampling->set_repetition_penalty(2);
  sampling->set_frequency_penalty(-2);
  sampling->set_presence_penalty(2);
  for (uint32_t i = 0; i < 300; ++i) (*sampling->mutable_logit_bias())[i] = i % 2 ? 100 : -100;
  wire.mutable_stopping()->set_max_tokens(502);
  wire.mutable_stopping()->set_min_tokens(502);
  for (int i = 0; i < 4; ++i) wire.mutable_stopping()->add_stop_strings(std::string(256, 'x'));
  for (int i = 0; i < 16; ++i) wire.mutable_stopping()->add_stop_token_ids(999);
  wire.mutable_response()->set_logprobs(20);
  const auto request = Build(wire, 10);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->spec.max_new_tokens, 502);
  EXPECT_EQ(request->spec.sampling.logit_bias.size(), 300u);
  EXPECT_EQ(request->spec.sampling.logit_bias[1].first, 1);  // ordered by token
}

struct BadRequest {
  const char* reason;
  const char* message;
  std::function<void(v1::GenerateRequest*)> change;
};

#define SAMPLING(field, value) \
  [](v1::GenerateRequest* r) { r->mutable_sampling()->set_##field(value); }
#define STOPPING(field, value) \
  [](v1::GenerateRequest* r) { r->mutable_stopping()->set_##field(value); }
#define PRUNING(field, value) \
  [](v1::GenerateRequest* r) { r->mutable_pruning()->set_##field(value); }

std::vector<BadRequest> SamplingCases() {
  return {
      {"BAD_FIELD", "sampling.temperature", SAMPLING(temperature, kNan)},
      {"BAD_FIELD", "sampling.temperature", SAMPLING(temperature, kInf)},
      {"BAD_FIELD", "sampling.temperature", SAMPLING(temperature, -0.1f)},
      {"BAD_FIELD", "sampling.temperature", SAMPLING(temperature, 2.1f)},
      {"BAD_FIELD", "sampling.temperature", SAMPLING(temperature, 1e38f)},
      {"BAD_FIELD", "sampling.top_p", SAMPLING(top_p, 0)},
      {"BAD_FIELD", "sampling.top_p", SAMPLING(top_p, 1.01f)},
      {"BAD_FIELD", "sampling.top_p", SAMPLING(top_p, kNan)},
      {"BAD_FIELD", "sampling.top_k", SAMPLING(top_k, -1)},
      {"BAD_FIELD", "sampling.top_k", SAMPLING(top_k, 1001)},
      {"BAD_FIELD", "sampling.top_k", SAMPLING(top_k, INT32_MIN)},
      {"BAD_FIELD", "sampling.min_p", SAMPLING(min_p, -0.5f)},
      {"BAD_FIELD", "sampling.min_p", SAMPLING(min_p, kNan)},
      {"BAD_FIELD", "sampling.min_p", SAMPLING(min_p, 1.5f)},
      {"BAD_FIELD", "sampling.repetition_penalty", SAMPLING(repetition_penalty, 0)},
      {"BAD_FIELD", "sampling.repetition_penalty", SAMPLING(repetition_penalty, -1)},
      {"BAD_FIELD", "sampling.repetition_penalty", SAMPLING(repetition_penalty, 2.5f)},
      {"BAD_FIELD", "sampling.repetition_penalty", SAMPLING(repetition_penalty, kInf)},
      {"BAD_FIELD", "sampling.frequency_penalty", SAMPLING(frequency_penalty, -2.5f)},
      {"BAD_FIELD", "sampling.frequency_penalty", SAMPLING(frequency_penalty, kNan)},
      {"BAD_FIELD", "sampling.presence_penalty", SAMPLING(presence_penalty, 2.5f)},
      {"BAD_FIELD", "sampling.presence_penalty", SAMPLING(presence_penalty, -kInf)},
      {"BAD_FIELD", "logit_bias",
       [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[1000] = 1; }},
      {"BAD_FIELD", "logit_bias",
       [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[UINT32_MAX] = 1; }},
      {"BAD_FIELD", "sampling.logit_bias[7]",
       [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[7] = kNan; }},
      {"BAD_FIELD", "sampling.logit_bias[7]",
       [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[7] = -kInf; }},
      {"BAD_FIELD", "sampling.logit_bias[7]",
       [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[7] = 100.5f; }},
      {"LIMIT_LOGIT_BIAS", "301 entries",
       [](auto* r) {
         for (uint32_t i = 0; i < 301; ++i) (*r->mutable_sampling()->mutable_logit_bias())[i] = 1;
       }},
  };
}

std::vector<BadRequest> OtherCases() {
  return {
      {"BAD_FIELD", "prompt is not set", [](auto* r) { r->clear_prompt(); }},
      {"LIMIT_PROMPT", "1048577 bytes", [](auto* r) { r->set_text(std::string(1048577, 'a')); }},
      {"BAD_FIELD", "text is not valid UTF-8", [](auto* r) { r->set_text("\xff\xfe"); }},
      {"LIMIT_PROMPT", "token_ids.ids is empty", [](auto* r) { r->mutable_token_ids(); }},
      {"BAD_FIELD", "token_ids.ids[1] is 1000",
       [](auto* r) {
         r->mutable_token_ids()->add_ids(1);
         r->mutable_token_ids()->add_ids(1000);
       }},
      {"BAD_FIELD", "token_ids.ids[0]",
       [](auto* r) { r->mutable_token_ids()->add_ids(UINT32_MAX); }},
      {"LIMIT_PROMPT", "chat.messages is empty", [](auto* r) { r->mutable_chat(); }},
      {"BAD_FIELD", "chat.messages[0].role",
       [](auto* r) { r->mutable_chat()->add_messages()->set_role("tool\n"); }},
      {"BAD_FIELD", "chat.messages[0].role", [](auto* r) { r->mutable_chat()->add_messages(); }},
      {"BAD_FIELD", "chat.messages[1].role",
       [](auto* r) {
         r->mutable_chat()->add_messages()->set_role("user");
         r->mutable_chat()->add_messages()->set_role("system");
       }},
      {"LIMIT_MESSAGES", "1025 messages",
       [](auto* r) {
         for (int i = 0; i < 1025; ++i) r->mutable_chat()->add_messages()->set_role("user");
       }},
      {"LIMIT_PROMPT", "chat.messages is",
       [](auto* r) {
         for (int i = 0; i < 3; ++i) {
           auto* message = r->mutable_chat()->add_messages();
           message->set_role("user");
           message->set_content(std::string(400000, 'a'));
         }
       }},
      {"BAD_FIELD", "content is not valid UTF-8",
       [](auto* r) {
         auto* message = r->mutable_chat()->add_messages();
         message->set_role("user");
         message->set_content("\xc0\x80");
       }},
      {"BAD_FIELD", "request_id", [](auto* r) { r->set_request_id(std::string(129, 'a')); }},
      {"BAD_FIELD", "request_id", [](auto* r) { r->set_request_id("a\nb"); }},
      {"BAD_FIELD", "request_id", [](auto* r) { r->set_request_id("\x1b[31m"); }},
      {"BAD_FIELD", "request_id", [](auto* r) { r->set_request_id(std::string("a\0b", 3)); }},
      {"BAD_FIELD", "request_id", [](auto* r) { r->set_request_id("caf\xc3\xa9"); }},
      {"MODEL", "model is", [](auto* r) { r->set_model("other"); }},
      {"BAD_FIELD", "overflow",
       [](auto* r) { r->set_overflow(static_cast<v1::OverflowPolicy>(9)); }},
      {"BAD_FIELD", "priority", [](auto* r) { r->set_priority(101); }},
      {"BAD_FIELD", "priority", [](auto* r) { r->set_priority(INT32_MIN); }},
      {"LIMIT_CACHE_SALT", "cache_salt", [](auto* r) { r->set_cache_salt(std::string(257, 's')); }},
      {"BAD_FIELD", "stopping.max_tokens", STOPPING(max_tokens, 0)},
      {"BAD_FIELD", "stopping.max_tokens", STOPPING(max_tokens, -1)},
      {"BAD_FIELD", "stopping.max_tokens", STOPPING(max_tokens, 512)},
      {"BAD_FIELD", "stopping.max_tokens", STOPPING(max_tokens, INT32_MAX)},
      {"BAD_FIELD", "stopping.min_tokens", STOPPING(min_tokens, -1)},
      {"BAD_FIELD", "stopping.min_tokens", STOPPING(min_tokens, 300)},  // above the default maximum
      {"BAD_FIELD", "stopping.min_tokens",
       [](auto* r) {
         r->mutable_stopping()->set_max_tokens(5);
         r->mutable_stopping()->set_min_tokens(6);
       }},
      {"LIMIT_STOP_STRINGS", "5 strings",
       [](auto* r) {
         for (int i = 0; i < 5; ++i) r->mutable_stopping()->add_stop_strings("x");
       }},
      {"LIMIT_STOP_STRINGS", "stop_strings[0] is 0 bytes",
       [](auto* r) { r->mutable_stopping()->add_stop_strings(""); }},
      {"LIMIT_STOP_STRINGS", "257 bytes",
       [](auto* r) { r->mutable_stopping()->add_stop_strings(std::string(257, 'x')); }},
      {"BAD_FIELD", "stop_strings[0] is not valid UTF-8",
       [](auto* r) { r->mutable_stopping()->add_stop_strings("\xed\xa0\x80"); }},
      {"LIMIT_STOP_TOKEN_IDS", "17 ids",
       [](auto* r) {
         for (int i = 0; i < 17; ++i) r->mutable_stopping()->add_stop_token_ids(1);
       }},
      {"BAD_FIELD", "stop_token_ids[0]",
       [](auto* r) { r->mutable_stopping()->add_stop_token_ids(1000); }},
      {"BAD_FIELD", "response.logprobs", [](auto* r) { r->mutable_response()->set_logprobs(-1); }},
      {"LIMIT_LOGPROBS", "response.logprobs",
       [](auto* r) { r->mutable_response()->set_logprobs(21); }},
  };
}

v1::PruningOptions::Stage* AddStage(v1::GenerateRequest* request, int layer, int64_t budget) {
  request->mutable_pruning()->set_mode(v1::PruningOptions::CUSTOM);
  auto* stage = request->mutable_pruning()->add_stages();
  stage->set_layer(layer);
  stage->set_budget_tokens(budget);
  return stage;
}

std::vector<BadRequest> PruningCases() {
  using P = v1::PruningOptions;
  return {
      {"BAD_FIELD", "pruning.mode", PRUNING(mode, static_cast<P::Mode>(77))},
      {"BAD_FIELD", "pruning.score_kind", PRUNING(score_kind, static_cast<P::ScoreKind>(-1))},
      {"BAD_FIELD", "pruning.decode_mode", PRUNING(decode_mode, static_cast<P::DecodeMode>(3))},
      {"BAD_FIELD", "pruning.ratio", PRUNING(ratio, 0)},
      {"BAD_FIELD", "pruning.ratio", PRUNING(ratio, std::nan(""))},
      {"BAD_FIELD", "pruning.ratio", PRUNING(ratio, 1.5)},
      {"BAD_FIELD", "only with mode RATIO", PRUNING(ratio, 0.5)},
      {"BAD_FIELD", "pruning.min_prompt_tokens", PRUNING(min_prompt_tokens, -1)},
      {"BAD_FIELD", "pruning.min_prompt_tokens", PRUNING(min_prompt_tokens, 513)},
      {"BAD_FIELD", "pruning.sink_blocks", PRUNING(sink_blocks, 65)},
      {"BAD_FIELD", "pruning.local_tokens", PRUNING(local_tokens, INT32_MAX)},
      {"BAD_FIELD", "pruning.gamma", PRUNING(gamma, std::nan(""))},
      {"BAD_FIELD", "pruning.gamma", PRUNING(gamma, 1.1)},
      {"BAD_FIELD", "pruning.decode_budget_tokens", PRUNING(decode_budget_tokens, 31)},
      {"BAD_FIELD", "pruning.decode_budget_tokens", PRUNING(decode_budget_tokens, INT64_MAX)},
      {"BAD_FIELD", "pruning.stages", PRUNING(mode, P::CUSTOM)},
      {"BAD_FIELD", "only with mode CUSTOM",
       [](auto* r) {
         AddStage(r, 1, 32);
         r->mutable_pruning()->set_mode(P::OFF);
       }},
      {"BAD_FIELD", "pruning.stages[0].layer", [](auto* r) { AddStage(r, 0, 32); }},
      {"BAD_FIELD", "pruning.stages[0].layer", [](auto* r) { AddStage(r, 12, 32); }},
      {"BAD_FIELD", "pruning.stages[0].layer", [](auto* r) { AddStage(r, INT32_MIN, 32); }},
      {"BAD_FIELD", "pruning.stages[1].layer",
       [](auto* r) {
         AddStage(r, 5, 64);
         AddStage(r, 5, 32);
       }},
      {"BAD_FIELD", "pruning.stages[0].budget_tokens", [](auto* r) { AddStage(r, 5, 0); }},
      {"BAD_FIELD", "pruning.stages[0].budget_tokens", [](auto* r) { AddStage(r, 5, 33); }},
      {"BAD_FIELD", "pruning.stages[0].budget_tokens", [](auto* r) { AddStage(r, 5, -32); }},
      {"BAD_FIELD", "pruning.stages[1].budget_tokens",
       [](auto* r) {
         AddStage(r, 5, 32);
         AddStage(r, 6, 64);
       }},
      {"BAD_FIELD", "pruning.stages is 12 stages",
       [](auto* r) {
         for (int i = 1; i <= 12; ++i) AddStage(r, i, 32);
       }},
      {"FEATURE", "PROFILE", PRUNING(mode, P::PROFILE)},
  };
}

TEST_F(RequestValidatorTest, BadRequestsAreRefusedByFieldValueAndRange) {
  std::vector<BadRequest> cases = SamplingCases();
  for (auto& bad : OtherCases()) cases.push_back(bad);
  for (auto& bad : PruningCases()) cases.push_back(bad);
  EXPECT_GE(cases.size(), 60u);
  for (const BadRequest& bad : cases) {
    v1::GenerateRequest wire = TextRequest();
    bad.change(&wire);
    const auto request = Build(wire, 10);
    ASSERT_FALSE(request.ok()) << bad.message;
    EXPECT_EQ(ReasonOf(request.status()), bad.reason) << request.status();
    const std::string message(request.status().message());
    EXPECT_THAT(message, HasSubstr(bad.message));
    EXPECT_LT(message.size(), 500u);  // no echo of a large value
    for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << bad.message;
  }
}

TEST_F(RequestValidatorTest, TooLongPromptsNameBothSizes) {
  const auto too_long = Build(TextRequest(), 512);
  ASSERT_FALSE(too_long.ok());
  EXPECT_EQ(ReasonOf(too_long.status()), "CONTEXT_LENGTH");
  EXPECT_THAT(std::string(too_long.status().message()), HasSubstr("512 tokens"));
  EXPECT_THAT(std::string(too_long.status().message()), HasSubstr("511"));
  v1::GenerateRequest wire = TextRequest();
  wire.mutable_stopping()->set_max_tokens(100);
  const auto sum = Build(wire, 413);
  ASSERT_FALSE(sum.ok());
  EXPECT_EQ(ReasonOf(sum.status()), "CONTEXT_LENGTH");
  EXPECT_TRUE(Build(wire, 412).ok());
}

TEST_F(RequestValidatorTest, UnsetMaxTokensIsCutToTheContext) {
  const auto request = Build(TextRequest(), 511);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->spec.max_new_tokens, 1);
}

TEST_F(RequestValidatorTest, IgnoreEosReachesTheStopOptions) {
  v1::GenerateRequest wire = TextRequest();
  EXPECT_FALSE(Build(wire, 4)->stop.ignore_end_tokens);
  wire.mutable_stopping()->set_ignore_eos(true);
  EXPECT_TRUE(Build(wire, 4)->stop.ignore_end_tokens);
}

TEST_F(RequestValidatorTest, EmptyPromptIsRefused) {
  const auto request = Build(TextRequest(), 0);
  ASSERT_FALSE(request.ok());
  EXPECT_EQ(ReasonOf(request.status()), "LIMIT_PROMPT");
}

TEST_F(RequestValidatorTest, TruncateLeftKeepsTheEndAndTheBeginToken) {
  v1::GenerateRequest wire = TextRequest();
  wire.set_overflow(v1::TRUNCATE_LEFT);
  wire.mutable_stopping()->set_max_tokens(509);
  auto request = Build(wire, 10);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->spec.prompt, ElementsAre(7, 8, 9));
  context_.has_bos = true;
  context_.bos_token_id = 0;
  request = Build(wire, 10);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->spec.prompt, ElementsAre(0, 8, 9));
}

TEST_F(RequestValidatorTest, TruncateMiddleKeepsBothEnds) {
  v1::GenerateRequest wire = TextRequest();
  wire.set_overflow(v1::TRUNCATE_MIDDLE);
  wire.mutable_stopping()->set_max_tokens(507);
  const auto request = Build(wire, 10);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->spec.prompt, ElementsAre(0, 1, 2, 8, 9));
}

TEST_F(RequestValidatorTest, TruncationWithoutMaxTokensLeavesRoomForTheDefault) {
  v1::GenerateRequest wire = TextRequest();
  wire.set_overflow(v1::TRUNCATE_LEFT);
  const auto fits = Build(wire, 511);  // not over the context: not touched
  ASSERT_TRUE(fits.ok());
  EXPECT_EQ(fits->spec.prompt.size(), 511u);
  const auto cut = Build(wire, 600);
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_EQ(cut->spec.prompt.size(), 256u);
  EXPECT_EQ(cut->spec.max_new_tokens, 256);
  EXPECT_EQ(cut->spec.prompt.back(), 599);
}

TEST_F(RequestValidatorTest, CustomStagesBecomeTheSchedule) {
  v1::GenerateRequest wire = TextRequest();
  AddStage(&wire, 3, 128);
  AddStage(&wire, 7, 64);
  wire.mutable_pruning()->set_sink_blocks(0);
  wire.mutable_pruning()->set_score_kind(v1::PruningOptions::RANDOM);
  wire.mutable_pruning()->set_random_seed(5);
  wire.mutable_pruning()->set_decode_mode(v1::PruningOptions::RESELECT);
  const auto request = Build(wire, 300);
  ASSERT_TRUE(request.ok()) << request.status();
  const PruneSchedule& schedule = request->spec.pruning;
  ASSERT_EQ(schedule.stages.size(), 2u);
  EXPECT_EQ(schedule.stages[1].layer, 7);
  EXPECT_EQ(schedule.stages[1].budget_tokens, 64);
  EXPECT_EQ(schedule.sink_blocks, 0);
  EXPECT_EQ(schedule.score_kind, ScoreKind::kRandom);
  EXPECT_EQ(schedule.random_seed, 5u);
  EXPECT_EQ(schedule.decode_mode, DecodeMode::kReselect);
}

TEST_F(RequestValidatorTest, ServerDefaultPruningAppliesUnlessTheRequestSaysOff) {
  context_.pruning.server_default = *ParsePruningDefault("ratio:0.5");
  const auto by_default = Build(TextRequest(), 400);
  ASSERT_TRUE(by_default.ok()) << by_default.status();
  ASSERT_FALSE(by_default->spec.pruning.stages.empty());
  EXPECT_EQ(by_default->spec.pruning.stages[0].budget_tokens, 224);  // 200 in blocks of 32
  context_.pruning.server_default = *ParsePruningDefault("auto");    // and there is no profile
  EXPECT_TRUE(Build(TextRequest(), 400)->spec.pruning.stages.empty());
  context_.pruning.server_default = *ParsePruningDefault("ratio:0.5");
  v1::GenerateRequest wire = TextRequest();
  wire.mutable_pruning()->set_mode(v1::PruningOptions::OFF);
  const auto off = Build(wire, 400);
  ASSERT_TRUE(off.ok());
  EXPECT_TRUE(off->spec.pruning.stages.empty());
}

TEST(Utf8Test, AcceptsExactlyWellFormedText) {
  for (const char* good : {"", "a", "\xc2\x80", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xf0\x90\x80\x80",
                           "\xf4\x8f\xbf\xbf", "\xef\xbf\xbf"}) {
    EXPECT_TRUE(IsValidUtf8(good)) << good;
  }
  for (const char* bad :
       {"\x80", "\xc0\x80", "\xc1\xbf", "\xc2", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "a\xe2\x82", "\xe2\x28\xa1"}) {
    EXPECT_FALSE(IsValidUtf8(bad));
  }
}

TEST(StatusReasonTest, ReasonAndDelayTravelWithTheStatus) {
  const absl::Status status = ErrorWithReason(absl::StatusCode::kResourceExhausted, reason::kQuota,
                                              "full", absl::Milliseconds(1500));
  EXPECT_EQ(ReasonOf(status), "QUOTA");
  EXPECT_EQ(*RetryAfterOf(status), absl::Milliseconds(1500));
  EXPECT_EQ(ReasonOf(absl::InvalidArgumentError("x")), "BAD_FIELD");
  EXPECT_EQ(ReasonOf(absl::OkStatus()), "");
  EXPECT_FALSE(RetryAfterOf(absl::InternalError("x")).has_value());
}

}  // namespace
}  // namespace slim
