#include "server/status_reason.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace slim {
namespace {

constexpr char kReasonUrl[] = "sliminfer.v1/reason";
constexpr char kRetryUrl[] = "sliminfer.v1/retry-after-ms";

}  // namespace

absl::Status ErrorWithReason(absl::StatusCode code, absl::string_view reason,
                             absl::string_view message,
                             absl::optional<absl::Duration> retry_after) {
  absl::Status status(code, message);
  status.SetPayload(kReasonUrl, absl::Cord(reason));
  if (retry_after.has_value()) {
    status.SetPayload(kRetryUrl, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(*retry_after))));
  }
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  if (status.ok()) return "";
  if (const auto payload = status.GetPayload(kReasonUrl)) return std::string(*payload);
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return reason::kBadField;
    case absl::StatusCode::kNotFound:
      return reason::kModel;
    case absl::StatusCode::kAlreadyExists:
      return reason::kDuplicate;
    case absl::StatusCode::kUnimplemented:
      return reason::kFeature;
    case absl::StatusCode::kUnauthenticated:
      return reason::kAuth;
    case absl::StatusCode::kResourceExhausted:
      return reason::kOverload;
    case absl::StatusCode::kDeadlineExceeded:
      return reason::kDeadline;
    case absl::StatusCode::kCancelled:
      return reason::kCancelled;
    case absl::StatusCode::kUnavailable:
      return reason::kShuttingDown;
    case absl::StatusCode::kAborted:
      return reason::kKvTransfer;
    default:
      return reason::kBug;
  }
}

absl::optional<absl::Duration> RetryAfterOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryUrl);
  int64_t milliseconds = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &milliseconds)) {
    return absl::nullopt;
  }
  return absl::Milliseconds(milliseconds);
}

}  // namespace slim
