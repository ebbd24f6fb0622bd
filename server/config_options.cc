#include "server/config_options.h"

#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "server/config_values.h"

namespace slim {
namespace {

ConfigOption Text(std::string name, std::string ServerConfig::*field, std::string help) {
  return {std::move(name), std::move(help), /*is_switch=*/false,
          [field](absl::string_view text, ServerConfig* config) {
            config->*field = std::string(text);
            return absl::OkStatus();
          },
          [field](const ServerConfig& config) { return config.*field; }};
}

ConfigOption Integer(std::string name, int ServerConfig::*field, std::string help) {
  return {
      std::move(name), std::move(help), /*is_switch=*/false,
      [field](absl::string_view text, ServerConfig* config) -> absl::Status {
        SLIM_ASSIGN_OR_RETURN(const int64_t value, ParseIntegerText(text));
        if (value < std::numeric_limits<int>::min() || value > std::numeric_limits<int>::max()) {
          return absl::InvalidArgumentError(
              absl::StrCat("\"", text, "\" does not fit a 32-bit integer"));
        }
        config->*field = static_cast<int>(value);
        return absl::OkStatus();
      },
      [field](const ServerConfig& config) { return absl::StrCat(config.*field); }};
}

ConfigOption LongInteger(std::string name, int64_t ServerConfig::*field, std::string help) {
  return {std::move(name), std::move(help), /*is_switch=*/false,
          [field](absl::string_view text, ServerConfig* config) -> absl::Status {
            SLIM_ASSIGN_OR_RETURN(config->*field, ParseIntegerText(text));
            return absl::OkStatus();
          },
          [field](const ServerConfig& config) { return absl::StrCat(config.*field); }};
}

ConfigOption Bytes(std::string name, int64_t ServerConfig::*field, std::string help) {
  return {std::move(name), std::move(help), /*is_switch=*/false,
          [field](absl::string_view text, ServerConfig* config) -> absl::Status {
            SLIM_ASSIGN_OR_RETURN(config->*field, ParseBytesText(text));
            return absl::OkStatus();
          },
          [field](const ServerConfig& config) { return FormatBytes(config.*field); }};
}

ConfigOption Duration(std::string name, absl::Duration ServerConfig::*field, std::string help) {
  return {std::move(name), std::move(help), /*is_switch=*/false,
          [field](absl::string_view text, ServerConfig* config) -> absl::Status {
            SLIM_ASSIGN_OR_RETURN(config->*field, ParseDurationText(text));
            return absl::OkStatus();
          },
          [field](const ServerConfig& config) { return absl::FormatDuration(config.*field); }};
}

ConfigOption Switch(std::string name, bool ServerConfig::*field, std::string help) {
  return {std::move(name), std::move(help), /*is_switch=*/true,
          [field](absl::string_view text, ServerConfig* config) -> absl::Status {
            SLIM_ASSIGN_OR_RETURN(config->*field, ParseSwitchText(text));
            return absl::OkStatus();
          },
          [field](const ServerConfig& config) {
            return std::string(config.*field ? "true" : "false");
          }};
}

template <typename E>
using EnumWords = std::vector<std::pair<std::string, E>>;

template <typename E>
ConfigOption Choice(std::string name, E ServerConfig::*field, EnumWords<E> words,
                    std::string help) {
  return {std::move(name), std::move(help), /*is_switch=*/false,
          [field, words](absl::string_view text, ServerConfig* config) {
            std::vector<std::string> allowed;
            for (const auto& [word, value] : words) {
              if (word == text) {
                config->*field = value;
                return absl::OkStatus();
              }
              allowed.push_back(word);
            }
            return absl::InvalidArgumentError(
                absl::StrCat("\"", text, "\" is not one of ", absl::StrJoin(allowed, ", ")));
          },
          [field, words](const ServerConfig& config) {
            for (const auto& [word, value] : words) {
              if (value == config.*field) return word;
            }
            return std::string();
          }};
}

ConfigOption Pruning() {
  return {"pruning",
          "what a request that says nothing gets: auto (the model's profile, if any), off, "
          "profile, paper "
          "or ratio:R",
          /*is_switch=*/false,
          [](absl::string_view text, ServerConfig* config) -> absl::Status {
            SLIM_ASSIGN_OR_RETURN(config->pruning, ParsePruningDefault(text));
            return absl::OkStatus();
          },
          [](const ServerConfig& config) { return PruningDefaultText(config.pruning); }};
}

ConfigOption HttpListen() {
  return {"http_listen", "address of /metrics, /healthz and /readyz; \"off\": none",
          /*is_switch=*/false,
          [](absl::string_view text, ServerConfig* config) {
            config->http_listen = text == "off" ? "" : std::string(text);
            return absl::OkStatus();
          },
          [](const ServerConfig& config) {
            return config.http_listen.empty() ? std::string("off") : config.http_listen;
          }};
}

std::vector<ConfigOption> ModelOptions() {
  using C = ServerConfig;
  return {
      Text("model", &C::model, "GGUF file, or a directory in Hugging Face layout (required)"),
      Text("model_name", &C::model_name, "name that requests and metrics use; default: the file's"),
      Choice<BackendKind>(
          "backend", &C::backend,
          {{"auto", BackendKind::kAuto}, {"cpu", BackendKind::kCpu}, {"cuda", BackendKind::kCuda}},
          "cuda, cpu, or auto: cuda where its module and a GPU are there"),
      Integer("threads", &C::threads, "compute threads; 0: what cpuset and cgroup allow"),
      Choice<KvTier>("kv_tier", &C::kv_tier,
                     {{"unified", KvTier::kUnified}, {"discrete", KvTier::kDiscrete}},
                     "unified (one memory) or discrete (host pool and device arena)"),
      Bytes("kv_device_bytes", &C::kv_device_bytes,
            "KV cache or device arena; 0: from free memory"),
      Bytes("kv_host_bytes", &C::kv_host_bytes,
            "host pool of the discrete tier; 0: from free memory"),
      Integer("block_tokens", &C::block_tokens, "tokens per KV block: 32 or 64; 0: the profile's"),
      Pruning(),
      Text("profile", &C::profile, "file with the model's pruning profile"),
      Choice<DecodeMode>("decode", &C::decode,
                         {{"frozen", DecodeMode::kFrozen}, {"reselect", DecodeMode::kReselect}},
                         "what decode attends to: frozen or reselect"),
      Bytes("prefix_cache_bytes", &C::prefix_cache_bytes, "prefix cache; 0: none"),
  };
}

std::vector<ConfigOption> ServingOptions() {
  using C = ServerConfig;
  return {
      Text("listen", &C::listen, "gRPC address, host:port (port 0: any) or unix:/path"),
      HttpListen(),
      Text("port_file", &C::port_file, "file that receives the chosen addresses, for scripts"),
      Integer("max_running", &C::max_running, "sequences in prefill or decode at a time"),
      Integer("max_queued_requests", &C::max_queued_requests,
              "requests that wait; more are refused"),
      LongInteger("max_queued_tokens", &C::max_queued_tokens, "prompt tokens that wait"),
      Duration("max_queue_wait", &C::max_queue_wait, "longest wait in the queue"),
      Duration("drain_timeout", &C::drain_timeout, "time for running requests at shutdown"),
      Duration("write_stall_timeout", &C::write_stall_timeout, "longest a client may not read"),
      Duration("max_request_time", &C::max_request_time, "longest a request may take"),
      Integer("prefill_chunk_tokens", &C::prefill_chunk_tokens,
              "most prompt rows per step; 0: the scheduler's choice"),
      Integer("max_streams_per_connection", &C::max_streams_per_connection,
              "calls at a time on one connection"),
      Integer("max_requests_per_peer", &C::max_requests_per_peer,
              "generations in flight per client host; 0: no such limit"),
      Bytes("max_message_bytes", &C::max_message_bytes, "largest request message"),
      Bytes("max_metadata_bytes", &C::max_metadata_bytes, "largest request metadata"),
      Choice<ReflectionMode>("reflection", &C::reflection,
                             {{"auto", ReflectionMode::kAuto},
                              {"on", ReflectionMode::kOn},
                              {"off", ReflectionMode::kOff}},
                             "server reflection; auto: on loopback without tokens only"),
      Switch("insecure_wildcard", &C::insecure_wildcard, "allow a wildcard address without TLS"),
      Text("tls_cert", &C::tls_cert, "PEM certificate chain; with --tls_key: TLS"),
      Text("tls_key", &C::tls_key, "PEM private key"),
      Text("tls_client_ca", &C::tls_client_ca, "PEM authority that client certificates must have"),
      Text("auth_tokens_file", &C::auth_tokens_file,
           "bearer tokens, one a line, plain or as sha256:HEX"),
      Choice<LogFormat>("log_format", &C::log_format,
                        {{"text", LogFormat::kText}, {"json", LogFormat::kJson}}, "text or json"),
  };
}

std::vector<ConfigOption> AllOptions() {
  std::vector<ConfigOption> options = ModelOptions();
  std::vector<ConfigOption> serving = ServingOptions();
  for (ConfigOption& option : serving) options.push_back(std::move(option));
  return options;
}

}  // namespace

const std::vector<ConfigOption>& ConfigOptions() {
  static const std::vector<ConfigOption>& options = *new std::vector<ConfigOption>(AllOptions());
  return options;
}

}  // namespace slim
