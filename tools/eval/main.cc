// The eval program. `run`: quality of pruned answers against dense ones on items with known
// answers. Exit status: 0 done, 1 failed, 2 wrong command line.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "tools/common/lists.h"
#include "tools/common/local_engine.h"
#include "tools/common/text_file.h"
#include "tools/common/text_table.h"
#include "tools/eval/calibrate.h"
#include "tools/eval/eval_report.h"
#include "tools/eval/eval_runner.h"

namespace slim {
namespace {

constexpr int64_t kMaxItemsBytes = int64_t{1} << 30;

struct EvalOptions {
  bool calibrate = false;
  LocalModelOptions local;
  std::vector<std::string> items;
  std::string tasks;
  std::string lengths;
  std::string pruning = "off,profile";
  int64_t limit = 0;
  std::string json;
  std::string details;
  EvalRunOptions run;
  CalibrateOptions calibration;
  std::string layers;
  std::string scores = "window_attention,unit_max";
};

bool Selected(const EvalItem& item, const std::vector<std::string>& tasks,
              const std::vector<int64_t>& lengths) {
  const bool task =
      tasks.empty() || std::find(tasks.begin(), tasks.end(), item.task) != tasks.end();
  return task && (lengths.empty() || std::find(lengths.begin(), lengths.end(),
                                               LengthBucket(item.length_tokens)) != lengths.end());
}

absl::StatusOr<std::vector<EvalItem>> LoadItems(const EvalOptions& options) {
  std::vector<std::string> tasks;
  std::vector<int64_t> lengths;
  if (!options.tasks.empty()) tasks = absl::StrSplit(options.tasks, ',');
  if (!options.lengths.empty()) {
    SLIM_ASSIGN_OR_RETURN(lengths, ParseIntList("--lengths", options.lengths, 1, 1 << 20));
  }
  std::vector<EvalItem> items;
  for (const std::string& path : options.items) {
    SLIM_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxItemsBytes));
    SLIM_ASSIGN_OR_RETURN(std::vector<EvalItem> loaded, ParseEvalItems(path, text));
    for (EvalItem& item : loaded) {
      const bool full = options.limit > 0 && static_cast<int64_t>(items.size()) >= options.limit;
      if (!full && Selected(item, tasks, lengths)) items.push_back(std::move(item));
    }
  }
  if (items.empty()) return absl::NotFoundError("no item matches --items, --tasks and --lengths");
  return items;
}

absl::Status RunEvaluation(EvalOptions options) {
  std::vector<PruningChoice>& choices = options.run.pruning;
  SLIM_ASSIGN_OR_RETURN(choices, ParsePruningList(options.pruning));
  // Everything is compared with dense: it runs first, asked for or not.
  const auto off = std::find_if(choices.begin(), choices.end(),
                                [](const PruningChoice& choice) { return choice.name == "off"; });
  if (off != choices.end()) choices.erase(off);
  SLIM_ASSIGN_OR_RETURN(const std::vector<PruningChoice> dense, ParsePruningList("off"));
  choices.insert(choices.begin(), dense[0]);
  SLIM_RETURN_IF_ERROR(LoadProfiles(choices));
  SLIM_ASSIGN_OR_RETURN(const std::vector<EvalItem> items, LoadItems(options));
  SLIM_ASSIGN_OR_RETURN(const std::unique_ptr<LocalModel> model, OpenLocalModel(options.local));

  std::vector<std::string> names;
  for (const PruningChoice& choice : choices) names.push_back(choice.name);
  std::vector<ItemOutcome> outcomes;
  std::string details;
  for (const EvalItem& item : items) {
    SLIM_ASSIGN_OR_RETURN(ItemOutcome outcome, RunEvalItem(item, options.run, model.get()));
    std::string marks;
    for (const ModeOutcome& mode : outcome.modes) {
      absl::StrAppend(&marks, mode.correct ? " +" : " -", Number(mode.prefill_seconds, 1), "s");
    }
    std::fprintf(stderr, "%zu/%zu %s%s\n", outcomes.size() + 1, items.size(), item.id.c_str(),
                 marks.c_str());
    absl::StrAppend(&details,
                    DetailJson(outcome, options.run)
                        .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                    "\n");
    // Written as it grows: a long run that is stopped leaves what it has.
    if (!options.details.empty()) SLIM_RETURN_IF_ERROR(WriteTextFile(options.details, details));
    outcomes.push_back(std::move(outcome));
  }
  const std::vector<EvalRow> rows = MakeEvalRows(outcomes, names);
  std::printf("%s\n%s", MachineLine(model->Machine()).c_str(), EvalTable(rows).c_str());
  if (options.json.empty()) return absl::OkStatus();
  return WriteJsonFile(options.json, ResultJson(model->Machine(), rows));
}

