#include "tools/eval/calibrate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "tools/common/statistics.h"
#include "tools/common/text_table.h"
#include "tools/eval/eval_runner.h"

namespace slim {
namespace {

PruneSchedule CandidateSchedule(int layer, ScoreKind score, int64_t num_tokens,
                                const CalibrateOptions& options, const Engine& engine) {
  PruneSchedule schedule;
  const int block = engine.block_tokens();
  const auto blocks =
      static_cast<int64_t>(std::ceil(options.keep * static_cast<double>(num_tokens) / block));
  schedule.stages.push_back(PruneStage{layer + 1, std::max<int64_t>(1, blocks) * block});
  schedule.score_kind = score;
  schedule.window_tokens = options.window_tokens;
  schedule.dilation = options.dilation;
  return schedule;
}

// What a candidate gathers.
struct Tally {
  CandidateRow row;
  int64_t recalled = 0;
  std::vector<double> kl;
};

absl::Status MeasureItem(const EvalItem& item, const CalibrateOptions& options, LocalModel* model,
                         std::vector<Tally>* tallies) {
  SequenceSpec spec;
  SLIM_ASSIGN_OR_RETURN(spec.prompt, model->EncodeUserMessage(item.prompt));
  spec.max_new_tokens = options.kl_tokens;
  spec.sampling.temperature = 0;
  spec.report_scores = true;
  spec.cache_salt = item.id;
  const auto num_tokens = static_cast<int64_t>(spec.prompt.size());
  const std::vector<AnswerSpan> spans = FindAnswers(spec.prompt, item.answers, *model->tokenizer);
  SLIM_ASSIGN_OR_RETURN(
      const TokenRun dense,
      RunTokens(model, spec, {}, static_cast<size_t>(options.kl_tokens), options.chunk_tokens));
  for (Tally& tally : *tallies) {
    spec.pruning =
        CandidateSchedule(tally.row.layer, tally.row.score, num_tokens, options, *model->engine);
    SLIM_ASSIGN_OR_RETURN(const TokenRun run, RunTokens(model, spec, dense.tokens,
                                                        dense.tokens.size(), options.chunk_tokens));
    double kl = 0;
    for (size_t i = 0; i < dense.log_probs.size(); ++i) {
      kl += KlDivergence(dense.log_probs[i], run.log_probs[i]);
    }
    tally.kl.push_back(kl / static_cast<double>(dense.log_probs.size()));
    if (spans.empty() || run.report.stages.empty()) continue;
    ++tally.row.n;
    tally.recalled +=
        AnyAnswerRetained(spans, run.report.stages[0].block_ids, model->engine->block_tokens());
  }
  return absl::OkStatus();
}

}  // namespace

void AddCalibrate(CLI::App* app, CalibrateOptions* options) {
  app->add_option("--keep", options->keep, "share of the prompt that a candidate keeps")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
  app->add_option("--window_tokens", options->window_tokens, "queries that decide")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app->add_option("--kl_tokens", options->kl_tokens)->check(CLI::Range(1, 64));
  app->add_option("--output", options->output, "write a profile to this file");
  app->add_option("--name", options->name, "the profile's name")->capture_default_str();
  app->add_option("--min_recall", options->min_recall, "of a layer that may decide")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app->add_option("--min_gap", options->min_gap, "layers between two decisions")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app->add_option("--stage_tokens", options->tokens, "tokens that each stage keeps, comma list")
      ->delimiter(',')
      ->capture_default_str();
  app->add_option("--stage_ratios", options->ratios, "plus this share of the prompt, comma list")
      ->delimiter(',')
      ->capture_default_str();
}

nlohmann::json ToJson(const CandidateRow& row) {
  return {{"decision_layer", row.layer},
          {"score", std::string(ScoreKindName(row.score))},
          {"n", row.n},
          {"recall", row.recall},
          {"ci95_low", row.recall_low},
          {"ci95_high", row.recall_high},
          {"kl_mean", std::isfinite(row.kl_mean) ? nlohmann::json(row.kl_mean) : nullptr}};
}

absl::StatusOr<std::vector<CandidateRow>> MeasureCandidates(const std::vector<EvalItem>& items,
                                                            const CalibrateOptions& options,
                                                            LocalModel* model) {
  std::vector<Tally> tallies;
  // Scores of one layer side by side: they share what lies before the decision.
  for (const int layer : options.layers) {
    for (const ScoreKind score : options.scores) {
      Tally tally;
      tally.row.layer = layer;
      tally.row.score = score;
      tallies.push_back(std::move(tally));
    }
  }
  int64_t done = 0;
  for (const EvalItem& item : items) {
    SLIM_RETURN_IF_ERROR(MeasureItem(item, options, model, &tallies));
    std::fprintf(stderr, "%lld/%zu %s\n", static_cast<long long>(++done), items.size(),
                 item.id.c_str());
  }
  std::vector<CandidateRow> rows;
  for (Tally& tally : tallies) {
    const Interval interval = Wilson95(tally.recalled, tally.row.n);
    tally.row.recall = tally.row.n > 0
                           ? static_cast<double>(tally.recalled) / static_cast<double>(tally.row.n)
                           : 0;
    tally.row.recall_low = interval.low;
    tally.row.recall_high = interval.high;
    tally.row.kl_mean = Mean(tally.kl);
    rows.push_back(tally.row);
  }
  return rows;
}

std::vector<int> ChooseLayers(const std::vector<CandidateRow>& rows, ScoreKind score,
                              double min_recall, int min_gap, size_t count) {
  std::vector<int> passing;
  for (const CandidateRow& row : rows) {
    if (row.score == score && row.n > 0 && row.recall >= min_recall) passing.push_back(row.layer);
  }
  std::sort(passing.begin(), passing.end());
  std::vector<int> chosen;
  for (const int layer : passing) {
    if (chosen.size() == count) break;
    if (chosen.empty() || layer - chosen.back() >= min_gap) chosen.push_back(layer);
  }
  return chosen;
}

absl::StatusOr<PruneProfile> ChooseProfile(const std::vector<CandidateRow>& rows,
                                           const CalibrateOptions& options,
                                           const LocalModel& model) {
  const size_t count = std::min(options.tokens.size(), options.ratios.size());
  std::vector<int> layers;
  ScoreKind best = ScoreKind::kWindowAttention;
  for (const ScoreKind score : options.scores) {
    std::vector<int> chosen = ChooseLayers(rows, score, options.min_recall, options.min_gap, count);
    if (chosen.size() > layers.size()) {
      layers = std::move(chosen);
      best = score;
    }
  }
  if (layers.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("no layer reaches a recall of ", options.min_recall));
  }
  const ModelConfig& config = model.engine->model_config();
  PruneProfile profile;
  profile.name = options.name;
  profile.architecture = config.architecture;
  profile.num_layers = config.num_layers;
  profile.width = config.width;
  profile.num_heads = config.num_heads;
  profile.vocab_size = config.vocab_size;
  profile.block_tokens = model.engine->block_tokens();
  for (size_t i = 0; i < layers.size(); ++i) {
    profile.stages.push_back(ProfileStage{layers[i] + 1, options.tokens[i], options.ratios[i]});
  }
  profile.defaults.score_kind = best;
  profile.defaults.window_tokens = options.window_tokens;
  profile.defaults.dilation = options.dilation;
  profile.defaults.min_prompt_tokens = 1024;
  profile.defaults.profile = options.name;
  return profile;
}

std::string CandidateTable(const std::vector<CandidateRow>& rows) {
  TextTable table({"decision layer", "score", "n", "recall", "95 %", "KL"});
  for (const CandidateRow& row : rows) {
    table.AddRow({absl::StrCat(row.layer), std::string(ScoreKindName(row.score)), Grouped(row.n),
                  Number(row.recall, 3),
                  absl::StrCat(Number(row.recall_low, 2), "-", Number(row.recall_high, 2)),
                  Number(row.kl_mean, 3)});
  }
  return table.Render();
}

}  // namespace slim
