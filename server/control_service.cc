#include "server/control_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "server/status_reason.h"
#include "sliminfer/v1/control.grpc.pb.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;

constexpr int kMaxAbortIds = 1024;

void FillServerInfo(const ControlDependencies& deps, v1::GetServerInfoResponse* out) {
  const ServerFacts& facts = deps.facts;
  const BackendInfo& backend = deps.worker->engine().backend_info();
  out->set_version(facts.version);
  out->set_revision(facts.revision);
  out->set_backend(backend.name);
  out->set_device(backend.device);
  out->set_isa(backend.isa);
  out->set_threads(backend.num_threads);
  out->set_uptime_seconds(absl::ToDoubleSeconds(deps.clock->Now() - facts.started));
  out->set_kv_tier(facts.kv_tier);
  out->set_kv_device_bytes(facts.kv_device_bytes);
  out->set_kv_host_bytes(facts.kv_host_bytes);
  out->set_max_running(facts.max_running);
  out->set_max_queued_requests(facts.max_queued_requests);
  out->set_max_queued_tokens(facts.max_queued_tokens);
  out->set_pruning(facts.pruning);
  out->set_decode_mode(facts.decode_mode);
}

void FillModelInfo(const ControlDependencies& deps, v1::GetModelInfoResponse* out) {
  const ServerFacts& facts = deps.facts;
  const Engine& engine = deps.worker->engine();
  const ModelConfig& model = engine.model_config();
  out->set_name(facts.model_name);
  out->set_architecture(model.architecture);
  out->set_context_tokens(static_cast<int32_t>(model.context_tokens));
  out->set_num_layers(model.num_layers);
  out->set_width(model.width);
  out->set_num_heads(model.num_heads);
  out->set_num_kv_heads(model.num_kv_heads);
  out->set_head_dim(model.head_dim);
  out->set_ffn_width(model.ffn_width);
  out->set_vocabulary_size(static_cast<int32_t>(model.vocab_size));
  out->set_dtype(facts.dtype);
  out->set_kv_dtype(facts.kv_dtype);
  out->set_weight_bytes(engine.weight_bytes());
  out->set_chat_template(facts.chat_template);
  for (const int32_t id : facts.eos_token_ids) out->add_eos_token_ids(static_cast<uint32_t>(id));
  if (facts.bos_token_id.has_value()) {
    out->set_bos_token_id(static_cast<uint32_t>(*facts.bos_token_id));
  }
  out->set_block_tokens(engine.block_tokens());
  out->set_kv_bytes_per_token(facts.kv_bytes_per_token);
  out->set_profile(facts.profile);
}

void FillLoad(const WorkerStats& stats, v1::GetLoadResponse* out) {
  // Sequences live in the host pool where there is one.
  const KvStats& kv = stats.engine.kv;
  const KvTierStats& tier = kv.host.total_slabs > 0 ? kv.host : kv.device;
  out->set_running_requests(static_cast<int32_t>(stats.running_requests));
  out->set_waiting_requests(static_cast<int32_t>(stats.waiting_requests));
  out->set_waiting_prompt_tokens(stats.waiting_prompt_tokens);
  if (tier.total_slabs > 0) {
    out->set_kv_cache_usage_ratio(static_cast<double>(tier.used_slabs) /
                                  static_cast<double>(tier.total_slabs));
  }
  out->set_kv_free_slabs(tier.free_slabs);
  out->set_kv_total_slabs(tier.total_slabs);
  out->set_prefill_tokens_per_second(stats.prefill_tokens_per_second);
  out->set_decode_tokens_per_second(stats.decode_tokens_per_second);
  out->set_accepting(stats.accepting && stats.healthy);
}

absl::Status RunAbort(const v1::AbortRequest& request, Worker* worker, v1::AbortResponse* out) {
  if (request.request_ids_size() > kMaxAbortIds) {
    return ErrorWithReason(absl::StatusCode::kInvalidArgument, "LIMIT_REQUEST_IDS",
                           absl::StrCat("request_ids has ", request.request_ids_size(),
                                        " ids, allowed: at most ", kMaxAbortIds));
  }
  for (const std::string& id : request.request_ids()) SLIM_RETURN_IF_ERROR(CheckRequestId(id));
  for (const std::string& id : request.request_ids()) {
    if (worker->Cancel(id, CancelCause::kAbort)) out->add_aborted_request_ids(id);
  }
  return absl::OkStatus();
}

using RawControl = v1::Control::WithRawCallbackMethod_GetServerInfo<
    v1::Control::WithRawCallbackMethod_GetModelInfo<v1::Control::WithRawCallbackMethod_GetLoad<
        v1::Control::WithRawCallbackMethod_Abort<v1::Control::Service>>>>;

class ControlService final : public RawControl {
 public:
  ControlService(ControlDependencies dependencies, const RpcGate& gate)
      : deps_(std::move(dependencies)), gate_(gate) {}

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* bytes,
                                          grpc::ByteBuffer* response_bytes) override {
    v1::GetServerInfoRequest request;
    v1::GetServerInfoResponse response;
    return RunUnary(gate_, "sliminfer.v1.Control/GetServerInfo", context, *bytes, &request,
                    &response, response_bytes, [&] {
                      FillServerInfo(deps_, &response);
                      return absl::OkStatus();
                    });
  }

  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* bytes,
                                         grpc::ByteBuffer* response_bytes) override {
    v1::GetModelInfoRequest request;
    v1::GetModelInfoResponse response;
    return RunUnary(gate_, "sliminfer.v1.Control/GetModelInfo", context, *bytes, &request,
                    &response, response_bytes, [&]() -> absl::Status {
                      SLIM_RETURN_IF_ERROR(CheckModelName(request.model(), deps_.validation));
                      FillModelInfo(deps_, &response);
                      return absl::OkStatus();
                    });
  }

  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer* bytes,
                                    grpc::ByteBuffer* response_bytes) override {
    v1::GetLoadRequest request;
    v1::GetLoadResponse response;
    return RunUnary(gate_, "sliminfer.v1.Control/GetLoad", context, *bytes, &request, &response,
                    response_bytes, [&] {
                      FillLoad(deps_.worker->stats(), &response);
                      return absl::OkStatus();
                    });
  }

  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* bytes,
                                  grpc::ByteBuffer* response_bytes) override {
    v1::AbortRequest request;
    v1::AbortResponse response;
    return RunUnary(gate_, "sliminfer.v1.Control/Abort", context, *bytes, &request, &response,
                    response_bytes, [&] { return RunAbort(request, deps_.worker, &response); });
  }

 private:
  const ControlDependencies deps_;
  const RpcGate gate_;
};

}  // namespace

std::unique_ptr<grpc::Service> CreateControlService(ControlDependencies dependencies,
                                                    const RpcGate& gate) {
  return std::make_unique<ControlService>(std::move(dependencies), gate);
}

}  // namespace slim
