#include "tools/bench/bench_options.h"

#include <algorithm>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

constexpr int64_t kMaxTokens = 1 << 20;
constexpr int64_t kPrefixCacheBytes = int64_t{1} << 30;
constexpr char kDefaultModel[] = "models/SmolLM2-135M-Instruct.Q4_1.gguf";

// Lists as they were written.
struct Texts {
  std::string lengths = "512,2048,4096,8000";
  std::string contexts = "16,2048,7900";
  std::string streams = "1,4,8";
  std::string prefill_pruning = "off,profile";
  std::string decode_pruning = "off";
  std::string rates = "0.5,1,2";
  std::string mix = "64:0.6,512:0.3,2048:0.1";
  std::string decode_mode = "frozen";
  std::string kv_tier = "unified";
  double duration_seconds = 30;
  double request_timeout_seconds = 600;
  std::string backend = "cpu";
  bool random_weights = false;
  bool no_roofline = false;
};

void AddLocal(CLI::App* app, LocalModelOptions* local, Texts* texts) {
  local->model = kDefaultModel;
  app->add_option("--model", local->model, "GGUF file")->capture_default_str();
  app->add_option("--profile", local->profile, "pruning profile (default: the model's own)");
  app->add_option("--geometry", local->geometry,
                  "instead of a model: llama-3.1-8b, llama-3.2-1b, qwen2.5-7b or tiny");
  app->add_flag("--random_weights", texts->random_weights, "what --geometry computes with");
  app->add_option("--backend", texts->backend, "cpu, cuda or auto")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}))
      ->capture_default_str();
  app->add_option("--threads", local->threads, "0: as many as the machine allows")
      ->check(CLI::Range(0, 1024));
  app->add_flag("--no_roofline", texts->no_roofline,
                "leave out the probes of the machine's peak and bandwidth (cpu)");
  app->add_option("--isa", local->isa, "portable, avx2, avx512vnni, ... (default: the best)");
}

void AddPrefill(CLI::App* app, BenchOptions* options, Texts* texts) {
  AddLocal(app, &options->local, texts);
  app->add_option("--lengths", texts->lengths, "prompt tokens")->capture_default_str();
  app->add_option("--pruning", texts->prefill_pruning,
                  "off, paper, ratio:R, profile[:FILE], random:R, recency:R, ... by turns")
      ->capture_default_str();
  app->add_option("--runs", options->prefill.runs)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app->add_option("--max_new_tokens", options->prefill.max_new_tokens, "tokens after each prompt")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app->add_option("--question_tokens", options->prefill.question_tokens,
                  "also time a question of so many tokens behind a text that is cached")
      ->check(CLI::Range(int64_t{0}, kMaxTokens));
  app->add_option("--chunk_tokens", options->prefill.chunk_tokens, "rows per step")
      ->check(CLI::Range(int64_t{1}, kMaxTokens))
      ->capture_default_str();
  app->add_flag("--op_times", options->prefill.op_times,
                "one more run of each mode with every kind of op timed on the device (cuda)");
  app->add_option("--seed", options->prefill.seed)->capture_default_str();
}

void AddDecode(CLI::App* app, BenchOptions* options, Texts* texts) {
  AddLocal(app, &options->local, texts);
  app->add_option("--contexts", texts->contexts, "prompt tokens of each stream")
      ->capture_default_str();
  app->add_option("--streams", texts->streams, "streams at a time")->capture_default_str();
  app->add_option("--pruning", texts->decode_pruning, "as for prefill")->capture_default_str();
  app->add_option("--decode", texts->decode_mode, "frozen or reselect")
      ->check(CLI::IsMember({"frozen", "reselect"}));
  app->add_option("--decode_budget_tokens", options->decode.decode_budget_tokens, "reselect only")
      ->check(CLI::Range(int64_t{0}, kMaxTokens));
  app->add_option("--max_new_tokens", options->decode.max_new_tokens, "measured steps")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app->add_option("--chunk_tokens", options->decode.chunk_tokens, "prefill rows per step")
      ->check(CLI::Range(int64_t{1}, kMaxTokens))
      ->capture_default_str();
  app->add_option("--kv_tier", texts->kv_tier,
                  "by turns: unified, discrete, discrete_no_prefetch (pages are fetched when "
                  "asked for)")
      ->capture_default_str();
  app->add_option("--device_share", options->local.device_share,
                  "discrete: device arena as a share of all KV")
      ->check(CLI::Range(0.01, 1.0));
  app->add_option("--seed", options->decode.seed)->capture_default_str();
}

void AddServe(CLI::App* app, BenchOptions* options, Texts* texts) {
  ServeBenchOptions* serve = &options->serve;
  app->add_option("--address", serve->address)->capture_default_str();
  app->add_option("--token", serve->token, "bearer token")->envname("SLIMINFER_TOKEN");
  app->add_option("--rates", texts->rates, "requests per second")->capture_default_str();
  app->add_option("--duration", texts->duration_seconds, "seconds of arrivals per rate")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  app->add_option("--mix", texts->mix, "prompt lengths, TOKENS:WEIGHT")->capture_default_str();
  app->add_option("--max_new_tokens", serve->max_new_tokens)
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app->add_option("--pruning", serve->pruning, "as the client's (default: the server's)");
  app->add_option("--seed", serve->seed)->capture_default_str();
  app->add_option("--request_timeout", texts->request_timeout_seconds, "seconds")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  app->add_flag("--fairness", options->fairness,
                "instead: short requests and streams while one long prompt is computed");
  app->add_option("--long_tokens", options->fair.long_tokens)
      ->check(CLI::Range(int64_t{1}, kMaxTokens))
      ->capture_default_str();
  app->add_option("--short_tokens", options->fair.short_tokens)
      ->check(CLI::Range(int64_t{1}, kMaxTokens))
      ->capture_default_str();
  app->add_option("--short_rate", options->fair.short_rate, "short requests per second")
      ->check(CLI::Range(0.01, 1000.0))
      ->capture_default_str();
  app->add_option("--streams", options->fair.streams, "streams in the background")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
}

