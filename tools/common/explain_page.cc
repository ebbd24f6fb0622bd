#include "tools/common/explain_page.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/common/text_table.h"

namespace slim {
namespace {

// Hues of the stages that drop, first stage first; kept blocks are green. Distinct for the common
// kinds of colour blindness, and the text on hover says it too.
constexpr int kHues[] = {0, 32, 275, 215, 320, 50};
constexpr int kKeptHue = 145;
constexpr int kHueCount = sizeof(kHues) / sizeof(kHues[0]);

constexpr char kHead[] = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>SlimInfer: what stayed of the prompt</title>
<style>
:root { color-scheme: light dark; --l: 80%; --s: 70%; }
@media (prefers-color-scheme: dark) { :root { --l: 27%; --s: 55%; } }
body { font: 15px/1.6 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem; text-align: right; }
th { border-bottom: 1px solid; font-weight: 600; }
.map { display: flex; flex-wrap: wrap; gap: 2px; }
.map a { width: 14px; height: 14px; border-radius: 2px; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.b { border-radius: 3px; box-decoration-break: clone; background: hsla(var(--h), var(--s), var(--l), var(--a)); }
.map .b { background: hsla(var(--h), var(--s), 50%, var(--a)); }
.b:target, .b:hover { outline: 2px solid; }
.gone { opacity: .75; }
.key { padding: .1rem .5rem; margin-right: .6rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid; padding-left: 1rem; }
</style></head><body>
)";

int HueOf(int dropped_at, size_t stages) {
  return dropped_at >= static_cast<int>(stages) ? kKeptHue : kHues[dropped_at % kHueCount];
}

std::string Style(const BlockFate& fate, size_t stages) {
  return absl::StrFormat("--h:%d;--a:%.2f", HueOf(fate.dropped_at, stages),
                         0.25 + 0.75 * fate.shade);
}

std::string FateText(const BlockFate& fate, const ExplainReport& report) {
  if (fate.dropped_at >= static_cast<int>(report.stages.size())) return "kept in every layer";
  return absl::StrCat("dropped before layer ", report.stages[fate.dropped_at].layer, " (stage ",
                      fate.dropped_at + 1, ")");
}

std::string BlockText(const ExplainReport& report, size_t block) {
  return block < report.block_texts.size() ? report.block_texts[block] : "";
}

// What a person reads when the pointer rests on a block.
std::string HoverText(const ExplainReport& report, const BlockFate& fate, int64_t block,
                      bool with_text) {
  const int64_t first = block * report.block_tokens;
  const int64_t last = std::min(first + report.block_tokens, report.prompt_tokens) - 1;
  std::string text =
      absl::StrCat("block ", block, ", tokens ", first, " to ", last, ": ", FateText(fate, report));
  for (size_t s = 0; s < fate.scores.size(); ++s) {
    absl::StrAppend(&text, "\nscore at stage ", s + 1, ": ",
                    absl::StrFormat("%.4g", fate.scores[s]));
  }
  if (with_text) absl::StrAppend(&text, "\n", BlockText(report, static_cast<size_t>(block)));
  return text;
}

std::string StageTable(const ExplainReport& report) {
  std::string html =
      "<table><tr><th>stage</th><th>from layer</th><th>tokens kept</th><th>blocks kept</th>"
      "<th>chosen by score</th><th>decision</th><th>segment</th></tr>\n";
  for (size_t s = 0; s < report.stages.size(); ++s) {
    const ExplainStage& stage = report.stages[s];
    absl::StrAppend(&html, "<tr><td>", s + 1, "</td><td>", stage.layer, "</td><td>",
                    Grouped(stage.retained_tokens), "</td><td>", Grouped(stage.retained_blocks),
                    "</td><td>", Grouped(stage.chosen_blocks), "</td><td>",
                    Number(1000 * stage.decision_seconds, 1), " ms</td><td>",
                    Number(1000 * stage.segment_seconds, 1), " ms</td></tr>\n");
  }
  return html + "</table>\n";
}

std::string Legend(const ExplainReport& report) {
  std::string html = "<p>";
  for (size_t s = 0; s <= report.stages.size(); ++s) {
    BlockFate fate;
    fate.dropped_at = static_cast<int>(s);
    fate.shade = 0.8;
    absl::StrAppend(&html, "<span class=\"b key\" style=\"", Style(fate, report.stages.size()),
                    "\">", EscapeHtml(FateText(fate, report)), "</span>");
  }
  return html + "<br>The stronger the colour, the higher the block's last score.</p>\n";
}

}  // namespace

std::string EscapeHtml(absl::string_view text) {
  std::string html;
  html.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        html += "&amp;";
        break;
      case '<':
        html += "&lt;";
        break;
      case '>':
        html += "&gt;";
        break;
      case '"':
        html += "&quot;";
        break;
      case '\'':
        html += "&#39;";
        break;
      default:
        html += c;
    }
  }
  return html;
}

