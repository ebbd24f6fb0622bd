#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/util/json_util.h"
#include "grpc_health.grpc.pb.h"
#include "nlohmann/json.hpp"
#include "sliminfer/v1/control.grpc.pb.h"
#include "sliminfer/v1/inference.grpc.pb.h"
#include "tools/client/commands.h"
#include "tools/client/exit_codes.h"
#include "tools/common/text_file.h"
#include "tools/common/text_table.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;
using Lines = std::vector<std::pair<std::string, std::string>>;

constexpr int64_t kMaxTextBytes = 1 << 20;

bool PrintLines(const Lines& lines) {
  std::string text;
  for (const auto& [name, value] : lines) {
    absl::StrAppend(&text, name, std::string(name.size() < 22 ? 22 - name.size() : 1, ' '),
                    TerminalSafe(value), "\n");
  }
  return PrintOut(text);
}

std::string Bytes(int64_t bytes) {
  if (bytes < (1 << 20)) return absl::StrCat(bytes, " bytes");
  return absl::StrCat(Number(static_cast<double>(bytes) / (1 << 20), 1), " MiB");
}

Lines ServerLines(const v1::GetServerInfoResponse& info) {
  return {{"version", absl::StrCat(info.version(), " (", info.revision(), ")")},
          {"backend", absl::StrCat(info.backend(), ", ", info.device())},
          {"kernels", absl::StrCat(info.isa(), ", ", info.threads(), " threads")},
          {"uptime", absl::StrCat(Number(info.uptime_seconds(), 0), " s")},
          {"kv cache", absl::StrCat(info.kv_tier(), ", device ", Bytes(info.kv_device_bytes()),
                                    ", host ", Bytes(info.kv_host_bytes()))},
          {"limits",
           absl::StrCat(info.max_running(), " running, ", info.max_queued_requests(), " queued, ",
                        Grouped(info.max_queued_tokens()), " queued prompt tokens")},
          {"pruning", absl::StrCat(info.pruning(), ", decode ", info.decode_mode())}};
}

Lines ModelLines(const v1::GetModelInfoResponse& info) {
  return {{"model", info.name()},
          {"architecture",
           absl::StrCat(info.architecture(), ", ", info.num_layers(), " layers, ", info.width(),
                        " wide, ", info.num_heads(), " heads / ", info.num_kv_heads(),
                        " KV heads of ", info.head_dim(), ", FFN ", info.ffn_width())},
          {"context", absl::StrCat(Grouped(info.context_tokens()), " tokens")},
          {"vocabulary", absl::StrCat(Grouped(info.vocabulary_size()), " tokens, end ",
                                      absl::StrJoin(info.eos_token_ids(), " "))},
          {"weights", absl::StrCat(info.dtype(), ", ", Bytes(info.weight_bytes()))},
          {"kv per token", absl::StrCat(info.kv_dtype(), ", ", Bytes(info.kv_bytes_per_token()),
                                        ", blocks of ", info.block_tokens(), " tokens")},
          {"chat template", info.chat_template().empty() ? "none" : info.chat_template()},
          {"pruning profile", info.profile().empty() ? "none" : info.profile()}};
}

absl::StatusOr<std::string> TokenizeText(const TokenizeOptions& options) {
  std::string text = options.text;
  if (!options.file.empty() || options.text.empty()) {
    auto read = ReadTextFile(options.file.empty() ? "-" : options.file, kMaxTextBytes);
    if (!read.ok()) return read.status();
    text = *std::move(read);
  }
  if (absl::Status status = CheckUtf8("the text", text); !status.ok()) return status;
  return text;
}

}  // namespace

int FailLocally(const absl::Status& status) {
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", TerminalSafe(std::string(status.message())).c_str());
  return kExitFailed;
}

std::string JsonLine(const google::protobuf::Message& message, bool with_zeros) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = with_zeros;
  std::string json;
  // Only a broken descriptor can fail here.
  (void)google::protobuf::util::MessageToJsonString(message, &json, options);
  return json + "\n";
}

bool PrintOut(const std::string& text) {
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
         std::fflush(stdout) == 0;
}

int RunTokenize(const TokenizeOptions& options, Connection* connection) {
  const absl::StatusOr<std::string> text = TokenizeText(options);
  if (!text.ok()) return FailLocally(text.status());
  const auto stub = v1::Inference::NewStub(connection->channel());
  v1::TokenizeRequest request;
  request.set_model(options.model);
  request.set_text(*text);
  v1::TokenizeResponse response;
  int code = connection->RunShort(
      [&](grpc::ClientContext* context) { return stub->Tokenize(context, request, &response); });
  if (code != kExitOk) return code;
  if (options.count) return PrintOut(absl::StrCat(response.token_ids_size(), "\n")) ? 0 : 1;
  if (connection->options().json)
    return PrintOut(JsonLine(response, /*with_zeros=*/true)) ? kExitOk : kExitFailed;
  if (!options.pieces) {
    return PrintOut(absl::StrJoin(response.token_ids(), " ") + "\n") ? kExitOk : kExitFailed;
  }
  for (const uint32_t id : response.token_ids()) {
    v1::DetokenizeRequest piece_request;
    piece_request.set_model(options.model);
    piece_request.add_token_ids(id);
    v1::DetokenizeResponse piece;
    code = connection->RunShort([&](grpc::ClientContext* context) {
      return stub->Detokenize(context, piece_request, &piece);
    });
    if (code != kExitOk) return code;
    const nlohmann::json quoted = piece.text();
    if (!PrintOut(absl::StrCat(
            id, "\t", quoted.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
            "\n"))) {
      return kExitFailed;
    }
  }
  return kExitOk;
}

