// The server program: parse -> validate -> build objects -> serve -> ordered stop. The only place
// that names concrete classes; no logic of its own.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/synchronization/notification.h"
#include "engine/backend/create_backend.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/status_macros.h"
#include "engine/engine.h"
#include "engine/load/open_model.h"
#include "engine/prune/profile.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "google/protobuf/stubs/logging.h"
#include "grpcpp/impl/service_type.h"
#include "server/auth.h"
#include "server/config.h"
#include "server/config_values.h"
#include "server/control_service.h"
#include "server/file_text.h"
#include "server/generation_service.h"
#include "server/grpc_server.h"
#include "server/http_endpoint.h"
#include "server/memory_plan.h"
#include "server/metrics.h"
#include "server/model_facts.h"
#include "server/monitor.h"
#include "server/process_stats.h"
#include "server/server_facts.h"
#include "server/stop_signal.h"
#include "server/task_pool.h"
#include "server/tls.h"
#include "server/tokenizer_codec.h"
#include "server/worker.h"

namespace slim {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitBadConfig = 2;
constexpr int kExitHung = 70;
constexpr absl::Duration kShutdownMargin = absl::Seconds(10);
constexpr absl::Duration kRpcGrace = absl::Seconds(2);

// Everything that runs, in the order of construction; Stop takes it down in reverse.
struct Server {
  SteadyClock clock;
  std::unique_ptr<Tokenizer> tokenizer;
  absl::optional<PruneProfile> profile;
  ServerFacts facts;
  std::unique_ptr<const TokenStore> tokens;
  absl::optional<TlsMaterial> tls;
  std::unique_ptr<Metrics> metrics;
  std::unique_ptr<PromptCodec> codec;
  std::unique_ptr<Worker> worker;
  std::unique_ptr<RequestRegistry> registry;
  std::unique_ptr<TaskPool> prepare_pool;
  std::unique_ptr<TaskPool> delivery_pool;
  std::unique_ptr<grpc::Service> generation;
  std::unique_ptr<grpc::Service> control;
  std::unique_ptr<GrpcServer> grpc;
  std::unique_ptr<Monitor> monitor;
  std::unique_ptr<HttpEndpoint> http;
};

absl::StatusOr<std::unique_ptr<Backend>> OpenBackend(const ServerConfig& config) {
  BackendOptions options;
  options.kind = config.backend;
  options.num_threads = config.threads;
  SLIM_ASSIGN_OR_RETURN(BackendChoice choice, CreateBackend(options));
  if (!choice.cuda.ok()) {
    Log(LogLevel::kInfo, "cuda_not_used", {{"reason", std::string(choice.cuda.message())}});
  }
  return std::move(choice.backend);
}

absl::StatusOr<absl::optional<PruneProfile>> FindProfile(const ServerConfig& config,
                                                         const ModelConfig& model) {
  if (config.profile.empty()) return BuiltInProfile(model);
  SLIM_ASSIGN_OR_RETURN(PruneProfile profile, ReadProfile(config.profile));
  if (!profile.Matches(model)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--profile ", config.profile, ": is for another model (", profile.name, ")"));
  }
  return absl::optional<PruneProfile>(std::move(profile));
}

// Loads the model and starts the worker.
absl::Status CreateWorker(const ServerConfig& config, StopSignal* stop, Server* server) {
  const absl::Time begin = server->clock.Now();
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<TensorSource> source, OpenModel(config.model));
  SLIM_ASSIGN_OR_RETURN(const ModelConfig model, ReadModelConfig(*source));
  SLIM_ASSIGN_OR_RETURN(server->tokenizer, Tokenizer::Create(*source));
  SLIM_ASSIGN_OR_RETURN(server->profile, FindProfile(config, model));
  if (config.pruning.mode == PruningDefault::Mode::kProfile && !server->profile.has_value()) {
    return absl::InvalidArgumentError("--pruning profile: this model has no pruning profile");
  }
  const ChatTemplate chat_template = ChatTemplate::FromSource(*source);
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, OpenBackend(config));
  server->facts = MakeServerFacts(config, model, *source, *server->tokenizer, chat_template,
                                  server->profile, backend->info());
  server->facts.started = begin;
  server->codec = std::make_unique<TokenizerCodec>(server->tokenizer.get(), chat_template);
  server->metrics = Metrics::Create(MakeMetricsFacts(server->facts, model, backend->info()));

  Engine::Options engine_options;
  engine_options.prefix_cache_bytes = config.prefix_cache_bytes;
  engine_options.block_tokens = server->facts.block_tokens;
  engine_options.kv_tier = config.kv_tier;
  engine_options.kv_device_bytes = server->facts.kv_device_bytes;
  engine_options.kv_host_bytes = server->facts.kv_host_bytes;
  SLIM_ASSIGN_OR_RETURN(
      std::unique_ptr<Engine> engine,
      Engine::Create(engine_options, std::move(source), std::move(backend), &server->clock));
  Worker::Options worker_options;
  worker_options.scheduler.max_running = config.max_running;
  worker_options.scheduler.max_queued_requests = config.max_queued_requests;
  worker_options.scheduler.max_queued_tokens = config.max_queued_tokens;
  worker_options.scheduler.max_queue_wait = config.max_queue_wait;
  if (config.prefill_chunk_tokens > 0) {
    worker_options.scheduler.prefill_chunk_tokens = config.prefill_chunk_tokens;
    worker_options.scheduler.lone_step_factor = 1;
  }
  worker_options.write_stall_timeout = config.write_stall_timeout;
  worker_options.max_request_time = config.max_request_time;
  worker_options.on_fatal = [stop](const absl::Status& status) {
    Log(LogLevel::kError, "backend_failed", {{"status", status.ToString()}});
    stop->Request("backend failed");
  };
  SLIM_ASSIGN_OR_RETURN(server->worker, Worker::Create(std::move(worker_options), std::move(engine),
                                                       server->tokenizer.get(), &server->clock,
                                                       server->metrics.get()));
  server->metrics->SetStatsSource([worker = server->worker.get()] { return worker->stats(); });
  Log(LogLevel::kInfo, "model_loaded",
      {{"path", config.model}, {"seconds", absl::ToDoubleSeconds(server->clock.Now() - begin)}});
  return absl::OkStatus();
}

