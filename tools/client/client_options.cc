#include "tools/client/client_options.h"

#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "tools/client/exit_codes.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;

constexpr char kFooter[] =
    "Exit status: 0 done, 1 failed on this side, 2 wrong command line, 3 not serving (health),\n"
    "10 + gRPC status code for errors of the server (13 INVALID_ARGUMENT, 14 DEADLINE_EXCEEDED,\n"
    "18 RESOURCE_EXHAUSTED, 24 UNAVAILABLE or no server there), 130 stopped by Ctrl-C.";

// An option whose value goes straight into the request, so that what is not given stays unset.
template <typename T>
void AddSetter(CLI::App* app, const std::string& name, const std::string& help,
               std::function<void(T)> set) {
  app->add_option_function<T>(
      name, [set](const T& value) { set(value); }, help);
}

enum class Times { kOnce, kMany };

// Turns a parser of ours into CLI11's way to refuse a value.
void AddParsed(CLI::App* app, const std::string& name, const std::string& help, Times times,
               std::function<absl::Status(absl::string_view)> parse) {
  CLI::Option* option = app->add_option_function<std::vector<std::string>>(
      name,
      [name, parse](const std::vector<std::string>& values) {
        for (const std::string& value : values) {
          const absl::Status status = parse(value);
          if (!status.ok()) throw CLI::ValidationError(name, std::string(status.message()));
        }
      },
      help);
  option->type_name("TEXT");
  if (times == Times::kOnce) option->expected(1);
  option->allow_extra_args(false);  // one value each time; what follows is the prompt
}

void AddSampling(CLI::App* app, v1::SamplingParams* sampling) {
  using Params = v1::SamplingParams;
  const auto add_float = [&](const std::string& name, const std::string& help,
                             void (Params::*set)(float)) {
    AddSetter<float>(app, name, help, [=](float value) { (sampling->*set)(value); });
  };
  add_float("--temperature", "0 to 2, 0 = greedy (default 1)", &Params::set_temperature);
  add_float("--top_p", "above 0 to 1 (default 1)", &Params::set_top_p);
  AddSetter<int32_t>(app, "--top_k", "most likely tokens to choose from, 0 = all (default 0)",
                     [=](int32_t value) { sampling->set_top_k(value); });
  add_float("--min_p", "0 to 1, of the likeliest token's probability (default 0)",
            &Params::set_min_p);
  add_float("--repetition_penalty", "above 0 to 2 (default 1)", &Params::set_repetition_penalty);
  add_float("--frequency_penalty", "-2 to 2 (default 0)", &Params::set_frequency_penalty);
  add_float("--presence_penalty", "-2 to 2 (default 0)", &Params::set_presence_penalty);
  AddSetter<uint64_t>(app, "--seed", "the same seed gives the same tokens",
                      [=](uint64_t value) { sampling->set_seed(value); });
  AddParsed(app, "--logit_bias", "ID=BIAS, added to a token's logit; may be repeated", Times::kMany,
            [=](absl::string_view text) { return ParseLogitBias(text, sampling); });
}

void AddStopping(CLI::App* app, v1::StoppingCriteria* stopping) {
  AddSetter<int32_t>(app, "--max_tokens", "tokens to generate at most (default 256)",
                     [=](int32_t value) { stopping->set_max_tokens(value); });
  AddSetter<int32_t>(app, "--min_tokens", "tokens to generate at least (default 0)",
                     [=](int32_t value) { stopping->set_min_tokens(value); });
  app->add_flag_callback(
      "--ignore_eos", [=] { stopping->set_ignore_eos(true); }, "go on past the end of the answer");
  AddParsed(app, "--stop", "text that ends the answer; may be repeated", Times::kMany,
            [=](absl::string_view text) {
              stopping->add_stop_strings(std::string(text));
              return absl::OkStatus();
            });
  app->add_option_function<std::vector<uint32_t>>(
         "--stop_token",
         [=](const std::vector<uint32_t>& ids) {
           for (const uint32_t id : ids) stopping->add_stop_token_ids(id);
         },
         "token id that ends the answer; may be repeated")
      ->allow_extra_args(false);
  app->add_flag_callback(
      "--include_stop", [=] { stopping->set_include_stop(true); },
      "the stop text is part of the output");
}

template <typename Enum>
void AddEnum(CLI::App* app, const std::string& name, const std::string& help,
             const std::map<std::string, Enum>& values, std::function<void(Enum)> set) {
  AddParsed(app, name, help, Times::kOnce, [values, set](absl::string_view text) -> absl::Status {
    const auto found = values.find(std::string(text));
    if (found != values.end()) {
      set(found->second);
      return absl::OkStatus();
    }
    std::string allowed;
    for (const auto& entry : values) {
      absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", entry.first);
    }
    return absl::InvalidArgumentError(absl::StrCat("is '", text, "', allowed: ", allowed));
  });
}