int RunInfo(const std::string& model, Connection* connection) {
  const auto stub = v1::Control::NewStub(connection->channel());
  v1::GetServerInfoResponse server;
  v1::GetModelInfoResponse info;
  v1::GetModelInfoRequest request;
  request.set_model(model);
  int code = connection->RunShort([&](grpc::ClientContext* context) {
    return stub->GetServerInfo(context, v1::GetServerInfoRequest(), &server);
  });
  if (code != kExitOk) return code;
  code = connection->RunShort(
      [&](grpc::ClientContext* context) { return stub->GetModelInfo(context, request, &info); });
  if (code != kExitOk) return code;
  if (connection->options().json) {
    const std::string server_json = JsonLine(server, /*with_zeros=*/true),
                      model_json = JsonLine(info, /*with_zeros=*/true);
    return PrintOut(absl::StrCat(
               "{\"server\":", absl::string_view(server_json).substr(0, server_json.size() - 1),
               ",\"model\":", absl::string_view(model_json).substr(0, model_json.size() - 1),
               "}\n"))
               ? kExitOk
               : kExitFailed;
  }
  return PrintLines(ServerLines(server)) && PrintLines(ModelLines(info)) ? kExitOk : kExitFailed;
}

int RunLoad(Connection* connection) {
  const auto stub = v1::Control::NewStub(connection->channel());
  v1::GetLoadResponse load;
  const int code = connection->RunShort([&](grpc::ClientContext* context) {
    return stub->GetLoad(context, v1::GetLoadRequest(), &load);
  });
  if (code != kExitOk) return code;
  if (connection->options().json)
    return PrintOut(JsonLine(load, /*with_zeros=*/true)) ? kExitOk : kExitFailed;
  const Lines lines = {
      {"accepting", load.accepting() ? "yes" : "no"},
      {"running", absl::StrCat(load.running_requests(), " requests")},
      {"waiting", absl::StrCat(load.waiting_requests(), " requests, ",
                               Grouped(load.waiting_prompt_tokens()), " prompt tokens")},
      {"kv cache", absl::StrCat(Number(100 * load.kv_cache_usage_ratio(), 1), " % in use, ",
                                Grouped(load.kv_free_slabs()), " of ",
                                Grouped(load.kv_total_slabs()), " slabs free")},
      {"prefill", absl::StrCat(Number(load.prefill_tokens_per_second(), 1), " tok/s")},
      {"decode", absl::StrCat(Number(load.decode_tokens_per_second(), 1), " tok/s")}};
  return PrintLines(lines) ? kExitOk : kExitFailed;
}

int RunHealth(const std::string& service, Connection* connection) {
  namespace health = grpc::health::v1;
  const auto stub = health::Health::NewStub(connection->channel());
  health::HealthCheckRequest request;
  request.set_service(service);
  health::HealthCheckResponse response;
  const int code = connection->RunShort(
      [&](grpc::ClientContext* context) { return stub->Check(context, request, &response); });
  if (code != kExitOk) return code;
  const std::string name = health::HealthCheckResponse::ServingStatus_Name(response.status());
  const std::string text = connection->options().json ? JsonLine(response, /*with_zeros=*/true)
                                                      : (name.empty() ? "UNKNOWN" : name) + "\n";
  if (!PrintOut(text)) return kExitFailed;
  return response.status() == health::HealthCheckResponse::SERVING ? kExitOk : kExitNotServing;
}

int RunAbort(const std::vector<std::string>& ids, Connection* connection) {
  const auto stub = v1::Control::NewStub(connection->channel());
  v1::AbortRequest request;
  for (const std::string& id : ids) request.add_request_ids(id);
  v1::AbortResponse response;
  const int code = connection->RunShort(
      [&](grpc::ClientContext* context) { return stub->Abort(context, request, &response); });
  if (code != kExitOk) return code;
  if (connection->options().json)
    return PrintOut(JsonLine(response, /*with_zeros=*/true)) ? kExitOk : kExitFailed;
  std::string text = absl::StrCat("told ", response.aborted_request_ids_size(), " of ", ids.size(),
                                  " requests to stop\n");
  for (const std::string& id : response.aborted_request_ids()) {
    absl::StrAppend(&text, "  ", TerminalSafe(id), "\n");
  }
  return PrintOut(text) ? kExitOk : kExitFailed;
}

}  // namespace slim