void CreateServices(const ServerConfig& config, Server* server) {
  server->registry = std::make_unique<RequestRegistry>(config.max_requests_per_peer);
  server->prepare_pool = std::make_unique<TaskPool>(2, 1 + config.max_queued_requests);
  server->delivery_pool = std::make_unique<TaskPool>(1, 4096);
  GenerateDependencies generate;
  generate.worker = server->worker.get();
  generate.codec = server->codec.get();
  generate.clock = &server->clock;
  generate.metrics = server->metrics.get();
  generate.registry = server->registry.get();
  generate.prepare_pool = server->prepare_pool.get();
  generate.delivery_pool = server->delivery_pool.get();
  ValidationContext& validation = generate.validation;
  validation.model_name = server->facts.model_name;
  validation.pruning.model = &server->worker->engine().model_config();
  validation.pruning.profile = server->profile.has_value() ? &*server->profile : nullptr;
  validation.pruning.block_tokens = server->facts.block_tokens;
  validation.pruning.server_default = config.pruning;
  validation.pruning.server_decode = config.decode;
  validation.has_bos = server->facts.bos_token_id.has_value();
  validation.bos_token_id = server->facts.bos_token_id.value_or(0);
  const RpcGate gate(server->tokens.get(), server->metrics.get());
  server->generation = CreateGenerationService(generate, gate);
  server->control =
      CreateControlService({server->worker.get(), &server->clock, server->facts, validation}, gate);
}

absl::Status StartListening(const ServerConfig& config, StopSignal* stop, Server* server) {
  GrpcServer::Options options;
  options.listen = config.listen;
  options.tls = server->tls;
  options.reflection = config.reflection_enabled();
  options.max_message_bytes = config.max_message_bytes;
  options.max_metadata_bytes = config.max_metadata_bytes;
  options.max_streams_per_connection = config.max_streams_per_connection;
  options.max_connection_age_grace = config.max_request_time;
  options.health_names = {"sliminfer.v1.Inference", "sliminfer.v1.Control"};
  SLIM_ASSIGN_OR_RETURN(
      server->grpc, GrpcServer::Start(options, {server->generation.get(), server->control.get()}));
  const auto is_serving = [worker = server->worker.get()] {
    const WorkerStats stats = worker->stats();
    return stats.accepting && stats.healthy;
  };
  Monitor::Options monitor;
  SLIM_ASSIGN_OR_RETURN(monitor.probe, ParseListenAddress(server->grpc->address()));
  monitor.serving = is_serving;
  monitor.set_serving = [grpc = server->grpc.get()](bool serving) { grpc->SetServing(serving); };
  monitor.give_up = [stop](const std::string& why) { stop->Request(why); };
  server->monitor = std::make_unique<Monitor>(std::move(monitor));
  if (config.http_listen.empty()) return absl::OkStatus();
  HttpEndpoint::Handlers handlers;
  handlers.metrics = [metrics = server->metrics.get()] { return metrics->Render(); };
  handlers.alive = [worker = server->worker.get(), monitor = server->monitor.get()] {
    return worker->stats().healthy && monitor->reachable();
  };
  handlers.ready = is_serving;
  SLIM_ASSIGN_OR_RETURN(server->http, HttpEndpoint::Create(config.http_listen, handlers));
  return absl::OkStatus();
}

