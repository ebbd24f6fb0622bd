// What the client's exit status says. Documented in `sliminfer --help`.
//
//   0    the answer is complete
//   1    something failed on this side (a file, the terminal)
//   2    the command line is wrong
//   3    `health`: the server answered that it is not serving
//   10+c the server, or the way to it, answered with gRPC status code c: 13 INVALID_ARGUMENT,
//        14 DEADLINE_EXCEEDED, 18 RESOURCE_EXHAUSTED, 24 UNAVAILABLE (also: no server there), ...
//   130  stopped by Ctrl-C (143: by SIGTERM)
#ifndef TOOLS_CLIENT_EXIT_CODES_H_
#define TOOLS_CLIENT_EXIT_CODES_H_

namespace slim {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNotServing = 3;
inline constexpr int kExitRpcBase = 10;
inline constexpr int kExitSignalBase = 128;

}  // namespace slim

#endif  // TOOLS_CLIENT_EXIT_CODES_H_
