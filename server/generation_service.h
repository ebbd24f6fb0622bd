// sliminfer.v1.Inference over gRPC's callback API: translates between the wire and
// GenerateSession. Thread-safe; gRPC calls it on its own threads, and no method blocks.
#ifndef SERVER_GENERATION_SERVICE_H_
#define SERVER_GENERATION_SERVICE_H_

#include <memory>

#include "grpcpp/grpcpp.h"
#include "server/generate_session.h"
#include "server/rpc.h"

namespace slim {

// `dependencies` and `gate` are copied or referred to as their own comments say; what they point to
// outlives the service, and the service outlives the gRPC server it is registered with.
std::unique_ptr<grpc::Service> CreateGenerationService(const GenerateDependencies& dependencies,
                                                       const RpcGate& gate);

}  // namespace slim

#endif  // SERVER_GENERATION_SERVICE_H_
