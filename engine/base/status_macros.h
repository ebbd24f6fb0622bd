// Early return on a bad absl::Status or absl::StatusOr, since Debian's Abseil has no such macros.
#ifndef ENGINE_BASE_STATUS_MACROS_H_
#define ENGINE_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// SLIM_RETURN_IF_ERROR(expression): returns the status of `expression` unless it is OK.
#define SLIM_RETURN_IF_ERROR(expression)        \
  do {                                          \
    ::absl::Status slim_status_ = (expression); \
    if (!slim_status_.ok()) [[unlikely]]        \
      return slim_status_;                      \
  } while (false)

// SLIM_ASSIGN_OR_RETURN(auto x, StatusOrExpression()): declares or assigns x, or returns the error.
#define SLIM_ASSIGN_OR_RETURN(target, expression) \
  SLIM_ASSIGN_OR_RETURN_(SLIM_CONCAT_(slim_or_, __LINE__), target, expression)
#define SLIM_ASSIGN_OR_RETURN_(temporary, target, expression) \
  auto temporary = (expression);                              \
  if (!temporary.ok()) [[unlikely]]                           \
    return std::move(temporary).status();                     \
  target = *std::move(temporary)
#define SLIM_CONCAT_(a, b) SLIM_CONCAT_INNER_(a, b)
#define SLIM_CONCAT_INNER_(a, b) a##b

#endif  // ENGINE_BASE_STATUS_MACROS_H_
