#include "tools/eval/eval_runner.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "tools/common/statistics.h"

namespace slim {
namespace {

// Everything of an item that its modes share.
struct Prepared {
  std::vector<int32_t> prompt;
  std::vector<int32_t> answer;  // tokens of the first answer
  std::vector<AnswerSpan> spans;
};

absl::StatusOr<Prepared> Prepare(const EvalItem& item, const EvalRunOptions& options,
                                 const LocalModel& model) {
  Prepared prepared;
  SLIM_ASSIGN_OR_RETURN(prepared.prompt, model.EncodeUserMessage(item.prompt));
  SLIM_ASSIGN_OR_RETURN(prepared.answer, model.tokenizer->Encode(item.answers[0]));
  prepared.spans = FindAnswers(prepared.prompt, item.answers, *model.tokenizer);
  const auto tokens = static_cast<int64_t>(prepared.prompt.size());
  const int64_t longest =
      std::max<int64_t>(options.max_new_tokens, static_cast<int64_t>(prepared.answer.size()));
  const int64_t context = model.engine->model_config().context_tokens;
  if (tokens + longest > context) {
    return absl::InvalidArgumentError(absl::StrCat(
        "item ", item.id, " has ", tokens, " prompt tokens, allowed are ", context - longest));
  }
  return prepared;
}

absl::StatusOr<double> AnswerNll(LocalModel* model, SequenceSpec spec,
                                 const std::vector<int32_t>& answer, int64_t chunk_tokens) {
  spec.max_new_tokens = static_cast<int64_t>(answer.size());
  SLIM_ASSIGN_OR_RETURN(const TokenRun run,
                        RunTokens(model, spec, answer, answer.size(), chunk_tokens));
  double sum = 0;
  for (size_t i = 0; i < answer.size(); ++i) sum -= run.log_probs[i][answer[i]];
  return sum / static_cast<double>(answer.size());
}

// Mean divergence over the first tokens of the dense answer. The mode's own run serves as far as it
// said the same; else it is run again on the dense tokens.
absl::StatusOr<double> MeanKl(LocalModel* model, SequenceSpec spec, const TokenRun& dense,
                              const TokenRun& own, int64_t chunk_tokens) {
  const size_t count = dense.log_probs.size();
  const bool same =
      own.log_probs.size() >= count &&
      std::equal(dense.tokens.begin(), dense.tokens.begin() + (count - 1), own.tokens.begin());
  TokenRun forced;
  if (!same) {
    const std::vector<int32_t> tokens(dense.tokens.begin(), dense.tokens.begin() + count);
    spec.max_new_tokens = static_cast<int64_t>(count);
    SLIM_ASSIGN_OR_RETURN(forced, RunTokens(model, spec, tokens, count, chunk_tokens));
  }
  const TokenRun& run = same ? own : forced;
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += KlDivergence(dense.log_probs[i], run.log_probs[i]);
  return sum / static_cast<double>(count);
}

ModeOutcome Judge(const EvalItem& item, const Prepared& prepared, const TokenRun& run,
                  const LocalModel& model) {
  ModeOutcome outcome;
  outcome.text = model.tokenizer->Decode(run.tokens);
  outcome.correct = ContainsAnswer(outcome.text, item.answers);
  outcome.kl = kNoValue;
  outcome.prefill_seconds = run.prefill_seconds;
  outcome.retained_tokens = static_cast<int64_t>(prepared.prompt.size()) - run.report.pruned_tokens;
  if (prepared.spans.empty()) return outcome;
  for (const StageReport& stage : run.report.stages) {
    outcome.recalled.push_back(
        AnyAnswerRetained(prepared.spans, stage.block_ids, model.engine->block_tokens()));
  }
  return outcome;
}

}  // namespace

void LogSoftmax(std::vector<float>& logits) {
  if (logits.empty()) return;
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - largest));
  const double shift = largest + std::log(sum);
  for (float& logit : logits) logit = static_cast<float>(logit - shift);
}

double KlDivergence(absl::Span<const float> p, absl::Span<const float> q) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    sum += std::exp(static_cast<double>(p[i])) * (static_cast<double>(p[i]) - q[i]);
  }
  return std::max(0.0, sum);  // rounding can leave a tiny negative rest
}

