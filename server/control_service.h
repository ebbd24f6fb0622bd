// sliminfer.v1.Control over gRPC's callback API: facts, load and abort. Every answer comes from
// snapshots, so no method waits. Thread-safe.
#ifndef SERVER_CONTROL_SERVICE_H_
#define SERVER_CONTROL_SERVICE_H_

#include <memory>

#include "grpcpp/grpcpp.h"
#include "server/request_validator.h"
#include "server/rpc.h"
#include "server/server_facts.h"
#include "server/worker.h"

namespace slim {

// What the pointers name outlives the service.
struct ControlDependencies {
  Worker* worker = nullptr;
  const Clock* clock = nullptr;
  ServerFacts facts;
  ValidationContext validation;
};

std::unique_ptr<grpc::Service> CreateControlService(ControlDependencies dependencies,
                                                    const RpcGate& gate);

}  // namespace slim

#endif  // SERVER_CONTROL_SERVICE_H_