absl::Status AnnounceAddresses(const ServerConfig& config, const Server& server) {
  const std::string http = server.http != nullptr ? server.http->address() : "off";
  const BackendInfo& backend = server.worker->engine().backend_info();
  Log(LogLevel::kInfo, "listening",
      {{"grpc", server.grpc->address()},
       {"http", http},
       {"model", server.facts.model_name},
       {"backend", backend.name},
       {"isa", backend.isa},
       {"threads", backend.num_threads},
       {"tls", config.tls() ? "on" : "off"},
       {"version", server.facts.version}});
  if (config.port_file.empty()) return absl::OkStatus();
  return WriteFileText(config.port_file,
                       absl::StrCat("grpc=", server.grpc->address(), "\nhttp=", http, "\n"));
}

// Refuse, drain, stop: health and readiness change first, then new requests are refused, what runs
// gets its time, and only then do the objects go.
void Stop(const ServerConfig& config, Server* server) {
  absl::Notification done;
  std::thread watchdog([&done, limit = config.drain_timeout + kShutdownMargin] {
    if (done.WaitForNotificationWithTimeout(limit)) return;
    Log(LogLevel::kError, "shutdown_hangs");
    _exit(kExitHung);
  });
  server->grpc->SetServing(false);
  server->worker->BeginDrain();
  server->worker->Stop(config.drain_timeout);
  server->grpc->Shutdown(kRpcGrace);
  server->metrics->SetStatsSource(nullptr);
  server->http.reset();
  server->monitor.reset();
  server->grpc.reset();
  server->delivery_pool.reset();
  server->prepare_pool.reset();
  server->worker.reset();
  done.Notify();
  watchdog.join();
}

absl::Status Serve(const ServerConfig& config, StopSignal* stop) {
  Server server;
  if (!config.auth_tokens_file.empty()) {
    SLIM_ASSIGN_OR_RETURN(server.tokens, TokenStore::Load(config.auth_tokens_file));
  }
  if (config.tls()) {
    SLIM_ASSIGN_OR_RETURN(server.tls,
                          LoadTlsMaterial(config.tls_cert, config.tls_key, config.tls_client_ca));
  }
  SLIM_RETURN_IF_ERROR(CreateWorker(config, stop, &server));
  CreateServices(config, &server);
  absl::Status status = StartListening(config, stop, &server);
  if (status.ok()) status = AnnounceAddresses(config, server);
  if (!status.ok()) {
    server.metrics->SetStatsSource(nullptr);
    return status;
  }
  const std::string reason = stop->Wait();
  Log(LogLevel::kInfo, "stopping",
      {{"reason", reason}, {"running", server.worker->stats().running_requests}});
  const bool asked = reason == "SIGINT" || reason == "SIGTERM";
  Stop(config, &server);
  Log(LogLevel::kInfo, "stopped");
  return asked ? absl::OkStatus() : absl::UnavailableError(reason);
}

int Main(int argc, char** argv) {
  StopSignal stop;  // first: threads inherit its signal mask
  const auto request =
      ParseConfig(std::vector<std::string>(argv + 1, argv + argc), &ProcessEnvironment);
  if (!request.ok()) {
    std::fprintf(stderr, "sliminfer-server: %s\n", std::string(request.status().message()).c_str());
    return kExitBadConfig;
  }
  switch (request->action) {
    case ConfigRequest::Action::kPrintHelp:
    case ConfigRequest::Action::kPrintConfig:
      std::fputs(request->text.c_str(), stdout);
      return 0;
    case ConfigRequest::Action::kPrintVersion:
      std::printf("sliminfer-server %s (%s)\n", kVersion, kRevision);
      return 0;
    case ConfigRequest::Action::kServe:
      break;
  }
  const ServerConfig& config = request->config;
  SetLogFormat(config.log_format);
  // The library would write texts of clients to stderr as they are.
  google::protobuf::SetLogHandler(nullptr);
  Log(LogLevel::kInfo, "config",
      {{"options", absl::StrReplaceAll(FormatConfig(config), {{"\n", "; "}})},
       {"open_files", RaiseFileLimit()}});
  const absl::Status status = Serve(config, &stop);
  if (status.ok()) return 0;
  Log(LogLevel::kError, "failed", {{"status", status.ToString()}});
  return kExitFailed;
}

}  // namespace
}  // namespace slim

int main(int argc, char** argv) { return slim::Main(argc, argv); }