absl::Status RunCalibration(EvalOptions options) {
  SLIM_ASSIGN_OR_RETURN(const std::vector<EvalItem> items, LoadItems(options));
  SLIM_ASSIGN_OR_RETURN(const std::unique_ptr<LocalModel> model, OpenLocalModel(options.local));
  CalibrateOptions& calibration = options.calibration;
  calibration.chunk_tokens = options.run.chunk_tokens;
  const int num_layers = model->engine->model_config().num_layers;
  if (options.layers.empty()) {
    for (int layer = 2; layer < num_layers - 1; ++layer) calibration.layers.push_back(layer);
  } else {
    SLIM_ASSIGN_OR_RETURN(const std::vector<int64_t> layers,
                          ParseIntList("--layers", options.layers, 0, num_layers - 2));
    calibration.layers.assign(layers.begin(), layers.end());
  }
  for (const absl::string_view name : absl::StrSplit(options.scores, ',')) {
    const absl::optional<ScoreKind> kind = ParseScoreKind(name);
    if (!kind.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("--scores: '", name, "' is not a score"));
    }
    calibration.scores.push_back(*kind);
  }
  SLIM_ASSIGN_OR_RETURN(const std::vector<CandidateRow> rows,
                        MeasureCandidates(items, calibration, model.get()));
  std::printf("%s\n%s", MachineLine(model->Machine()).c_str(), CandidateTable(rows).c_str());
  if (!options.json.empty()) {
    SLIM_RETURN_IF_ERROR(WriteJsonFile(options.json, ResultJson(model->Machine(), rows)));
  }
  if (calibration.output.empty()) return absl::OkStatus();
  SLIM_ASSIGN_OR_RETURN(const PruneProfile profile, ChooseProfile(rows, calibration, *model));
  SLIM_RETURN_IF_ERROR(WriteTextFile(calibration.output, FormatProfile(profile)));
  std::printf("wrote %s\n", calibration.output.c_str());
  return absl::OkStatus();
}

void AddShared(CLI::App* app, EvalOptions* options) {
  app->add_option("--model", options->local.model, "GGUF file")->capture_default_str();
  app->add_option("--profile", options->local.profile, "pruning profile (default: the model's)");
  app->add_option("--threads", options->local.threads, "0: as many as the machine allows")
      ->check(CLI::Range(0, 1024));
  app->add_option("--isa", options->local.isa, "portable, avx2, ... (default: the best)");
  app->add_option("--items", options->items, "JSONL files")->required()->check(CLI::ExistingFile);
  app->add_option("--tasks", options->tasks, "only these tasks, comma list");
  app->add_option("--lengths", options->lengths, "only these lengths (2048,4096,...)");
  app->add_option("--limit", options->limit, "at most so many items, 0: all")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--chunk_tokens", options->run.chunk_tokens, "prefill rows per step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_option("--prefix_cache_bytes", options->local.prefix_cache_bytes,
                  "lets the runs of an item share their work; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--json", options->json, "write machine and rows to this file");
}

int Main(int argc, char** argv) {
  EvalOptions options;
  options.local.model = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
  options.local.prefix_cache_bytes = int64_t{512} << 20;
  CLI::App app("Measures what pruning does to answers.", "sliminfer-eval");
  app.require_subcommand(1);
  CLI::App* run = app.add_subcommand("run", "accuracy, KL, NLL and block recall against dense");
  AddShared(run, &options);
  run->add_option("--pruning", options.pruning,
                  "off, paper, ratio:R, profile[:FILE], random:R, recency:R, random:profile, "
                  "recency:profile")
      ->capture_default_str();
  run->add_option("--max_new_tokens", options.run.max_new_tokens)
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  run->add_option("--kl_tokens", options.run.kl_tokens, "first tokens compared with dense")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  run->add_option("--details", options.details, "write every item's outcome, JSONL");
  CLI::App* calibrate =
      app.add_subcommand("calibrate", "which layers can decide, by which score; writes a profile");
  calibrate->callback([&options] { options.calibrate = true; });
  AddShared(calibrate, &options);
  AddCalibrate(calibrate, &options.calibration);
  calibrate->add_option("--layers", options.layers, "decision layers to try (default: 2 .. L-2)");
  calibrate->add_option("--scores", options.scores, "scores to try")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::Status status = options.calibrate ? RunCalibration(options) : RunEvaluation(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "error: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
               TerminalSafe(std::string(status.message())).c_str());
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

}  // namespace
}  // namespace slim

int main(int argc, char** argv) { return slim::Main(argc, argv); }
