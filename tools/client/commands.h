// The commands of the client. Each talks to the server, prints, and returns the exit code; errors
// have been printed. Thread rule: the main thread.
#ifndef TOOLS_CLIENT_COMMANDS_H_
#define TOOLS_CLIENT_COMMANDS_H_

#include "tools/client/client_options.h"
#include "tools/client/connection.h"

namespace slim {

int RunGenerate(const GenerateOptions& options, Connection* connection);
int RunChat(const RequestOptions& options, Connection* connection, Interrupts* interrupts);
int RunTokenize(const TokenizeOptions& options, Connection* connection);
int RunInfo(const std::string& model, Connection* connection);
int RunLoad(Connection* connection);
int RunHealth(const std::string& service, Connection* connection);
int RunAbort(const std::vector<std::string>& ids, Connection* connection);

// Prints an error of this side; returns kExitFailed.
int FailLocally(const absl::Status& status);

// A message as one line of JSON, field names as in the .proto file. `with_zeros`: fields that hold
// their default too.
std::string JsonLine(const google::protobuf::Message& message, bool with_zeros);

// Prints to the standard output and flushes; false when nobody reads it any more.
bool PrintOut(const std::string& text);

}  // namespace slim

#endif  // TOOLS_CLIENT_COMMANDS_H_
