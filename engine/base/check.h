// SLIM_CHECK: aborts with file, line and message when one of our own invariants is broken.
// Never used on data from outside (files, RPCs, flags): those get an absl::Status.
#ifndef ENGINE_BASE_CHECK_H_
#define ENGINE_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace slim {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* expression) {
  std::fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, expression);
  std::abort();
}

}  // namespace slim

#define SLIM_CHECK(condition) \
  ((condition) ? (void)0 : ::slim::CheckFailed(__FILE__, __LINE__, #condition))

#endif  // ENGINE_BASE_CHECK_H_