absl::StatusOr<std::vector<KvChoice>> ParseKvList(const std::string& text) {
  std::vector<KvChoice> list;
  for (const absl::string_view name : absl::StrSplit(text, ',')) {
    if (name == "unified") {
      list.push_back({KvTier::kUnified, true});
    } else if (name == "discrete" || name == "discrete_no_prefetch") {
      list.push_back({KvTier::kDiscrete, name == "discrete"});
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "--kv_tier: '", name, "', allowed are unified, discrete and discrete_no_prefetch"));
    }
  }
  return list;
}

absl::Status Resolve(const Texts& texts, BenchOptions* options) {
  PrefillBenchOptions& prefill = options->prefill;
  DecodeBenchOptions& decode = options->decode;
  LocalModelOptions& local = options->local;
  local.backend = texts.backend == "cuda"   ? BackendKind::kCuda
                  : texts.backend == "auto" ? BackendKind::kAuto
                                            : BackendKind::kCpu;
  if (local.geometry.empty() == texts.random_weights) {
    return absl::InvalidArgumentError("--geometry and --random_weights go together");
  }
  prefill.roofline = decode.roofline = !texts.no_roofline;
  switch (options->command) {
    case BenchOptions::Command::kPrefill: {
      SLIM_ASSIGN_OR_RETURN(prefill.lengths,
                            ParseIntList("--lengths", texts.lengths, 1, kMaxTokens));
      SLIM_ASSIGN_OR_RETURN(prefill.pruning, ParsePruningList(texts.prefill_pruning));
      SLIM_RETURN_IF_ERROR(LoadProfiles(prefill.pruning));
      const int64_t longest = *std::max_element(prefill.lengths.begin(), prefill.lengths.end());
      local.tokens_per_stream = prefill.max_new_tokens + longest;
      if (prefill.question_tokens > 0) local.prefix_cache_bytes = kPrefixCacheBytes;
      return absl::OkStatus();
    }
    case BenchOptions::Command::kDecode: {
      SLIM_ASSIGN_OR_RETURN(decode.contexts,
                            ParseIntList("--contexts", texts.contexts, 1, kMaxTokens));
      SLIM_ASSIGN_OR_RETURN(decode.streams, ParseIntList("--streams", texts.streams, 1, 1024));
      SLIM_ASSIGN_OR_RETURN(decode.pruning, ParsePruningList(texts.decode_pruning));
      SLIM_RETURN_IF_ERROR(LoadProfiles(decode.pruning));
      decode.decode_mode =
          texts.decode_mode == "reselect" ? DecodeMode::kReselect : DecodeMode::kFrozen;
      SLIM_ASSIGN_OR_RETURN(decode.kv, ParseKvList(texts.kv_tier));
      local.streams =
          static_cast<int>(*std::max_element(decode.streams.begin(), decode.streams.end()));
      // Every stream count adds its steps to the same streams.
      local.tokens_per_stream =
          *std::max_element(decode.contexts.begin(), decode.contexts.end()) +
          static_cast<int64_t>(decode.streams.size()) * (decode.max_new_tokens + 2) + 1;
      return absl::OkStatus();
    }
    case BenchOptions::Command::kServe: {
      SLIM_ASSIGN_OR_RETURN(options->serve.rates, ParseRateList("--rates", texts.rates, 10000));
      SLIM_ASSIGN_OR_RETURN(options->serve.mix, ParseLengthMix("--mix", texts.mix, kMaxTokens));
      options->serve.duration = absl::Seconds(texts.duration_seconds);
      options->serve.call_timeout = absl::Seconds(texts.request_timeout_seconds);
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool ParseBenchOptions(int argc, const char* const* argv, BenchOptions* options, int* exit_code) {
  Texts texts;
  CLI::App app("Measures prefill, decode and serving speed.", "sliminfer-bench");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--json", options->json, "write machine and rows to this file");
  const auto command = [&](const char* name, const char* help, BenchOptions::Command value) {
    CLI::App* sub = app.add_subcommand(name, help);
    sub->callback([options, value] { options->command = value; });
    return sub;
  };
  AddPrefill(
      command("prefill", "time to first token, in this process", BenchOptions::Command::kPrefill),
      options, &texts);
  AddDecode(command("decode", "tokens per second after a prompt, in this process",
                    BenchOptions::Command::kDecode),
            options, &texts);
  AddServe(command("serve", "load on a running server", BenchOptions::Command::kServe), options,
           &texts);
  try {
    app.parse(argc, argv);
    const absl::Status status = Resolve(texts, options);
    if (!status.ok()) throw CLI::ValidationError(std::string(status.message()));
  } catch (const CLI::ParseError& error) {
    *exit_code = app.exit(error) == 0 ? 0 : 2;
    return false;
  }
  return true;
}

}  // namespace slim
