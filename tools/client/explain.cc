#include "tools/client/explain.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sliminfer/v1/control.grpc.pb.h"
#include "sliminfer/v1/inference.grpc.pb.h"
#include "tools/client/commands.h"
#include "tools/client/exit_codes.h"
#include "tools/common/result_json.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;

}  // namespace

ExplainReport MakeExplainReport(const v1::Finished& finished, const std::string& answer) {
  const v1::PruningReport& pruning = finished.pruning();
  ExplainReport report;
  report.answer = answer;
  report.prompt_tokens = finished.usage().prompt_tokens();
  report.pruned_tokens = finished.usage().pruned_tokens();
  report.block_tokens = pruning.block_tokens();
  report.digest = pruning.digest();
  report.profile = pruning.profile();
  for (const v1::PruningReport::Stage& from : pruning.stages()) {
    ExplainStage stage;
    stage.layer = from.layer();
    stage.retained_tokens = from.retained_tokens();
    stage.retained_blocks = from.retained_blocks();
    stage.chosen_blocks = from.chosen_blocks();
    stage.decision_seconds = from.decision_seconds();
    stage.segment_seconds = from.segment_seconds();
    stage.block_ids.assign(from.block_ids().begin(), from.block_ids().end());
    stage.scores.assign(from.scores().begin(), from.scores().end());
    report.stages.push_back(std::move(stage));
  }
  return report;
}

int TemplateSuffixTokens(const std::string& chat_template) {
  // "<|im_end|>" "\n" "<|im_start|>" "assistant" "\n"
  if (chat_template == "chatml" || chat_template == "qwen") return 5;
  // "<|eot_id|>" "<|start_header_id|>" "assistant" "<|end_header_id|>" "\n\n"
  if (chat_template == "llama3") return 5;
  // " [/INST]" as one control token or four of text
  if (chat_template == "mistral") return 1;
  if (chat_template == "llama2") return 4;
  return -1;
}

std::vector<std::vector<uint32_t>> CutBlocks(absl::Span<const uint32_t> text_tokens, int64_t offset,
                                             int64_t prompt_tokens, int block_tokens) {
  std::vector<std::vector<uint32_t>> blocks;
  if (block_tokens <= 0) return blocks;
  const auto count = static_cast<int64_t>(text_tokens.size());
  for (int64_t first = 0; first < prompt_tokens; first += block_tokens) {
    const int64_t begin = std::clamp<int64_t>(first - offset, 0, count);
    const int64_t end =
        std::clamp<int64_t>(std::min(first + block_tokens, prompt_tokens) - offset, begin, count);
    blocks.emplace_back(text_tokens.begin() + begin, text_tokens.begin() + end);
  }
  return blocks;
}

int WriteExplainPage(const std::string& path, const std::string& text, bool chat,
                     const std::string& answer, const v1::Finished& finished,
                     const std::string& model, Connection* connection) {
  ExplainReport report = MakeExplainReport(finished, answer);
  const auto inference = v1::Inference::NewStub(connection->channel());
  const auto control = v1::Control::NewStub(connection->channel());

  v1::GetModelInfoRequest info_request;
  info_request.set_model(model);
  v1::GetModelInfoResponse info;
  int code = connection->RunShort([&](grpc::ClientContext* context) {
    return control->GetModelInfo(context, info_request, &info);
  });
  if (code != kExitOk) return code;
  // A dense run has no decisions to report, not even the size of a block.
  if (report.block_tokens <= 0) report.block_tokens = info.block_tokens();

  v1::TokenizeRequest tokenize;
  tokenize.set_model(model);
  tokenize.set_text(text);
  if (chat) tokenize.set_add_bos(false);
  v1::TokenizeResponse tokens;
  code = connection->RunShort([&](grpc::ClientContext* context) {
    return inference->Tokenize(context, tokenize, &tokens);
  });
  if (code != kExitOk) return code;

  int64_t offset = 0;
  if (chat) {
    const int suffix = TemplateSuffixTokens(info.chat_template());
    offset =
        std::max<int64_t>(0, report.prompt_tokens - tokens.token_ids_size() - std::max(suffix, 0));
    report.note = absl::StrCat("The chat template's own tokens (", offset, " before the message",
                               suffix < 0 ? "" : absl::StrCat(", ", suffix, " after it"),
                               ") have no text here.");
  }
  const std::vector<uint32_t> ids(tokens.token_ids().begin(), tokens.token_ids().end());
  for (const auto& block : CutBlocks(ids, offset, report.prompt_tokens, report.block_tokens)) {
    v1::DetokenizeRequest request;
    request.set_model(model);
    request.mutable_token_ids()->Add(block.begin(), block.end());
    v1::DetokenizeResponse response;
    if (!block.empty()) {
      code = connection->RunShort([&](grpc::ClientContext* context) {
        return inference->Detokenize(context, request, &response);
      });
      if (code != kExitOk) return code;
    }
    report.block_texts.push_back(response.text());
  }
  const absl::Status status = WriteTextFile(path, RenderExplainPage(report));
  if (!status.ok()) return FailLocally(status);
  std::fprintf(stderr, "[wrote %s]\n", path.c_str());
  return kExitOk;
}

}  // namespace slim
