// Everything an operator can choose, read once at start. The only reader of flags and environment.
// Precedence: flag > environment (SLIMINFER_<NAME>) > config file > default.
//
// Thread rule: plain values, immutable after ParseConfig.
#ifndef SERVER_CONFIG_H_
#define SERVER_CONFIG_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "engine/backend/create_backend.h"
#include "engine/base/log.h"
#include "engine/prune/prune_plan.h"
#include "kvcache/kv_manager.h"
#include "server/pruning_options.h"

namespace slim {

enum class ReflectionMode { kAuto, kOn, kOff };  // kAuto: on loopback without tokens only

struct ServerConfig {
  // ---- model ----
  std::string model;       // GGUF file or directory in Hugging Face layout; required
  std::string model_name;  // empty: the name in the file, else the file's own name
  BackendKind backend = BackendKind::kAuto;
  int threads = 0;  // 0: what cpuset and cgroup allow
  KvTier kv_tier = KvTier::kUnified;
  int64_t kv_device_bytes = 0;  // 0: chosen from the memory that is free
  int64_t kv_host_bytes = 0;    // 0: chosen from the memory that is free; discrete tier only
  int block_tokens = 0;         // tokens per KV block, 32 or 64; 0: the profile's, else 64
  PruningDefault pruning;
  std::string profile;  // file with a pruning profile
  DecodeMode decode = DecodeMode::kFrozen;
  int64_t prefix_cache_bytes = int64_t{256} << 20;  // 0: no prefix cache

  // ---- serving ----
  std::string listen = "127.0.0.1:50051";
  std::string http_listen = "127.0.0.1:9464";  // empty: no HTTP endpoint
  std::string port_file;                       // chosen addresses are written here, for scripts
  int max_running = 32;                        // sequences in prefill or decode
  int max_queued_requests = 64;
  int64_t max_queued_tokens = 262144;  // prompt tokens that wait
  absl::Duration max_queue_wait = absl::Seconds(10);
  absl::Duration drain_timeout = absl::Seconds(25);
  absl::Duration write_stall_timeout = absl::Seconds(30);
  absl::Duration max_request_time = absl::Minutes(10);
  int prefill_chunk_tokens = 0;  // most rows of prefill per step; 0: the scheduler's choice
  int max_streams_per_connection = 64;
  int max_requests_per_peer = 0;        // requests in flight per client host; 0: no such limit
  int64_t max_message_bytes = 3 << 19;  // 1.5 MiB
  int64_t max_metadata_bytes = 8 << 10;
  ReflectionMode reflection = ReflectionMode::kAuto;

  // ---- security ----
  bool insecure_wildcard = false;  // allows a wildcard address without TLS
  std::string tls_cert;            // PEM; with tls_key: TLS on
  std::string tls_key;
  std::string tls_client_ca;     // PEM; clients must show a certificate of this authority
  std::string auth_tokens_file;  // one token, or SHA-256 of one, a line

  LogFormat log_format = LogFormat::kText;

  bool tls() const { return !tls_cert.empty(); }
  bool reflection_enabled() const;

  // INVALID_ARGUMENT naming field, value and range. Opens no file.
  absl::Status Validate() const;
};

// What the command line asks for.
struct ConfigRequest {
  enum class Action { kServe, kPrintConfig, kPrintVersion, kPrintHelp };
  Action action = Action::kServe;
  ServerConfig config;
  std::string text;  // to print, for the actions that print
};

using EnvironmentLookup = std::function<absl::optional<std::string>(absl::string_view name)>;

// Reads flags (without the program's name), then the environment, then the file of --config.
// INVALID_ARGUMENT names the flag, variable or file and line key, the value and what is allowed.
// The configuration is validated, except when only version or help is asked for.
absl::StatusOr<ConfigRequest> ParseConfig(const std::vector<std::string>& arguments,
                                          const EnvironmentLookup& environment);

// The process's environment.
absl::optional<std::string> ProcessEnvironment(absl::string_view name);

// The effective configuration as a config file (TOML), every option in the table's order.
std::string FormatConfig(const ServerConfig& config);

}  // namespace slim

#endif  // SERVER_CONFIG_H_
