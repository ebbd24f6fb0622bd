#include "server/config.h"

#include <cstdlib>
#include <fstream>
#include <map>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "server/config_options.h"
#include "server/config_values.h"

namespace slim {
namespace {

// Values by option name, as text.
using Values = std::map<std::string, std::string>;

absl::Status Invalid(absl::string_view field, const absl::AlphaNum& value,
                     absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat("--", field, " is ", value, ", allowed: ", allowed));
}

template <typename T>
absl::Status CheckRange(absl::string_view field, T value, T low, T high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Invalid(field, value, absl::StrCat(low, " to ", high));
}

absl::Status CheckDuration(absl::string_view field, absl::Duration value, absl::Duration low,
                           absl::Duration high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Invalid(field, absl::FormatDuration(value),
                 absl::StrCat(absl::FormatDuration(low), " to ", absl::FormatDuration(high)));
}

std::string EnvironmentName(absl::string_view option) {
  return absl::StrCat("SLIMINFER_", absl::AsciiStrToUpper(option));
}

const ConfigOption* FindOption(absl::string_view name) {
  for (const ConfigOption& option : ConfigOptions()) {
    if (option.name == name) return &option;
  }
  return nullptr;
}

// What stood on the command line.
struct CommandLine {
  Values values;
  std::string config_file;
  bool print_config = false;
  bool print_version = false;
  std::string help;  // not empty: asked for
};

absl::StatusOr<CommandLine> ReadCommandLine(const std::vector<std::string>& arguments) {
  CommandLine line;
  CLI::App app("SlimInfer inference server", "sliminfer-server");
  Values read;
  std::vector<std::pair<std::string, CLI::Option*>> given;
  for (const ConfigOption& option : ConfigOptions()) {
    std::string& value = read[option.name];
    CLI::Option* added = option.is_switch ? app.add_flag("--" + option.name, value, option.help)
                                          : app.add_option("--" + option.name, value, option.help);
    added->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    given.emplace_back(option.name, added);
  }
  app.add_option("--config", line.config_file, "file with options, key = value (TOML)");
  app.add_flag("--print_config", line.print_config, "print the effective configuration and stop");
  app.add_flag("--version", line.print_version, "print the version and stop");
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::CallForHelp&) {
    line.help = app.help();
    return line;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(absl::StrCat("command line: ", error.what()));
  }
  for (const auto& [name, option] : given) {
    if (option->count() > 0) line.values[name] = read[name];
  }
  return line;
}

absl::StatusOr<Values> ReadConfigFile(const std::string& path) {
  // Checked first: a directory opens as a stream without error and reads as empty.
  std::ifstream file(path);
  if (!file.good() || file.peek() == std::ifstream::traits_type::eof()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--config ", path, ": cannot be read, or is empty"));
  }
  Values values;
  std::vector<CLI::ConfigItem> items;
  try {
    items = CLI::ConfigTOML().from_config(file);
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("--config ", path, ": ", error.what()));
  }
  for (const CLI::ConfigItem& item : items) {
    if (item.name == "++" || item.name == "--") continue;  // begin and end of a section
    if (!item.parents.empty() || FindOption(item.name) == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("--config ", path, ": unknown key ", item.fullname()));
    }
    if (item.inputs.size() != 1) {
      return absl::InvalidArgumentError(absl::StrCat("--config ", path, ": key ", item.name,
                                                     " has ", item.inputs.size(),
                                                     " values, allowed: 1"));
    }
    if (!values.emplace(item.name, item.inputs[0]).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("--config ", path, ": key ", item.name, " stands there twice"));
    }
  }
  return values;
}

