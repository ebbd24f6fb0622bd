// The client program: parse, connect, run one command. Exit codes: exit_codes.h.
#include <cstdio>
#include <memory>

#include "google/protobuf/stubs/logging.h"
#include "tools/client/client_options.h"
#include "tools/client/commands.h"
#include "tools/client/connection.h"
#include "tools/client/exit_codes.h"
#include "tools/client/interrupts.h"

namespace slim {
namespace {

int RunCommand(const ClientOptions& options, Connection* connection, Interrupts* interrupts) {
  switch (options.command) {
    case Command::kGenerate:
      return RunGenerate(options.generate, connection);
    case Command::kChat:
      return RunChat(options.chat, connection, interrupts);
    case Command::kTokenize:
      return RunTokenize(options.tokenize, connection);
    case Command::kInfo:
      return RunInfo(options.info_model, connection);
    case Command::kLoad:
      return RunLoad(connection);
    case Command::kHealth:
      return RunHealth(options.health_service, connection);
    case Command::kAbort:
      return RunAbort(options.abort_ids, connection);
  }
  return kExitFailed;
}

int Main(int argc, char** argv) {
  // What protobuf would say of bad text, we say ourselves.
  google::protobuf::SetLogHandler(nullptr);
  Interrupts interrupts;
  ClientOptions options;
  int exit_code = kExitOk;
  if (!ParseClientOptions(argc, argv, &options, &exit_code)) return exit_code;
  const auto connection = Connection::Create(options.connection, &interrupts);
  if (!connection.ok()) {
    FailLocally(connection.status());
    return kExitUsage;
  }
  return RunCommand(options, connection->get(), &interrupts);
}

}  // namespace
}  // namespace slim

int main(int argc, char** argv) { return slim::Main(argc, argv); }
