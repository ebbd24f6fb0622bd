// A real gRPC server on a free port over a ScriptedWorker, and stubs connected to it.
#ifndef TESTS_SERVER_GRPC_HARNESS_H_
#define TESTS_SERVER_GRPC_HARNESS_H_

#include <memory>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "server/control_service.h"
#include "server/generation_service.h"
#include "server/grpc_server.h"
#include "sliminfer/v1/control.grpc.pb.h"
#include "sliminfer/v1/inference.grpc.pb.h"
#include "tests/server/scripted_worker.h"

namespace slim {

class GrpcHarness {
 public:
  struct Options {
    GrpcServer::Options server;
    const TokenStore* tokens = nullptr;
    int max_requests_per_peer = 0;
  };

  explicit GrpcHarness(const Options& options);
  ~GrpcHarness();

  std::string target() const;
  std::shared_ptr<grpc::Channel> Connect(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials,
      const grpc::ChannelArguments& arguments = {}) const;

  ScriptedWorker worker;
  SteadyClock clock;
  ByteCodec codec;
  std::unique_ptr<Metrics> metrics;
  RequestRegistry registry;
  std::unique_ptr<TaskPool> prepare_pool;
  std::unique_ptr<TaskPool> delivery_pool;
  std::unique_ptr<grpc::Service> generation;
  std::unique_ptr<grpc::Service> control;
  std::unique_ptr<GrpcServer> server;
  // Plaintext stubs on one connection.
  std::unique_ptr<sliminfer::v1::Inference::Stub> inference;
  std::unique_ptr<sliminfer::v1::Control::Stub> controls;
};

// The trailing metadata x-reason of a finished call.
std::string TrailingReason(const grpc::ClientContext& context);
// Reads a stream to its end.
std::vector<sliminfer::v1::GenerateResponse> ReadAll(
    grpc::ClientReader<sliminfer::v1::GenerateResponse>* reader);

}  // namespace slim

#endif  // TESTS_SERVER_GRPC_HARNESS_H_
