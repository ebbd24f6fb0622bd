// From a finished answer to the page of explain_page.h: what the report says, and the text of every
// block, asked from the server. Thread rule: the main thread.
#ifndef TOOLS_CLIENT_EXPLAIN_H_
#define TOOLS_CLIENT_EXPLAIN_H_

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "sliminfer/v1/inference.pb.h"
#include "tools/client/connection.h"
#include "tools/common/explain_page.h"

namespace slim {

// Report fields and answer, without block texts.
ExplainReport MakeExplainReport(const sliminfer::v1::Finished& finished, const std::string& answer);

// Tokens that a chat template puts after the last message and before the answer; -1: not known.
int TemplateSuffixTokens(const std::string& chat_template);

// Block boundaries of the prompt's text tokens: `offset` tokens (of the template) come before
// `text_tokens`, and the prompt has `prompt_tokens` in all. Each block's part of `text_tokens`.
std::vector<std::vector<uint32_t>> CutBlocks(absl::Span<const uint32_t> text_tokens, int64_t offset,
                                             int64_t prompt_tokens, int block_tokens);

// Asks the server for the texts of all blocks and writes the page to `path`. Returns the exit code.
// `text`: what the user wrote; `chat`: it went through the chat template.
int WriteExplainPage(const std::string& path, const std::string& text, bool chat,
                     const std::string& answer, const sliminfer::v1::Finished& finished,
                     const std::string& model, Connection* connection);

}  // namespace slim

#endif  // TOOLS_CLIENT_EXPLAIN_H_
