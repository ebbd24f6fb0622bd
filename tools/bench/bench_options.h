// The bench's command line. Plain values; lists are parsed and checked.
#ifndef TOOLS_BENCH_BENCH_OPTIONS_H_
#define TOOLS_BENCH_BENCH_OPTIONS_H_

#include <string>

#include "tools/bench/local_benches.h"
#include "tools/bench/serve_bench.h"
#include "tools/common/local_engine.h"

namespace slim {

struct BenchOptions {
  enum class Command { kPrefill, kDecode, kServe };
  Command command = Command::kPrefill;
  std::string json;  // file, empty: none
  LocalModelOptions local;
  PrefillBenchOptions prefill;
  DecodeBenchOptions decode;
  ServeBenchOptions serve;
  bool fairness = false;
  FairnessOptions fair;
};

// As ParseClientOptions: false with an exit code when there is nothing to run.
bool ParseBenchOptions(int argc, const char* const* argv, BenchOptions* options, int* exit_code);

}  // namespace slim

#endif  // TOOLS_BENCH_BENCH_OPTIONS_H_
