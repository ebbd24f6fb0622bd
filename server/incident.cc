#include "server/incident.h"

#include <random>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/log.h"
#include "server/status_reason.h"

namespace slim {

absl::Status ReportIncident(absl::string_view where, absl::string_view details) {
  thread_local std::random_device device;
  const std::string id = absl::StrFormat("%08x%08x", device(), device());
  Log(LogLevel::kError, "incident", {{"id", id}, {"where", where}, {"details", details}});
  return ErrorWithReason(absl::StatusCode::kInternal, reason::kBug,
                         absl::StrCat("internal error, incident ", id));
}

absl::Status PublicStatus(absl::string_view where, const absl::Status& status) {
  const bool unexplained =
      status.code() == absl::StatusCode::kUnknown ||
      (status.code() == absl::StatusCode::kInternal && ReasonOf(status) == reason::kBug &&
       !absl::StartsWith(status.message(), "internal error, incident "));
  return unexplained ? ReportIncident(where, status.ToString()) : status;
}

}  // namespace slim
