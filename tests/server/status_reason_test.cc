#include "server/status_reason.h"

#include <gtest/gtest.h>

#include <string>

namespace slim {
namespace {

TEST(StatusReasonTest, CarriesReasonMessageAndDelay) {
  const absl::Status status = ErrorWithReason(absl::StatusCode::kResourceExhausted,
                                              reason::kQueueTimeout, "too late", absl::Seconds(2));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "too late");
  EXPECT_EQ(ReasonOf(status), "QUEUE_TIMEOUT");
  EXPECT_EQ(RetryAfterOf(status), absl::Seconds(2));
}

TEST(StatusReasonTest, NoDelayUnlessGiven) {
  EXPECT_FALSE(RetryAfterOf(ErrorWithReason(absl::StatusCode::kInternal, "BUG", "x")).has_value());
  EXPECT_FALSE(RetryAfterOf(absl::InternalError("x")).has_value());
  EXPECT_FALSE(RetryAfterOf(absl::OkStatus()).has_value());
}

TEST(StatusReasonTest, NegativeDelayIsZero) {
  const absl::Status status =
      ErrorWithReason(absl::StatusCode::kUnavailable, "LOADING", "x", -absl::Seconds(1));
  EXPECT_EQ(RetryAfterOf(status), absl::ZeroDuration());
}

TEST(StatusReasonTest, EveryCodeHasADefault) {
  const struct {
    absl::StatusCode code;
    const char* reason;
  } cases[] = {
      {absl::StatusCode::kInvalidArgument, reason::kBadField},
      {absl::StatusCode::kOutOfRange, reason::kBadField},
      {absl::StatusCode::kAlreadyExists, reason::kDuplicate},
      {absl::StatusCode::kNotFound, reason::kModel},
      {absl::StatusCode::kUnimplemented, reason::kFeature},
      {absl::StatusCode::kUnauthenticated, reason::kAuth},
      {absl::StatusCode::kPermissionDenied, reason::kAuth},
      {absl::StatusCode::kResourceExhausted, reason::kOverload},
      {absl::StatusCode::kDeadlineExceeded, reason::kDeadline},
      {absl::StatusCode::kCancelled, reason::kCancelled},
      {absl::StatusCode::kUnavailable, reason::kShuttingDown},
      {absl::StatusCode::kAborted, reason::kKvTransfer},
      {absl::StatusCode::kInternal, reason::kBug},
      {absl::StatusCode::kUnknown, reason::kBug},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(ReasonOf(absl::Status(c.code, "x")), c.reason) << absl::StatusCodeToString(c.code);
  }
  EXPECT_EQ(ReasonOf(absl::OkStatus()), "");
}

}  // namespace
}  // namespace slim