absl::StatusOr<TokenRun> RunTokens(LocalModel* model, const SequenceSpec& spec,
                                   absl::Span<const int32_t> forced, size_t keep,
                                   int64_t chunk_tokens) {
  Engine& engine = *model->engine;
  const std::vector<int32_t>& ends = model->tokenizer->end_tokens();
  SLIM_ASSIGN_OR_RETURN(PrefillResult start, RunPrefill(*model, spec, chunk_tokens));
  const SequenceId id = start.sequence.id();
  TokenRun run;
  run.prefill_seconds = absl::ToDoubleSeconds(start.time);
  int32_t token = start.token;
  const int64_t limit = forced.empty() ? spec.max_new_tokens : static_cast<int64_t>(forced.size());
  while (true) {
    if (run.log_probs.size() < keep) {
      std::vector<float> logits(static_cast<size_t>(engine.model_config().vocab_size));
      SLIM_RETURN_IF_ERROR(engine.CopyLastLogits(id, absl::MakeSpan(logits)));
      LogSoftmax(logits);
      run.log_probs.push_back(std::move(logits));
    }
    if (!forced.empty()) {
      token = forced[run.tokens.size()];
      engine.ForceToken(id, token);
    }
    run.tokens.push_back(token);
    if (static_cast<int64_t>(run.tokens.size()) >= limit) break;
    if (forced.empty() && std::binary_search(ends.begin(), ends.end(), token)) break;
    SLIM_ASSIGN_OR_RETURN(const std::vector<int32_t> next, RunDecodeStep(*model, {id}));
    token = next[0];
  }
  run.report = engine.Report(id);
  return run;
}

absl::StatusOr<ItemOutcome> RunEvalItem(const EvalItem& item, const EvalRunOptions& options,
                                        LocalModel* model) {
  SLIM_ASSIGN_OR_RETURN(const Prepared prepared, Prepare(item, options, *model));
  const Engine& engine = *model->engine;
  const auto tokens = static_cast<int64_t>(prepared.prompt.size());
  ItemOutcome outcome;
  outcome.id = item.id;
  outcome.task = item.task;
  outcome.length = LengthBucket(tokens);
  outcome.prompt_tokens = tokens;
  outcome.depth = prepared.spans.empty()
                      ? kNoValue
                      : static_cast<double>(prepared.spans[0].first) / static_cast<double>(tokens);
  TokenRun dense;
  for (const PruningChoice& choice : options.pruning) {
    SequenceSpec spec;
    spec.prompt = prepared.prompt;
    spec.max_new_tokens = options.max_new_tokens;
    spec.sampling.temperature = 0;
    spec.report_scores = true;
    spec.cache_salt = item.id;
    SLIM_ASSIGN_OR_RETURN(spec.pruning, ScheduleOf(choice, tokens, engine.block_tokens(),
                                                   engine.model_config(), model->profile));
    SLIM_ASSIGN_OR_RETURN(
        TokenRun run,
        RunTokens(model, spec, {}, static_cast<size_t>(options.kl_tokens), options.chunk_tokens));
    ModeOutcome mode = Judge(item, prepared, run, *model);
    if (outcome.modes.empty()) {
      dense = std::move(run);
    } else {
      SLIM_ASSIGN_OR_RETURN(mode.kl, MeanKl(model, spec, dense, run, options.chunk_tokens));
    }
    SLIM_ASSIGN_OR_RETURN(mode.answer_nll,
                          AnswerNll(model, spec, prepared.answer, options.chunk_tokens));
    outcome.modes.push_back(std::move(mode));
  }
  return outcome;
}

nlohmann::json DetailJson(const ItemOutcome& outcome, const EvalRunOptions& options) {
  const auto number = [](double value) {
    return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
  };
  nlohmann::json modes = nlohmann::json::object();
  for (size_t i = 0; i < outcome.modes.size(); ++i) {
    const ModeOutcome& mode = outcome.modes[i];
    modes[options.pruning[i].name] = {{"text", mode.text},
                                      {"correct", mode.correct},
                                      {"kl", number(mode.kl)},
                                      {"answer_nll", number(mode.answer_nll)},
                                      {"recalled", mode.recalled},
                                      {"retained_tokens", mode.retained_tokens},
                                      {"prefill_seconds", number(mode.prefill_seconds)}};
  }
  return {{"id", outcome.id},
          {"task", outcome.task},
          {"length", outcome.length},
          {"prompt_tokens", outcome.prompt_tokens},
          {"depth", number(outcome.depth)},
          {"modes", std::move(modes)}};
}

}  // namespace slim
