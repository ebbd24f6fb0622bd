// Text to tokens and back, as the services need it. Implementations are immutable and thread-safe.
#ifndef SERVER_PROMPT_CODEC_H_
#define SERVER_PROMPT_CODEC_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace sliminfer::v1 {
class GenerateRequest;
}

namespace slim {

class PromptCodec {
 public:
  struct ChatMessage {
    std::string role;
    std::string content;
  };

  virtual ~PromptCodec() = default;

  // Special-token strings are ordinary text. `add_bos`: unset means as the model's metadata says;
  // INVALID_ARGUMENT for true when the model has no such token, and for text that is not UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                                      absl::optional<bool> add_bos) const = 0;
  // Through the model's chat template, ready for the assistant's turn. UNIMPLEMENTED (FEATURE) when
  // the model has no known template, INVALID_ARGUMENT when the template cannot take the messages.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeChat(
      absl::Span<const ChatMessage> messages) const = 0;
  // Valid UTF-8: what does not decode is replaced by U+FFFD. Ids are in the vocabulary.
  virtual std::string Decode(absl::Span<const int32_t> tokens) const = 0;
  // The bytes of one token, which need not be valid UTF-8.
  virtual std::string TokenBytes(int32_t token) const = 0;
};

// The token ids of a validated request's prompt, before the overflow policy.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const sliminfer::v1::GenerateRequest& request,
                                                  const PromptCodec& codec);

}  // namespace slim

#endif  // SERVER_PROMPT_CODEC_H_
