#include "tools/client/answer_view.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/client/commands.h"
#include "tools/common/text_file.h"
#include "tools/common/text_table.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;

constexpr int kBarWidth = 30;

std::string ReasonName(v1::FinishReason reason) {
  return reason == v1::STOP ? "stop" : reason == v1::LENGTH ? "length" : "end";
}

double PerCent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

}  // namespace

std::string ProgressBar(const v1::Progress& progress, int width) {
  const double total = std::max(1, progress.total_tokens());
  const double share = std::clamp(progress.prefilled_tokens() / total, 0.0, 1.0);
  const int filled = static_cast<int>(share * width);
  std::string bar = absl::StrCat("[", std::string(filled, '#'), std::string(width - filled, '.'),
                                 absl::StrFormat("] %3.0f %%  ", 100 * share),
                                 Grouped(progress.prefilled_tokens()), " of ",
                                 Grouped(progress.total_tokens()), " prompt tokens");
  if (progress.retained_tokens() > 0 && progress.retained_tokens() < progress.total_tokens()) {
    absl::StrAppend(&bar, ", ", Grouped(progress.retained_tokens()), " kept");
  }
  return bar;
}

std::string ClosingLine(const v1::Finished& finished) {
  const v1::Usage& usage = finished.usage();
  const v1::Timing& timing = finished.timing();
  std::string line = absl::StrCat(Grouped(usage.prompt_tokens()), " prompt + ",
                                  Grouped(usage.completion_tokens()), " new tokens | first token ",
                                  Number(timing.time_to_first_token_seconds(), 2), " s");
  if (usage.completion_tokens() > 1 && timing.decode_seconds() > 0) {
    absl::StrAppend(&line, " | ",
                    Number((usage.completion_tokens() - 1) / timing.decode_seconds(), 1), " tok/s");
  }
  if (usage.cached_tokens() > 0) {
    absl::StrAppend(&line, " | ", Grouped(usage.cached_tokens()), " cached");
  }
  absl::StrAppend(&line, " | ", Grouped(usage.pruned_tokens()), " pruned");
  if (usage.pruned_tokens() > 0) {
    absl::StrAppend(&line, " (", Number(PerCent(usage.pruned_tokens(), usage.prompt_tokens()), 0),
                    " %)");
  }
  return absl::StrCat(line, " | ", ReasonName(finished.finish_reason()));
}

bool AnswerView::Show(const v1::GenerateResponse& event) {
  if (event.has_accepted()) accepted_ = event.accepted();
  if (event.has_finished()) finished_ = event.finished();
  if (event.has_delta()) text_ += event.delta().text();
  if (options_.json) return PrintOut(JsonLine(event, /*with_zeros=*/false));
  if (event.has_progress()) ShowProgress(event.progress());
  return !event.has_delta() || ShowText(event.delta().text());
}

void AnswerView::ShowProgress(const v1::Progress& progress) {
  if (!options_.progress_bar || !text_.empty()) return;
  std::fprintf(stderr, "\r\033[K%s", ProgressBar(progress, kBarWidth).c_str());
  std::fflush(stderr);
  bar_shown_ = true;
}

void AnswerView::ClearBar() {
  if (!bar_shown_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  bar_shown_ = false;
}

bool AnswerView::ShowText(const std::string& text) {
  if (text.empty()) return true;
  ClearBar();
  return PrintOut(options_.safe_text ? TerminalSafe(text) : text);
}

void AnswerView::End() {
  if (ended_) return;
  ended_ = true;
  ClearBar();
  if (options_.json) return;
  if (!text_.empty() && text_.back() != '\n') PrintOut("\n");
  if (options_.closing_line && finished_.has_usage()) {
    std::fprintf(stderr, "[%s]\n", ClosingLine(finished_).c_str());
  }
}

}  // namespace slim
