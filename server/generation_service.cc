#include "server/generation_service.h"

#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "server/incident.h"
#include "server/status_reason.h"
#include "sliminfer/v1/inference.grpc.pb.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;

constexpr char kGenerate[] = "sliminfer.v1.Inference/Generate";
constexpr char kGenerateUnary[] = "sliminfer.v1.Inference/GenerateUnary";
constexpr char kTokenize[] = "sliminfer.v1.Inference/Tokenize";
constexpr char kDetokenize[] = "sliminfer.v1.Inference/Detokenize";

// Texts up to this size are tokenized on gRPC's own thread.
constexpr size_t kInlineTextBytes = 4096;

// The beginning that Generate and GenerateUnary share: gate, parse, Start. A failure is handed to
// the sink, so that there is one way to end.
void StartSession(const std::shared_ptr<GenerateSession>& session, GenerateSink* sink,
                  const RpcGate& gate, const Clock& clock, absl::string_view method,
                  grpc::CallbackServerContext* context, const grpc::ByteBuffer& bytes) {
  v1::GenerateRequest request;
  absl::Time deadline;
  const absl::Status status = Guarded(method, [&]() -> absl::Status {
    SLIM_RETURN_IF_ERROR(gate.Enter(*context));
    SLIM_RETURN_IF_ERROR(ParseMessage(bytes, &request));
    deadline = SteadyDeadline(*context, clock);
    return absl::OkStatus();
  });
  if (!status.ok()) return sink->Finish(status);
  session->Start(std::move(request), context->peer(), deadline);
}

CancelCause CauseOf(const grpc::CallbackServerContext& context) {
  return context.deadline() <= std::chrono::system_clock::now() ? CancelCause::kDeadline
                                                                : CancelCause::kClient;
}

// The streaming answer: one write in flight, deleted in OnDone.
class StreamReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public GenerateSink {
 public:
  StreamReactor(const GenerateDependencies& dependencies, const RpcGate& gate,
                grpc::CallbackServerContext* context)
      : gate_(gate),
        context_(context),
        clock_(*dependencies.clock),
        session_(std::make_shared<GenerateSession>(&dependencies, this)) {}

  void Begin(const grpc::ByteBuffer& bytes) {
    // A copy: the reactor may be gone before Start returns.
    const std::shared_ptr<GenerateSession> session = session_;
    StartSession(session, this, gate_, clock_, kGenerate, context_, bytes);
  }

  bool Deliver(const StreamEvent& event, const EventContext& context) override {
    bytes_ = SerializeMessage(ToResponse(event, context));
    StartWrite(&bytes_);
    return true;
  }
  void Finish(const absl::Status& status) override {
    grpc::ServerWriteReactor<grpc::ByteBuffer>::Finish(gate_.Leave(kGenerate, status, context_));
  }

  void OnWriteDone(bool ok) override {
    const std::shared_ptr<GenerateSession> session = session_;
    session->OnWritten(ok);
  }
  void OnCancel() override {
    const std::shared_ptr<GenerateSession> session = session_;
    session->Cancel(CauseOf(*context_));
  }
  void OnDone() override { delete this; }

 private:
  const RpcGate& gate_;
  grpc::CallbackServerContext* const context_;
  const Clock& clock_;
  const std::shared_ptr<GenerateSession> session_;
  grpc::ByteBuffer bytes_;  // of the write in flight
};

// The answer at once: events are collected. Deleted in OnDone.
class UnaryReactor final : public grpc::ServerUnaryReactor, public GenerateSink {
 public:
  UnaryReactor(const GenerateDependencies& dependencies, const RpcGate& gate,
               grpc::CallbackServerContext* context, grpc::ByteBuffer* response_bytes)
      : gate_(gate),
        context_(context),
        clock_(*dependencies.clock),
        response_bytes_(response_bytes),
        session_(std::make_shared<GenerateSession>(&dependencies, this)) {}

  void Begin(const grpc::ByteBuffer& bytes) {
    const std::shared_ptr<GenerateSession> session = session_;
    StartSession(session, this, gate_, clock_, kGenerateUnary, context_, bytes);
  }

  bool Deliver(const StreamEvent& event, const EventContext& context) override {
    AddToUnary(event, context, &response_);
    return false;
  }
  void Finish(const absl::Status& status) override {
    if (status.ok()) *response_bytes_ = SerializeMessage(response_);
    grpc::ServerUnaryReactor::Finish(gate_.Leave(kGenerateUnary, status, context_));
  }

  void OnCancel() override {
    const std::shared_ptr<GenerateSession> session = session_;
    session->Cancel(CauseOf(*context_));
  }
  void OnDone() override { delete this; }

 private:
  const RpcGate& gate_;
  grpc::CallbackServerContext* const context_;
  const Clock& clock_;
  grpc::ByteBuffer* const response_bytes_;
  const std::shared_ptr<GenerateSession> session_;
  v1::GenerateUnaryResponse response_;
};

// Tokenize of a long text, on a task thread. Deleted in OnDone.
class TokenizeReactor final : public grpc::ServerUnaryReactor {
 public:
  TokenizeReactor(const RpcGate& gate, const PromptCodec& codec,
                  grpc::CallbackServerContext* context, v1::TokenizeRequest request,
                  grpc::ByteBuffer* response_bytes)
      : gate_(gate),
        codec_(codec),
        context_(context),
        request_(std::move(request)),
        response_bytes_(response_bytes) {}

