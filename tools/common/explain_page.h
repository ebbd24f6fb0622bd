// The page behind `sliminfer generate --explain`: every prompt block as text, coloured by the stage
// that dropped it and shaded by its score. One self-contained HTML file: no script from elsewhere,
// no request to anywhere. All text in it comes from outside and is escaped. Pure functions.
#ifndef TOOLS_COMMON_EXPLAIN_PAGE_H_
#define TOOLS_COMMON_EXPLAIN_PAGE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace slim {

struct ExplainStage {
  int layer = 0;  // first layer that sees the smaller set
  int64_t retained_tokens = 0;
  int64_t retained_blocks = 0;
  int64_t chosen_blocks = 0;
  double decision_seconds = 0;
  double segment_seconds = 0;
  std::vector<int32_t> block_ids;  // retained, ascending
  std::vector<float> scores;       // of the blocks that the stage before retained, in its order
};

struct ExplainReport {
  std::string answer;
  int64_t prompt_tokens = 0;
  int64_t pruned_tokens = 0;
  int block_tokens = 0;
  std::string digest;
  std::string profile;
  std::string note;  // how block texts were found, shown on the page
  std::vector<ExplainStage> stages;
  std::vector<std::string> block_texts;  // one per block of the prompt; may be shorter or empty
};

// What the report says about one block.
struct BlockFate {
  int dropped_at = 0;         // index of the stage that dropped it, stages.size(): kept to the end
  std::vector<float> scores;  // one per stage that it entered
  double shade = 0;           // 0 .. 1: rank of its last score among the blocks scored with it
};

// One entry per block of the prompt. What a stage says of blocks outside of the prompt, or beyond
// the shorter of its lists, is ignored.
std::vector<BlockFate> BlockFates(const ExplainReport& report);

// & < > " ' as character references.
std::string EscapeHtml(absl::string_view text);

std::string RenderExplainPage(const ExplainReport& report);

}  // namespace slim

#endif  // TOOLS_COMMON_EXPLAIN_PAGE_H_
