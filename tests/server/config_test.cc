#include "server/config.h"

#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/config_options.h"
#include "server/config_values.h"

namespace slim {
namespace {

using ::testing::HasSubstr;

using Environment = std::map<std::string, std::string>;

absl::StatusOr<ConfigRequest> Parse(std::vector<std::string> arguments,
                                    const Environment& environment = {}) {
  return ParseConfig(arguments, [&](absl::string_view name) -> absl::optional<std::string> {
    const auto entry = environment.find(std::string(name));
    if (entry == environment.end()) return absl::nullopt;
    return entry->second;
  });
}

std::string WriteTemporary(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

TEST(ConfigTest, DefaultsAreLoopbackAndBounded) {
  const auto request = Parse({"--model", "m.gguf"});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->config.listen, "127.0.0.1:50051");
  EXPECT_EQ(request->config.http_listen, "127.0.0.1:9464");
  EXPECT_EQ(request->config.max_message_bytes, 1572864);
  EXPECT_EQ(request->config.drain_timeout, absl::Seconds(25));
  EXPECT_TRUE(request->config.reflection_enabled());
  EXPECT_FALSE(request->config.tls());
}

TEST(ConfigTest, FlagBeatsEnvironmentBeatsFileBeatsDefault) {
  const std::string file = WriteTemporary(
      "precedence.toml",
      "# a comment\nmodel = \"file.gguf\"\nmax_running = 3\nmax_queued_requests = 4\n"
      "drain_timeout = \"1s\"\n");
  const auto request = Parse({"--config", file, "--max_running", "9"},
                             {{"SLIMINFER_MAX_RUNNING", "8"}, {"SLIMINFER_DRAIN_TIMEOUT", "2s"}});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->config.max_running, 9);                     // flag
  EXPECT_EQ(request->config.drain_timeout, absl::Seconds(2));    // environment
  EXPECT_EQ(request->config.max_queued_requests, 4);             // file
  EXPECT_EQ(request->config.max_queue_wait, absl::Seconds(10));  // default
  EXPECT_EQ(request->config.model, "file.gguf");
}

TEST(ConfigTest, ConfigFileIsNamedByTheEnvironmentToo) {
  const std::string file = WriteTemporary("named.toml", "model = \"x.gguf\"\n");
  const auto request = Parse({}, {{"SLIMINFER_CONFIG", file}});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->config.model, "x.gguf");
}

TEST(ConfigTest, PrintedConfigReadsBackAsItself) {
  const auto first = Parse({"--model", "a b.gguf", "--kv_device_bytes", "1.5GiB", "--pruning",
                            "ratio:0.25", "--http_listen", "off", "--insecure_wildcard",
                            "--max_queue_wait", "1m30s", "--print_config"});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->action, ConfigRequest::Action::kPrintConfig);
  const std::string file = WriteTemporary("printed.toml", first->text);
  const auto second = Parse({"--config", file, "--print_config"});
  ASSERT_TRUE(second.ok()) << second.status() << first->text;
  EXPECT_EQ(second->text, first->text);
  EXPECT_EQ(second->config.kv_device_bytes, int64_t{3} << 29);
  EXPECT_TRUE(second->config.http_listen.empty());
  EXPECT_TRUE(second->config.insecure_wildcard);
}

TEST(ConfigTest, VersionAndHelpNeedNoModel) {
  const auto version = Parse({"--version"});
  ASSERT_TRUE(version.ok());
  EXPECT_EQ(version->action, ConfigRequest::Action::kPrintVersion);
  const auto help = Parse({"--help"});
  ASSERT_TRUE(help.ok());
  EXPECT_EQ(help->action, ConfigRequest::Action::kPrintHelp);
  for (const ConfigOption& option : ConfigOptions()) {
    EXPECT_THAT(help->text, HasSubstr("--" + option.name));
  }
}

struct BadConfig {
  std::vector<std::string> arguments;  // after --model m
  std::string message;                 // part of it
};

TEST(ConfigTest, BadValuesAreRefusedByName) {
  const BadConfig cases[] = {
      {{"--no_such_flag"}, "no_such_flag"},
      {{"stray"}, "stray"},
      {{"--model", ""}, "--model"},
      {{"--listen", "50051"}, "--listen"},
      {{"--listen", "127.0.0.1:99999"}, "--listen"},
      {{"--listen", "127.0.0.1:-1"}, "--listen"},
      {{"--listen", "::1:50051"}, "--listen"},
      {{"--listen", "0.0.0.0:50051"}, "insecure_wildcard"},
      {{"--listen", "[::]:50051"}, "insecure_wildcard"},
      {{"--http_listen", "unix:/x"}, "--http_listen"},
      {{"--backend", "tpu"}, "auto, cpu, cuda"},
      {{"--threads", "-1"}, "--threads"},
      {{"--threads", "2.5"}, "--threads"},
      {{"--threads", "99999999999"}, "--threads"},
      {{"--kv_tier", "both"}, "unified, discrete"},
      {{"--kv_device_bytes", "-1"}, "--kv_device_bytes"},
      {{"--kv_device_bytes", "4 parsecs"}, "--kv_device_bytes"},
      {{"--kv_device_bytes", "nan"}, "--kv_device_bytes"},
      {{"--kv_device_bytes", "99999999TiB"}, "--kv_device_bytes"},
      {{"--block_tokens", "48"}, "--block_tokens"},
      {{"--pruning", "ratio:0"}, "--pruning"},
      {{"--pruning", "ratio:1.5"}, "--pruning"},
      {{"--pruning", "ratio:nan"}, "--pruning"},
      {{"--pruning", "some"}, "--pruning"},
      {{"--decode", "thawed"}, "frozen, reselect"},
      {{"--max_running", "0"}, "--max_running"},
      {{"--max_queued_requests", "-1"}, "--max_queued_requests"},
      {{"--max_queued_tokens", "0"}, "--max_queued_tokens"},
      {{"--max_queue_wait", "10"}, "--max_queue_wait"},
      {{"--max_queue_wait", "-5s"}, "--max_queue_wait"},
      {{"--max_queue_wait", "inf"}, "--max_queue_wait"},
      {{"--drain_timeout", "2h"}, "--drain_timeout"},
      {{"--write_stall_timeout", "0s"}, "--write_stall_timeout"},
      {{"--max_message_bytes", "1"}, "--max_message_bytes"},
      {{"--log_format", "xml"}, "text, json"},
      {{"--reflection", "maybe"}, "auto, on, off"},
      {{"--tls_cert", "c.pem"}, "--tls_key"},
      {{"--tls_client_ca", "ca.pem"}, "--tls_client_ca"},
      {{"--auth_tokens_file", "t", "--listen", "10.0.0.1:1"}, "in the clear"},
      {{"--auth_tokens_file", "t", "--reflection", "on"}, "--reflection"},
      {{"--model_name", "two words"}, "--model_name"},
      {{"--config", "/no/such/file"}, "/no/such/file"},
      {{"--config", "/"}, "--config"},
      {{"--insecure_wildcard=perhaps"}, "insecure_wildcard"},
  };
  for (const BadConfig& bad : cases) {
    std::vector<std::string> arguments = {"--model", "m"};
    arguments.insert(arguments.end(), bad.arguments.begin(), bad.arguments.end());
    const auto request = Parse(arguments);
    ASSERT_FALSE(request.ok()) << bad.arguments[0];
    EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(request.status().message()), HasSubstr(bad.message));
  }
}

