#include "server/status_reason.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace slim {
namespace {

constexpr char kReasonUrl[] = "sliminfer.v1/reason";
constexpr char kRetryAfterUrl[] = "sliminfer.v1/retry-after-ms";

const char* DefaultReason(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return "";
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return reason::kBadField;
    case absl::StatusCode::kAlreadyExists:
      return reason::kDuplicate;
    case absl::StatusCode::kNotFound:
      return reason::kModel;
    case absl::StatusCode::kUnimplemented:
      return reason::kFeature;
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
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
    case absl::StatusCode::kDataLoss:
      return reason::kKvTransfer;
    default:
      return reason::kBug;
  }
}

}  // namespace

absl::Status ErrorWithReason(absl::StatusCode code, absl::string_view reason,
                             absl::string_view message,
                             absl::optional<absl::Duration> retry_after) {
  absl::Status status(code, message);
  status.SetPayload(kReasonUrl, absl::Cord(reason));
  if (retry_after.has_value()) {
    const int64_t milliseconds =
        absl::ToInt64Milliseconds(std::max(*retry_after, absl::ZeroDuration()));
    status.SetPayload(kRetryAfterUrl, absl::Cord(absl::StrCat(milliseconds)));
  }
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kReasonUrl);
  if (payload.has_value()) return std::string(*payload);
  return DefaultReason(status.code());
}

absl::optional<absl::Duration> RetryAfterOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryAfterUrl);
  if (!payload.has_value()) return absl::nullopt;
  int64_t milliseconds = 0;
  if (!absl::SimpleAtoi(std::string(*payload), &milliseconds)) return absl::nullopt;
  return absl::Milliseconds(milliseconds);
}

}  // namespace slim
