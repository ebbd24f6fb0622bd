// What a server is, fixed once it runs: for GetServerInfo, GetModelInfo, the log line at start and
// the *_info metrics. Plain values.
#ifndef SERVER_SERVER_FACTS_H_
#define SERVER_SERVER_FACTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace slim {

struct ServerFacts {
  std::string version;
  std::string revision;
  absl::Time started;  // steady clock
  std::string kv_tier;
  int64_t kv_device_bytes = 0;
  int64_t kv_host_bytes = 0;
  std::string kv_dtype;
  int64_t kv_bytes_per_token = 0;  // without pruning, all layers
  int block_tokens = 0;
  int64_t prefix_cache_bytes = 0;
  int max_running = 0;
  int max_queued_requests = 0;
  int64_t max_queued_tokens = 0;
  std::string pruning;  // text of the server's default
  std::string decode_mode;

  std::string model_name;
  std::string dtype;  // most common weight type of the file
  std::string chat_template;
  std::vector<int32_t> eos_token_ids;
  absl::optional<int32_t> bos_token_id;
  std::string profile;
};

}  // namespace slim

#endif  // SERVER_SERVER_FACTS_H_
