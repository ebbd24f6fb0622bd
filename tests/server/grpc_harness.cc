#include "tests/server/grpc_harness.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace slim {

GrpcHarness::GrpcHarness(const Options& options)
    : metrics(Metrics::Create([] {
        Metrics::Facts facts;
        facts.model_name = "tiny";
        return facts;
      }())),
      registry(options.max_requests_per_peer),
      prepare_pool(std::make_unique<TaskPool>(2, 16)),
      delivery_pool(std::make_unique<TaskPool>(1, 1024)) {
  GenerateDependencies generate;
  generate.worker = &worker;
  generate.codec = &codec;
  generate.clock = &clock;
  generate.metrics = metrics.get();
  generate.registry = &registry;
  generate.prepare_pool = prepare_pool.get();
  generate.delivery_pool = delivery_pool.get();
  generate.validation.model_name = "tiny";
  generate.validation.pruning.model = &worker.engine().model_config();
  generate.validation.pruning.block_tokens = worker.engine().block_tokens();
  const RpcGate gate(options.tokens, metrics.get());
  generation = CreateGenerationService(generate, gate);
  ControlDependencies controlled;
  controlled.worker = &worker;
  controlled.clock = &clock;
  controlled.facts.model_name = "tiny";
  controlled.facts.version = "0.1.0";
  controlled.facts.kv_bytes_per_token = 1536;
  controlled.facts.started = clock.Now();
  controlled.validation = generate.validation;
  control = CreateControlService(controlled, gate);
  GrpcServer::Options server_options = options.server;
  server_options.health_names = {"sliminfer.v1.Inference", "sliminfer.v1.Control"};
  auto started = GrpcServer::Start(server_options, {generation.get(), control.get()});
  if (!started.ok()) {
    ADD_FAILURE() << started.status();
    return;
  }
  server = *std::move(started);
  const auto channel = Connect(grpc::InsecureChannelCredentials());
  inference = sliminfer::v1::Inference::NewStub(channel);
  controls = sliminfer::v1::Control::NewStub(channel);
}

GrpcHarness::~GrpcHarness() {
  worker.Stop(absl::ZeroDuration());
  if (server != nullptr) server->Shutdown(absl::Seconds(5));
  delivery_pool.reset();
  prepare_pool.reset();
}

std::string GrpcHarness::target() const { return absl::StrCat("localhost:", server->port()); }

std::shared_ptr<grpc::Channel> GrpcHarness::Connect(
    const std::shared_ptr<grpc::ChannelCredentials>& credentials,
    const grpc::ChannelArguments& arguments) const {
  return grpc::CreateCustomChannel(target(), credentials, arguments);
}

std::string TrailingReason(const grpc::ClientContext& context) {
  const auto& metadata = context.GetServerTrailingMetadata();
  const auto entry = metadata.find("x-reason");
  return entry == metadata.end() ? "" : std::string(entry->second.data(), entry->second.size());
}

std::vector<sliminfer::v1::GenerateResponse> ReadAll(
    grpc::ClientReader<sliminfer::v1::GenerateResponse>* reader) {
  std::vector<sliminfer::v1::GenerateResponse> responses;
  sliminfer::v1::GenerateResponse response;
  while (reader->Read(&response)) responses.push_back(response);
  return responses;
}

}  // namespace slim
