// Machine-readable reasons on an absl::Status, sent to clients as trailing metadata `x-reason`,
// with `retry-after-ms` where a retry can help. Thread-safe (pure functions).
#ifndef SERVER_STATUS_REASON_H_
#define SERVER_STATUS_REASON_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace slim {

// The codes of the status table; one constant each, so that no text is misspelt.
namespace reason {
inline constexpr char kBadField[] = "BAD_FIELD";
inline constexpr char kLimit[] = "LIMIT";  // with a suffix: LIMIT_STOP_STRINGS, ...
inline constexpr char kContextLength[] = "CONTEXT_LENGTH";
inline constexpr char kExceedsCapacity[] = "EXCEEDS_CAPACITY";
inline constexpr char kDuplicate[] = "DUPLICATE";
inline constexpr char kModel[] = "MODEL";
inline constexpr char kLoading[] = "LOADING";
inline constexpr char kFeature[] = "FEATURE";
inline constexpr char kAuth[] = "AUTH";
inline constexpr char kOverload[] = "OVERLOAD";
inline constexpr char kQuota[] = "QUOTA";
inline constexpr char kSlowConsumer[] = "SLOW_CONSUMER";
inline constexpr char kQueueTimeout[] = "QUEUE_TIMEOUT";
inline constexpr char kDeadline[] = "DEADLINE";
inline constexpr char kCancelled[] = "CANCELLED";
inline constexpr char kShuttingDown[] = "SHUTTING_DOWN";
inline constexpr char kKvTransfer[] = "KV_TRANSFER";
inline constexpr char kBackendFatal[] = "BACKEND_FATAL";
inline constexpr char kNumeric[] = "NUMERIC";
inline constexpr char kBug[] = "BUG";
}  // namespace reason

// A status that carries a reason, and a delay after which a retry makes sense.
absl::Status ErrorWithReason(absl::StatusCode code, absl::string_view reason,
                             absl::string_view message,
                             absl::optional<absl::Duration> retry_after = absl::nullopt);

// The reason of a status, or a default for its code (INVALID_ARGUMENT -> BAD_FIELD, ...).
std::string ReasonOf(const absl::Status& status);
absl::optional<absl::Duration> RetryAfterOf(const absl::Status& status);

}  // namespace slim

#endif  // SERVER_STATUS_REASON_H_
