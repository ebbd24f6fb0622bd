// Shows a streamed answer as it comes: text on the standard output, a progress bar for the prompt
// (on a terminal) and a closing line on the standard error, or events as JSON lines. One object per
// answer, one thread.
#ifndef TOOLS_CLIENT_ANSWER_VIEW_H_
#define TOOLS_CLIENT_ANSWER_VIEW_H_

#include <string>

#include "absl/strings/string_view.h"
#include "sliminfer/v1/inference.pb.h"

namespace slim {

// "[#########.........]  45 %  3,600 of 8,000 prompt tokens, 2,012 kept", no newline.
std::string ProgressBar(const sliminfer::v1::Progress& progress, int width);

// "34 prompt + 22 new tokens | first token 0.12 s | 105.3 tok/s | 3,021 pruned (60 %) | stop".
std::string ClosingLine(const sliminfer::v1::Finished& finished);

class AnswerView {
 public:
  struct Options {
    bool json = false;
    bool progress_bar = false;  // the standard error is a terminal
    bool closing_line = true;
    bool safe_text = false;  // the standard output is a terminal: no control characters
  };
  explicit AnswerView(const Options& options) : options_(options) {}

  // False when nobody reads the output any more.
  bool Show(const sliminfer::v1::GenerateResponse& event);
  // The stream is over, in whatever way: removes the bar, ends the line.
  void End();

  const std::string& text() const { return text_; }
  const sliminfer::v1::Accepted& accepted() const { return accepted_; }
  const sliminfer::v1::Finished& finished() const { return finished_; }

 private:
  void ShowProgress(const sliminfer::v1::Progress& progress);
  void ClearBar();
  bool ShowText(const std::string& text);

  const Options options_;
  bool bar_shown_ = false;
  bool ended_ = false;
  std::string text_;
  sliminfer::v1::Accepted accepted_;
  sliminfer::v1::Finished finished_;
};

}  // namespace slim

#endif  // TOOLS_CLIENT_ANSWER_VIEW_H_