void AddPruning(CLI::App* app, v1::PruningOptions* pruning) {
  AddParsed(app, "--pruning",
            "off, profile, paper, ratio:R or custom:LAYER=TOKENS,... (default: the server's)",
            Times::kOnce, [=](absl::string_view text) { return ParsePruning(text, pruning); });
  AddSetter<int32_t>(app, "--min_prompt_tokens", "shorter prompts are not pruned",
                     [=](int32_t value) { pruning->set_min_prompt_tokens(value); });
  AddSetter<int32_t>(app, "--sink_blocks", "leading blocks that always stay (default 1)",
                     [=](int32_t value) { pruning->set_sink_blocks(value); });
  AddSetter<int32_t>(app, "--local_tokens", "trailing tokens that always stay (default 128)",
                     [=](int32_t value) { pruning->set_local_tokens(value); });
  using P = v1::PruningOptions;
  AddEnum<P::ScoreKind>(app, "--score", "how blocks are scored (default: the profile's)",
                        {{"unit_max", P::UNIT_MAX},
                         {"unit_signed", P::UNIT_SIGNED},
                         {"mean_pool", P::MEAN_POOL},
                         {"max_pool", P::MAX_POOL},
                         {"window_attention", P::WINDOW_ATTENTION},
                         {"recency", P::RECENCY},
                         {"random", P::RANDOM}},
                        [=](P::ScoreKind kind) { pruning->set_score_kind(kind); });
  AddSetter<uint64_t>(app, "--random_seed", "for --score random (default 0)",
                      [=](uint64_t value) { pruning->set_random_seed(value); });
  AddEnum<P::DecodeMode>(app, "--decode", "frozen or reselect (default: the server's)",
                         {{"frozen", P::FROZEN}, {"reselect", P::RESELECT}},
                         [=](P::DecodeMode mode) { pruning->set_decode_mode(mode); });
  AddSetter<double>(app, "--gamma", "0 to 1, reselect: overlap below which blocks are swapped",
                    [=](double value) { pruning->set_gamma(value); });
  AddSetter<int64_t>(app, "--decode_budget_tokens", "reselect: active prompt tokens per segment",
                     [=](int64_t value) { pruning->set_decode_budget_tokens(value); });
}

void AddRequest(CLI::App* app, RequestOptions* options) {
  v1::GenerateRequest* request = &options->request;
  app->add_option("--model", options->model, "name of the model (default: the one loaded)");
  app->add_option("--system", options->system, "system message (turns the chat template on)");
  AddSampling(app, request->mutable_sampling());
  AddStopping(app, request->mutable_stopping());
  AddPruning(app, request->mutable_pruning());
  AddEnum<v1::OverflowPolicy>(app, "--overflow", "a prompt too long: reject (default), ...",
                              {{"reject", v1::REJECT},
                               {"truncate_left", v1::TRUNCATE_LEFT},
                               {"truncate_middle", v1::TRUNCATE_MIDDLE}},
                              [=](v1::OverflowPolicy p) { request->set_overflow(p); });
  AddSetter<int32_t>(app, "--priority", "-100 (last) to 100 (first), default 0",
                     [=](int32_t value) { request->set_priority(value); });
  app->add_option_function<std::string>(
      "--cache_salt", [=](const std::string& salt) { request->set_cache_salt(salt); },
      "only requests with the same salt share cached prompts");
  app->add_flag_callback(
      "--no_cache", [=] { request->set_bypass_prefix_cache(true); },
      "neither read nor fill the prefix cache");
}

void AddGenerate(CLI::App* app, GenerateOptions* options) {
  v1::GenerateRequest* request = &options->common.request;
  app->add_option("prompt", options->prompt,
                  "the prompt; with --file it follows the file's text after an empty line; from "
                  "the standard input when neither is given");
  app->add_option("--file", options->file, "read the prompt from a file, - is the standard input");
  app->add_flag("--chat", options->chat, "the prompt is a user message of a chat");
  AddRequest(app, &options->common);
  app->add_option_function<std::string>(
      "--request_id", [=](const std::string& id) { request->set_request_id(id); },
      "name of the request, for `abort`");
  AddSetter<int32_t>(app, "--logprobs", "0 to 20 most likely tokens with --json",
                     [=](int32_t n) { request->mutable_response()->set_logprobs(n); });
  app->add_flag_callback(
      "--token_ids", [=] { request->mutable_response()->set_token_ids(true); },
      "token ids with --json");
  app->add_flag_callback(
      "--progress", [=] { request->mutable_response()->set_progress(true); },
      "progress events with --json");
  app->add_flag("--no_progress", options->no_progress, "no progress bar and no closing line");
  app->add_flag("--unary", options->unary, "the whole answer at once (GenerateUnary)");
  app->add_option("--explain", options->explain,
                  "write an HTML page that shows which blocks of the prompt stayed");
}

