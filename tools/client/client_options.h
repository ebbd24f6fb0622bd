// The client's command line: global options and one struct per command. Plain values; the parser
// checks what can be checked without a server.
#ifndef TOOLS_CLIENT_CLIENT_OPTIONS_H_
#define TOOLS_CLIENT_CLIENT_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sliminfer/v1/inference.pb.h"

namespace slim {

struct ConnectionOptions {
  std::string address = "127.0.0.1:50051";
  std::string tls_ca;    // PEM file; turns TLS on
  std::string tls_cert;  // PEM files of the client, for mutual TLS
  std::string tls_key;
  std::string token;
  double timeout_seconds = 0;  // 0: none for generation, 10 s for everything else
  bool json = false;
};

// Sampling, stopping, pruning and all else of a request that `generate` and `chat` share.
struct RequestOptions {
  std::string model;
  std::string system;
  // Options that were not given stay unset in the request.
  sliminfer::v1::GenerateRequest request;
};

struct GenerateOptions {
  RequestOptions common;
  std::string prompt;
  std::string file;
  bool chat = false;
  bool unary = false;
  bool no_progress = false;
  std::string explain;
};

struct TokenizeOptions {
  std::string text;
  std::string file;
  std::string model;
  bool count = false;
  bool pieces = false;
};

enum class Command { kGenerate, kChat, kTokenize, kInfo, kLoad, kHealth, kAbort };

struct ClientOptions {
  ConnectionOptions connection;
  Command command = Command::kInfo;
  GenerateOptions generate;
  RequestOptions chat;
  TokenizeOptions tokenize;
  std::string info_model;
  std::string health_service;
  std::vector<std::string> abort_ids;
};

// Parses the command line. On a status other than OK, or when help or version was asked for, fills
// `exit_code` and prints as CLI11 does. True: `options` is complete.
bool ParseClientOptions(int argc, const char* const* argv, ClientOptions* options, int* exit_code);

// "off", "profile", "paper", "ratio:R" or "custom:LAYER=TOKENS,LAYER=TOKENS,..." into a request.
absl::Status ParsePruning(absl::string_view text, sliminfer::v1::PruningOptions* pruning);

// "ID=BIAS", bias within [-100, 100].
absl::Status ParseLogitBias(absl::string_view text, sliminfer::v1::SamplingParams* sampling);

}  // namespace slim

#endif  // TOOLS_CLIENT_CLIENT_OPTIONS_H_