TEST(ConfigTest, BadFilesAreRefusedByKey) {
  const std::pair<const char*, const char*> cases[] = {
      {"no_such_key = 1\n", "no_such_key"},
      {"[section]\nmodel = \"m\"\n", "section"},
      {"model = \"a\"\nmax_running = \"many\"\n", "max_running"},
      {"model = \"a\"\nlisten = \"x:1\"\nmodel = \"b\"\n", "twice"},
      {"model = [\"a\", \"b\"]\n", "2 values"},
      {"config = \"other.toml\"\n", "config"},
  };
  int number = 0;
  for (const auto& [text, message] : cases) {
    const std::string file = WriteTemporary("bad" + std::to_string(number++) + ".toml", text);
    const auto request = Parse({"--config", file});
    ASSERT_FALSE(request.ok()) << text;
    EXPECT_THAT(std::string(request.status().message()), HasSubstr(message)) << text;
  }
}

TEST(ConfigTest, BadEnvironmentIsRefusedByVariable) {
  const auto request = Parse({"--model", "m"}, {{"SLIMINFER_THREADS", "many"}});
  ASSERT_FALSE(request.ok());
  EXPECT_THAT(std::string(request.status().message()), HasSubstr("SLIMINFER_THREADS"));
}

TEST(ConfigTest, ReflectionIsOffAwayFromLoopbackAndWithTokens) {
  const auto remote = Parse({"--model", "m", "--listen", "10.0.0.1:1"});
  ASSERT_TRUE(remote.ok());
  EXPECT_FALSE(remote->config.reflection_enabled());
  const auto tokens = Parse({"--model", "m", "--auth_tokens_file", "t"});
  ASSERT_TRUE(tokens.ok());
  EXPECT_FALSE(tokens->config.reflection_enabled());
}

TEST(ConfigValuesTest, SizesAndDurations) {
  EXPECT_EQ(*ParseBytesText("4GiB"), int64_t{4} << 30);
  EXPECT_EQ(*ParseBytesText("2GB"), 2000000000);
  EXPECT_EQ(*ParseBytesText("1.5 MiB"), 1572864);
  EXPECT_EQ(*ParseBytesText("17"), 17);
  EXPECT_EQ(*ParseBytesText("0"), 0);
  for (const char* bad :
       {"", "GiB", "-1", "1.5", "1e3KiB x", "0x10", "inf", "9223372036854775808"}) {
    EXPECT_FALSE(ParseBytesText(bad).ok()) << bad;
  }
  EXPECT_EQ(FormatBytes(int64_t{4} << 30), "4GiB");
  EXPECT_EQ(FormatBytes(1000), "1000");
  EXPECT_EQ(FormatBytes(0), "0");
  EXPECT_EQ(*ParseDurationText("1h30m"), absl::Minutes(90));
  EXPECT_EQ(*ParseDurationText("500ms"), absl::Milliseconds(500));
  for (const char* bad : {"", "10", "ten", "-1s", "inf", "1s 2"}) {
    EXPECT_FALSE(ParseDurationText(bad).ok()) << bad;
  }
}

TEST(ConfigValuesTest, Addresses) {
  EXPECT_EQ(ParseListenAddress("[::1]:5")->host, "::1");
  EXPECT_EQ(ParseListenAddress("[::1]:5")->text(), "[::1]:5");
  EXPECT_TRUE(ParseListenAddress("[::1]:5")->is_loopback());
  EXPECT_TRUE(ParseListenAddress("127.8.9.1:0")->is_loopback());
  EXPECT_TRUE(ParseListenAddress("unix:/tmp/x")->is_loopback());
  EXPECT_TRUE(ParseListenAddress("0.0.0.0:1")->is_wildcard());
  EXPECT_FALSE(ParseListenAddress("10.0.0.1:1")->is_loopback());
  for (const char* bad : {"", ":1", "host", "host:", "host:1a", "host:70000", "a b:1", "[::1:1",
                          "unix:", "ho\nst:1"}) {
    EXPECT_FALSE(ParseListenAddress(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace slim