void AddConnection(CLI::App* app, ConnectionOptions* options) {
  app->add_option("--address", options->address, "the server, HOST:PORT or unix:PATH")
      ->capture_default_str()
      ->envname("SLIMINFER_ADDRESS");
  app->add_option("--tls_ca", options->tls_ca,
                  "PEM file of the authority that signed the server's certificate: use TLS");
  app->add_option("--tls_cert", options->tls_cert, "PEM file: certificate of this client");
  app->add_option("--tls_key", options->tls_key, "PEM file: key of this client");
  app->add_option("--token", options->token, "bearer token; better given as SLIMINFER_TOKEN")
      ->envname("SLIMINFER_TOKEN");
  app->add_option("--timeout", options->timeout_seconds,
                  "seconds until the call is given up; 0: none for generate and chat, 10 s else")
      ->check(CLI::Range(0.0, 86400.0));
  app->add_flag("--json", options->json, "JSON on the standard output, one object a line");
}

absl::Status ParseStages(absl::string_view text, v1::PruningOptions* pruning) {
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(item, '=');
    int32_t layer = 0;
    int64_t budget = 0;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &layer) ||
        !absl::SimpleAtoi(parts[1], &budget)) {
      return absl::InvalidArgumentError(
          absl::StrCat("stage '", item, "', allowed is LAYER=TOKENS"));
    }
    v1::PruningOptions::Stage* stage = pruning->add_stages();
    stage->set_layer(layer);
    stage->set_budget_tokens(budget);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParsePruning(absl::string_view text, v1::PruningOptions* pruning) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  if (parts.size() == 1) {
    if (text == "off") pruning->set_mode(v1::PruningOptions::OFF);
    if (text == "profile") pruning->set_mode(v1::PruningOptions::PROFILE);
    if (text == "paper") pruning->set_mode(v1::PruningOptions::PAPER);
    if (text == "off" || text == "profile" || text == "paper") return absl::OkStatus();
  } else if (parts[0] == "custom") {
    pruning->set_mode(v1::PruningOptions::CUSTOM);
    return ParseStages(parts[1], pruning);
  } else if (parts[0] == "ratio") {
    double ratio = 0;
    if (absl::SimpleAtod(parts[1], &ratio) && ratio > 0 && ratio <= 1) {
      pruning->set_mode(v1::PruningOptions::RATIO);
      pruning->set_ratio(ratio);
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("is '", text,
                   "', allowed: off, profile, paper, ratio:R (R above 0, at most 1) "
                   "or custom:LAYER=TOKENS,LAYER=TOKENS,..."));
}

absl::Status ParseLogitBias(absl::string_view text, v1::SamplingParams* sampling) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '=');
  uint32_t id = 0;
  float bias = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &id) || !absl::SimpleAtof(parts[1], &bias) ||
      !(bias >= -100 && bias <= 100)) {
    return absl::InvalidArgumentError(
        absl::StrCat("is '", text, "', allowed: ID=BIAS with a bias from -100 to 100"));
  }
  (*sampling->mutable_logit_bias())[id] = bias;
  return absl::OkStatus();
}

bool ParseClientOptions(int argc, const char* const* argv, ClientOptions* options, int* exit_code) {
  CLI::App app("Client of a SlimInfer server.", "sliminfer");
  app.footer(kFooter);
  app.require_subcommand(1);
  app.fallthrough();
  AddConnection(&app, &options->connection);
  const auto command = [&](const std::string& name, const std::string& help, Command value) {
    CLI::App* sub = app.add_subcommand(name, help);
    sub->callback([options, value] { options->command = value; });
    return sub;
  };
  AddGenerate(command("generate", "complete a prompt or answer a message", Command::kGenerate),
              &options->generate);
  AddRequest(command("chat", "talk; Ctrl-C stops an answer, Ctrl-D leaves", Command::kChat),
             &options->chat);
  CLI::App* tokenize = command("tokenize", "token ids of a text", Command::kTokenize);
  tokenize->add_option("text", options->tokenize.text, "the text (default: standard input)");
  tokenize->add_option("--file", options->tokenize.file, "read the text from a file");
  tokenize->add_option("--model", options->tokenize.model, "name of the model");
  tokenize->add_flag("--count", options->tokenize.count, "only the number of tokens");
  tokenize->add_flag("--pieces", options->tokenize.pieces, "each id with its text");
  command("info", "what the server and its model are", Command::kInfo)
      ->add_option("--model", options->info_model, "name of the model");
  command("load", "how busy the server is", Command::kLoad);
  command("health", "whether the server is serving", Command::kHealth)
      ->add_option("service", options->health_service, "name of a service (default: all)");
  command("abort", "stop requests by id", Command::kAbort)
      ->add_option("ids", options->abort_ids, "request ids")
      ->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    *exit_code = app.exit(error) == 0 ? kExitOk : kExitUsage;
    return false;
  }
  return true;
}

}  // namespace slim