std::vector<BlockFate> BlockFates(const ExplainReport& report) {
  if (report.block_tokens <= 0 || report.prompt_tokens <= 0) return {};
  const int64_t blocks = (report.prompt_tokens + report.block_tokens - 1) / report.block_tokens;
  std::vector<BlockFate> fates(static_cast<size_t>(blocks));
  std::vector<int32_t> incoming(fates.size());
  for (size_t i = 0; i < incoming.size(); ++i) incoming[i] = static_cast<int32_t>(i);
  for (size_t s = 0; s < report.stages.size(); ++s) {
    const ExplainStage& stage = report.stages[s];
    std::vector<std::pair<float, int32_t>> order;
    for (size_t i = 0; i < std::min(incoming.size(), stage.scores.size()); ++i) {
      fates[incoming[i]].scores.push_back(stage.scores[i]);
      order.emplace_back(std::isnan(stage.scores[i]) ? 0 : stage.scores[i], incoming[i]);
    }
    std::sort(order.begin(), order.end());
    for (size_t rank = 0; rank < order.size(); ++rank) {
      fates[order[rank].second].shade =
          order.size() > 1 ? static_cast<double>(rank) / static_cast<double>(order.size() - 1) : 1;
    }
    std::vector<int32_t> kept;
    for (const int32_t id : stage.block_ids) {
      if (id < 0 || id >= blocks || fates[id].dropped_at != static_cast<int>(s)) continue;
      fates[id].dropped_at = static_cast<int>(s) + 1;
      kept.push_back(id);
    }
    incoming = std::move(kept);
  }
  return fates;
}

std::string RenderExplainPage(const ExplainReport& report) {
  const std::vector<BlockFate> fates = BlockFates(report);
  const size_t stages = report.stages.size();
  std::string html = kHead;
  absl::StrAppend(&html, "<h1>What stayed of the prompt</h1>\n<p>", Grouped(report.prompt_tokens),
                  " prompt tokens in ", fates.size(), " blocks of ", report.block_tokens, "; ",
                  Grouped(report.pruned_tokens), " tokens do not reach the last layers. Profile: ",
                  EscapeHtml(report.profile.empty() ? "none" : report.profile), ", decisions ",
                  EscapeHtml(report.digest), ".</p>\n");
  if (stages == 0) html += "<p>Nothing was pruned: every layer saw the whole prompt.</p>\n";
  html += StageTable(report) + Legend(report) + "<h2>Map</h2>\n<div class=\"map\">";
  for (size_t b = 0; b < fates.size(); ++b) {
    absl::StrAppend(
        &html, "<a class=\"b\" href=\"#b", b, "\" style=\"", Style(fates[b], stages), "\" title=\"",
        EscapeHtml(HoverText(report, fates[b], static_cast<int64_t>(b), true)), "\"></a>");
  }
  html += "</div>\n<h2>Prompt</h2>\n";
  if (!report.note.empty()) absl::StrAppend(&html, "<p>", EscapeHtml(report.note), "</p>\n");
  html += "<div class=\"text\">";
  for (size_t b = 0; b < fates.size(); ++b) {
    const bool gone = fates[b].dropped_at < static_cast<int>(stages);
    absl::StrAppend(&html, "<span id=\"b", b, "\" class=\"b", gone ? " gone" : "", "\" style=\"",
                    Style(fates[b], stages), "\" title=\"",
                    EscapeHtml(HoverText(report, fates[b], static_cast<int64_t>(b), false)), "\">",
                    EscapeHtml(BlockText(report, b)), "</span>");
  }
  absl::StrAppend(&html, "</div>\n<h2>Answer</h2>\n<pre>", EscapeHtml(report.answer),
                  "</pre>\n</body></html>\n");
  return html;
}

}  // namespace slim