  void Run() {
    EndWith(Guarded(kTokenize, [this]() -> absl::Status {
      v1::TokenizeResponse response;
      const absl::optional<bool> add_bos =
          request_.has_add_bos() ? absl::optional<bool>(request_.add_bos()) : absl::nullopt;
      SLIM_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                            codec_.Encode(request_.text(), add_bos));
      for (const int32_t id : tokens) {
        response.add_token_ids(static_cast<uint32_t>(id));
      }
      *response_bytes_ = SerializeMessage(response);
      return absl::OkStatus();
    }));
  }
  void EndWith(const absl::Status& status) { Finish(gate_.Leave(kTokenize, status, context_)); }
  void OnDone() override { delete this; }

 private:
  const RpcGate& gate_;
  const PromptCodec& codec_;
  grpc::CallbackServerContext* const context_;
  const v1::TokenizeRequest request_;
  grpc::ByteBuffer* const response_bytes_;
};

absl::Status ValidateTokenize(const v1::TokenizeRequest& request,
                              const ValidationContext& context) {
  SLIM_RETURN_IF_ERROR(CheckModelName(request.model(), context));
  if (request.text().size() <= kMaxPromptBytes) return absl::OkStatus();
  return ErrorWithReason(absl::StatusCode::kInvalidArgument, "LIMIT_PROMPT",
                         absl::StrCat("text is ", request.text().size(),
                                      " bytes, allowed: at most ", kMaxPromptBytes));
}

absl::Status RunDetokenize(const v1::DetokenizeRequest& request, const GenerateDependencies& deps,
                           v1::DetokenizeResponse* response) {
  SLIM_RETURN_IF_ERROR(CheckModelName(request.model(), deps.validation));
  const int64_t vocabulary = deps.validation.pruning.model->vocab_size;
  std::vector<int32_t> tokens;
  tokens.reserve(request.token_ids_size());
  for (const uint32_t id : request.token_ids()) {
    if (!(id < vocabulary)) {
      return ErrorWithReason(
          absl::StatusCode::kInvalidArgument, reason::kBadField,
          absl::StrCat("token_ids holds ", id, ", allowed: 0 to ", vocabulary - 1));
    }
    tokens.push_back(static_cast<int32_t>(id));
  }
  response->set_text(deps.codec->Decode(tokens));
  return absl::OkStatus();
}

using RawInference = v1::Inference::WithRawCallbackMethod_Generate<
    v1::Inference::WithRawCallbackMethod_GenerateUnary<
        v1::Inference::WithRawCallbackMethod_Tokenize<
            v1::Inference::WithRawCallbackMethod_Detokenize<v1::Inference::Service>>>>;

class GenerationService final : public RawInference {
 public:
  GenerationService(const GenerateDependencies& dependencies, const RpcGate& gate)
      : deps_(dependencies), gate_(gate) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* bytes) override {
    auto* reactor = new StreamReactor(deps_, gate_, context);
    reactor->Begin(*bytes);
    return reactor;
  }

  grpc::ServerUnaryReactor* GenerateUnary(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* bytes,
                                          grpc::ByteBuffer* response_bytes) override {
    auto* reactor = new UnaryReactor(deps_, gate_, context, response_bytes);
    reactor->Begin(*bytes);
    return reactor;
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* bytes,
                                     grpc::ByteBuffer* response_bytes) override {
    v1::TokenizeRequest request;
    const absl::Status status = Guarded(kTokenize, [&]() -> absl::Status {
      SLIM_RETURN_IF_ERROR(gate_.Enter(*context));
      SLIM_RETURN_IF_ERROR(CheckNotExpired(*context));
      SLIM_RETURN_IF_ERROR(ParseMessage(*bytes, &request));
      return ValidateTokenize(request, deps_.validation);
    });
    const bool is_short = request.text().size() <= kInlineTextBytes;
    auto* reactor =
        new TokenizeReactor(gate_, *deps_.codec, context, std::move(request), response_bytes);
    if (!status.ok()) {
      reactor->EndWith(status);
    } else if (is_short) {
      reactor->Run();
    } else if (!deps_.prepare_pool->TryPost([reactor] { reactor->Run(); })) {
      reactor->EndWith(ErrorWithReason(absl::StatusCode::kResourceExhausted, reason::kOverload,
                                       "too many texts wait to be tokenized", absl::Seconds(1)));
    }
    return reactor;
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* bytes,
                                       grpc::ByteBuffer* response_bytes) override {
    v1::DetokenizeRequest request;
    v1::DetokenizeResponse response;
    return RunUnary(gate_, kDetokenize, context, *bytes, &request, &response, response_bytes,
                    [&] { return RunDetokenize(request, deps_, &response); });
  }

 private:
  const GenerateDependencies deps_;
  const RpcGate gate_;
};

}  // namespace

std::unique_ptr<grpc::Service> CreateGenerationService(const GenerateDependencies& dependencies,
                                                       const RpcGate& gate) {
  return std::make_unique<GenerationService>(dependencies, gate);
}

}  // namespace slim
