// From a GenerateRequest of the wire to a Request: every field checked against its documented
// range, defaults filled in. Thread-safe (pure functions, except for drawing ids and seeds).
//
// The order keeps costs down: what needs no tokens is checked before the prompt is tokenized.
// Every message names field, value and allowed range; no prompt text ever stands in it.
#ifndef SERVER_REQUEST_VALIDATOR_H_
#define SERVER_REQUEST_VALIDATOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/pruning_options.h"
#include "server/request.h"

namespace sliminfer::v1 {
class GenerateRequest;
}

namespace slim {

// Limits of the request message; the wire contract states them too.
inline constexpr int kMaxRequestIdBytes = 128;
inline constexpr int kMaxPromptBytes = 1 << 20;
inline constexpr int kMaxChatMessages = 1024;
inline constexpr int kMaxStopStrings = 4;
inline constexpr int kMaxStopStringBytes = 256;
inline constexpr int kMaxStopTokenIds = 16;
inline constexpr int kMaxLogitBias = 300;
inline constexpr int kMaxTopLogprobs = 20;
inline constexpr int kMaxCacheSaltBytes = 256;
inline constexpr int kDefaultMaxTokens = 256;

// What requests are checked against. The pointers in it are borrowed.
struct ValidationContext {
  std::string model_name;
  PruningContext pruning;  // pruning.model: context length, vocabulary, layers
  bool has_bos = false;
  int32_t bos_token_id = 0;
};

// OK for "" and for the loaded model's name; NOT_FOUND (MODEL) otherwise.
absl::Status CheckModelName(absl::string_view requested, const ValidationContext& context);

// OK for 1 to kMaxRequestIdBytes bytes of printable ASCII; INVALID_ARGUMENT otherwise.
absl::Status CheckRequestId(absl::string_view id);

// "gen-" and 32 random hex digits.
std::string DrawRequestId();

bool IsValidUtf8(absl::string_view text);

// Everything that can be checked without tokens. INVALID_ARGUMENT with reason BAD_FIELD or LIMIT_x,
// NOT_FOUND (MODEL), UNIMPLEMENTED (FEATURE).
absl::Status ValidateGenerateRequest(const sliminfer::v1::GenerateRequest& request,
                                     const ValidationContext& context);

// Applies the overflow policy to the prompt and fills a Request: id, spec, stop and response;
// arrival, deadline and stream are the caller's. `request` has passed ValidateGenerateRequest.
// INVALID_ARGUMENT: LIMIT_PROMPT for an empty prompt, CONTEXT_LENGTH naming both sizes, BAD_FIELD
// for a range that depends on the prompt's length.
absl::StatusOr<Request> BuildRequest(const sliminfer::v1::GenerateRequest& request,
                                     std::vector<int32_t> prompt, const ValidationContext& context);

}  // namespace slim

#endif  // SERVER_REQUEST_VALIDATOR_H_
