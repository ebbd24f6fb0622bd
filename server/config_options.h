// The one table of the server's options: name, help text, how to read and how to print it.
// Private to the configuration. Thread-safe: immutable.
#ifndef SERVER_CONFIG_OPTIONS_H_
#define SERVER_CONFIG_OPTIONS_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/config.h"

namespace slim {

struct ConfigOption {
  std::string name;  // as in --name, the config file's key, and SLIMINFER_NAME in upper case
  std::string help;
  bool is_switch = false;  // "--name" alone means true
  // Reads a value; the error says what is wrong with it, the caller says where it came from.
  std::function<absl::Status(absl::string_view text, ServerConfig* config)> set;
  // The value as `set` reads it.
  std::function<std::string(const ServerConfig& config)> get;
};

const std::vector<ConfigOption>& ConfigOptions();

}  // namespace slim

#endif  // SERVER_CONFIG_OPTIONS_H_
