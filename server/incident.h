// What a client may see of an error, and what only the log may: exceptions and broken invariants
// become INTERNAL with an incident id that stands in the log beside the details. Thread-safe.
#ifndef SERVER_INCIDENT_H_
#define SERVER_INCIDENT_H_

#include <exception>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace slim {

// Logs `details` under a new incident id; INTERNAL with reason BUG that names only the id.
absl::Status ReportIncident(absl::string_view where, absl::string_view details);

// Statuses that may hold internal details (UNKNOWN, INTERNAL without a reason of its own) become
// incidents; all others come back as they are.
absl::Status PublicStatus(absl::string_view where, const absl::Status& status);

// Runs `body`, which returns an absl::Status; an exception becomes an incident.
template <typename F>
absl::Status Guarded(absl::string_view where, F body) {
  try {
    return body();
  } catch (const std::exception& error) {
    return ReportIncident(where, error.what());
  } catch (...) {
    return ReportIncident(where, "exception of unknown type");
  }
}

}  // namespace slim

#endif  // SERVER_INCIDENT_H_