absl::Status Apply(const Values& values, absl::string_view source, ServerConfig* config) {
  for (const auto& [name, value] : values) {
    const absl::Status status = FindOption(name)->set(value, config);
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(source, name, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status ApplyEnvironment(const EnvironmentLookup& environment, ServerConfig* config) {
  for (const ConfigOption& option : ConfigOptions()) {
    const absl::optional<std::string> value = environment(EnvironmentName(option.name));
    if (!value.has_value()) continue;
    const absl::Status status = option.set(*value, config);
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(EnvironmentName(option.name), ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateSizes(const ServerConfig& c) {
  SLIM_RETURN_IF_ERROR(CheckRange("threads", c.threads, 0, 1024));
  SLIM_RETURN_IF_ERROR(
      CheckRange<int64_t>("kv_device_bytes", c.kv_device_bytes, 0, int64_t{1} << 46));
  SLIM_RETURN_IF_ERROR(CheckRange<int64_t>("kv_host_bytes", c.kv_host_bytes, 0, int64_t{1} << 46));
  SLIM_RETURN_IF_ERROR(
      CheckRange<int64_t>("prefix_cache_bytes", c.prefix_cache_bytes, 0, int64_t{1} << 46));
  if (c.block_tokens != 0 && c.block_tokens != 32 && c.block_tokens != 64) {
    return Invalid("block_tokens", c.block_tokens, "0 (the profile's), 32 or 64");
  }
  SLIM_RETURN_IF_ERROR(CheckRange("max_running", c.max_running, 1, 1024));
  SLIM_RETURN_IF_ERROR(CheckRange("max_queued_requests", c.max_queued_requests, 0, 65536));
  SLIM_RETURN_IF_ERROR(
      CheckRange<int64_t>("max_queued_tokens", c.max_queued_tokens, 1, int64_t{1} << 32));
  SLIM_RETURN_IF_ERROR(CheckRange("prefill_chunk_tokens", c.prefill_chunk_tokens, 0, 65536));
  SLIM_RETURN_IF_ERROR(
      CheckRange("max_streams_per_connection", c.max_streams_per_connection, 1, 65536));
  SLIM_RETURN_IF_ERROR(CheckRange("max_requests_per_peer", c.max_requests_per_peer, 0, 65536));
  SLIM_RETURN_IF_ERROR(
      CheckRange<int64_t>("max_message_bytes", c.max_message_bytes, 4 << 10, 64 << 20));
  return CheckRange<int64_t>("max_metadata_bytes", c.max_metadata_bytes, 1 << 10, 256 << 10);
}

absl::Status ValidateTimes(const ServerConfig& c) {
  const absl::Duration millisecond = absl::Milliseconds(1);
  SLIM_RETURN_IF_ERROR(
      CheckDuration("max_queue_wait", c.max_queue_wait, millisecond, absl::Hours(1)));
  SLIM_RETURN_IF_ERROR(
      CheckDuration("drain_timeout", c.drain_timeout, absl::ZeroDuration(), absl::Hours(1)));
  SLIM_RETURN_IF_ERROR(
      CheckDuration("write_stall_timeout", c.write_stall_timeout, millisecond, absl::Hours(1)));
  return CheckDuration("max_request_time", c.max_request_time, millisecond, absl::Hours(24));
}

absl::Status ValidateNetwork(const ServerConfig& c) {
  const absl::StatusOr<ListenAddress> listen = ParseListenAddress(c.listen);
  if (!listen.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--listen: ", listen.status().message()));
  }
  if (!c.http_listen.empty()) {
    const absl::StatusOr<ListenAddress> http = ParseListenAddress(c.http_listen);
    if (!http.ok() || http->is_unix()) {
      return Invalid("http_listen", c.http_listen, "host:port, or off");
    }
  }
  if (c.tls_cert.empty() != c.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls_cert and --tls_key belong together: one is missing");
  }
  if (!c.tls_client_ca.empty() && !c.tls()) {
    return absl::InvalidArgumentError("--tls_client_ca needs --tls_cert and --tls_key");
  }
  if (listen->is_wildcard() && !c.tls() && !c.insecure_wildcard) {
    return absl::InvalidArgumentError(
        absl::StrCat("--listen ", c.listen,
                     " without TLS is open to the whole network: give --tls_cert and "
                     "--tls_key, a loopback address, or --insecure_wildcard"));
  }
  if (!c.auth_tokens_file.empty() && !c.tls() && !listen->is_loopback()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--auth_tokens_file on ", c.listen,
                     " without TLS would send tokens in the clear: give --tls_cert and --tls_key"));
  }
  if (c.reflection == ReflectionMode::kOn && !c.auth_tokens_file.empty()) {
    return absl::InvalidArgumentError(
        "--reflection=on would answer without a token: not together with --auth_tokens_file");
  }
  return absl::OkStatus();
}

}  // namespace

bool ServerConfig::reflection_enabled() const {
  if (reflection != ReflectionMode::kAuto) return reflection == ReflectionMode::kOn;
  const absl::StatusOr<ListenAddress> address = ParseListenAddress(listen);
  return address.ok() && address->is_loopback() && auth_tokens_file.empty();
}

absl::Status ServerConfig::Validate() const {
  if (model.empty()) {
    return absl::InvalidArgumentError("--model is empty, allowed: path of a GGUF file");
  }
  if (model_name.size() > 128) {
    return Invalid("model_name", absl::StrCat(model_name.size(), " bytes"), "at most 128 bytes");
  }
  for (const char c : model_name) {
    if (!absl::ascii_isgraph(c)) {
      return Invalid("model_name", "not printable", "printable ASCII without spaces");
    }
  }
  SLIM_RETURN_IF_ERROR(ValidateSizes(*this));
  SLIM_RETURN_IF_ERROR(ValidateTimes(*this));
  return ValidateNetwork(*this);
}

absl::StatusOr<ConfigRequest> ParseConfig(const std::vector<std::string>& arguments,
                                          const EnvironmentLookup& environment) {
  SLIM_ASSIGN_OR_RETURN(CommandLine line, ReadCommandLine(arguments));
  ConfigRequest request;
  if (!line.help.empty()) {
    request.action = ConfigRequest::Action::kPrintHelp;
    request.text = line.help;
    return request;
  }
  if (line.print_version) {
    request.action = ConfigRequest::Action::kPrintVersion;
    return request;
  }
  if (line.config_file.empty()) {
    line.config_file = environment("SLIMINFER_CONFIG").value_or("");
  }
  if (!line.config_file.empty()) {
    SLIM_ASSIGN_OR_RETURN(const Values values, ReadConfigFile(line.config_file));
    SLIM_RETURN_IF_ERROR(
        Apply(values, absl::StrCat("--config ", line.config_file, ": "), &request.config));
  }
  SLIM_RETURN_IF_ERROR(ApplyEnvironment(environment, &request.config));
  SLIM_RETURN_IF_ERROR(Apply(line.values, "--", &request.config));
  SLIM_RETURN_IF_ERROR(request.config.Validate());
  if (line.print_config) {
    request.action = ConfigRequest::Action::kPrintConfig;
    request.text = FormatConfig(request.config);
  }
  return request;
}

absl::optional<std::string> ProcessEnvironment(absl::string_view name) {
  const char* value = std::getenv(std::string(name).c_str());
  if (value == nullptr) return absl::nullopt;
  return std::string(value);
}

std::string FormatConfig(const ServerConfig& config) {
  std::string text;
  for (const ConfigOption& option : ConfigOptions()) {
    absl::StrAppend(&text, option.name, " = \"", option.get(config), "\"\n");
  }
  return text;
}

}  // namespace slim
