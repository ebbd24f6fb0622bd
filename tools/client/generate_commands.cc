#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sliminfer/v1/inference.grpc.pb.h"
#include "tools/client/answer_view.h"
#include "tools/client/commands.h"
#include "tools/client/exit_codes.h"
#include "tools/client/explain.h"
#include "tools/common/text_file.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;

constexpr int64_t kMaxPromptBytes = 1 << 20;  // the server's limit

// Positional text, a file, both (file, empty line, text), or the standard input.
absl::StatusOr<std::string> PromptText(const GenerateOptions& options) {
  std::string text;
  if (!options.file.empty() || options.prompt.empty()) {
    auto read = ReadTextFile(options.file.empty() ? "-" : options.file, kMaxPromptBytes);
    if (!read.ok()) return read.status();
    text = *std::move(read);
    if (!options.prompt.empty()) absl::StrAppend(&text, "\n\n", options.prompt);
  } else {
    text = options.prompt;
  }
  if (absl::Status status = CheckUtf8("the prompt", text); !status.ok()) return status;
  if (text.empty()) return absl::InvalidArgumentError("the prompt is empty");
  return text;
}

void AddMessage(const std::string& role, const std::string& content, v1::Chat* chat) {
  v1::ChatMessage* message = chat->add_messages();
  message->set_role(role);
  message->set_content(content);
}

AnswerView::Options ViewOptions(const ConnectionOptions& connection, bool no_progress) {
  AnswerView::Options options;
  options.json = connection.json;
  options.progress_bar = !connection.json && !no_progress && isatty(STDERR_FILENO) != 0;
  options.closing_line = !no_progress;
  options.safe_text = isatty(STDOUT_FILENO) != 0;
  return options;
}

// Streams one answer; the view has been ended. Returns the exit code.
int StreamAnswer(const v1::GenerateRequest& request, Connection* connection, AnswerView* view) {
  const auto stub = v1::Inference::NewStub(connection->channel());
  bool writable = true;
  const int code = connection->Run(0, [&](grpc::ClientContext* context) {
    const auto reader = stub->Generate(context, request);
    v1::GenerateResponse event;
    while (reader->Read(&event)) {
      if (writable && !view->Show(event)) {
        writable = false;
        context->TryCancel();
      }
    }
    view->End();
    const grpc::Status status = reader->Finish();
    return writable ? status : grpc::Status::OK;
  });
  return writable ? code : FailLocally(absl::UnavailableError("cannot write the answer"));
}

int RunUnary(const v1::GenerateRequest& request, Connection* connection, AnswerView* view) {
  const auto stub = v1::Inference::NewStub(connection->channel());
  v1::GenerateUnaryResponse response;
  const int code = connection->Run(0, [&](grpc::ClientContext* context) {
    return stub->GenerateUnary(context, request, &response);
  });
  if (code != kExitOk) return code;
  if (connection->options().json) {
    return PrintOut(JsonLine(response, /*with_zeros=*/false)) ? kExitOk : kExitFailed;
  }
  v1::GenerateResponse event;
  event.mutable_delta()->set_text(response.text());
  bool shown = view->Show(event);
  *event.mutable_finished() = response.finished();
  shown = view->Show(event) && shown;
  view->End();
  return shown ? kExitOk : kExitFailed;
}

// Reads a line; false at the end of input.
bool ReadLine(const char* prompt, bool show_prompt, std::string* line) {
  if (show_prompt) {
    std::fputs(prompt, stderr);
    std::fflush(stderr);
  }
  return static_cast<bool>(std::getline(std::cin, *line));
}

}  // namespace

int RunGenerate(const GenerateOptions& options, Connection* connection) {
  const absl::StatusOr<std::string> text = PromptText(options);
  if (!text.ok()) return FailLocally(text.status());
  if (absl::Status status = CheckUtf8("--system", options.common.system); !status.ok()) {
    return FailLocally(status);
  }
  v1::GenerateRequest request = options.common.request;
  const bool chat = options.chat || !options.common.system.empty();
  const bool explain = !options.explain.empty();
  if (explain &&
      (request.overflow() == v1::TRUNCATE_LEFT || request.overflow() == v1::TRUNCATE_MIDDLE)) {
    std::fputs("error: --explain needs --overflow reject: it shows the whole prompt\n", stderr);
    return kExitUsage;
  }
  request.set_model(options.common.model);
  if (chat) {
    if (!options.common.system.empty()) {
      AddMessage("system", options.common.system, request.mutable_chat());
    }
    AddMessage("user", *text, request.mutable_chat());
  } else {
    request.set_text(*text);
  }
  const AnswerView::Options view_options = ViewOptions(connection->options(), options.no_progress);
  if (view_options.progress_bar) request.mutable_response()->set_progress(true);
  if (explain) request.mutable_response()->set_pruning_report(true);
  AnswerView view(view_options);
  int code = options.unary ? RunUnary(request, connection, &view)
                           : StreamAnswer(request, connection, &view);
  if (code != kExitOk || !explain) return code;
  return WriteExplainPage(options.explain, *text, chat, view.text(), view.finished(),
                          options.common.model, connection);
}

int RunChat(const RequestOptions& options, Connection* connection, Interrupts* interrupts) {
  if (absl::Status status = CheckUtf8("--system", options.system); !status.ok()) {
    return FailLocally(status);
  }
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) {
    std::fputs("Ctrl-C stops an answer, Ctrl-D leaves, /reset forgets the conversation.\n", stderr);
  }
  v1::GenerateRequest request = options.request;
  request.set_model(options.model);
  const auto reset = [&] {
    request.mutable_chat()->Clear();
    if (!options.system.empty()) AddMessage("system", options.system, request.mutable_chat());
  };
  reset();
  std::string line;
  while (true) {
    {
      // At the prompt the first Ctrl-C only says how to leave, the second leaves.
      const Interrupts::Scope scope(interrupts, [] {
        constexpr char kHint[] = "\n(Ctrl-D or Ctrl-C again leaves)\n> ";
        (void)!write(STDERR_FILENO, kHint, sizeof(kHint) - 1);
      });
      if (!ReadLine("> ", terminal, &line)) break;
    }
    if (line.empty()) continue;
    if (line == "/reset") {
      reset();
      continue;
    }
    if (absl::Status status = CheckUtf8("the message", line); !status.ok()) {
      FailLocally(status);
      continue;
    }
    AddMessage("user", line, request.mutable_chat());
    const AnswerView::Options view_options = ViewOptions(connection->options(), !terminal);
    if (view_options.progress_bar) request.mutable_response()->set_progress(true);
    AnswerView view(view_options);
    const int code = StreamAnswer(request, connection, &view);
    if (!terminal && code != kExitOk) return code;
    if (view.text().empty()) {
      // Nothing was answered: the message is not part of the conversation.
      request.mutable_chat()->mutable_messages()->RemoveLast();
    } else {
      AddMessage("assistant", view.text(), request.mutable_chat());
    }
  }
  if (terminal) std::fputs("\n", stderr);
  return kExitOk;
}

}  // namespace slim
