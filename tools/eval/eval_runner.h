// Runs one evaluation item under several pruning modes and says how each did against the dense run.
// Greedy decoding in this process. Thread rule: one thread.
#ifndef TOOLS_EVAL_EVAL_RUNNER_H_
#define TOOLS_EVAL_EVAL_RUNNER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "tools/common/local_engine.h"
#include "tools/common/pruning_choice.h"
#include "tools/eval/eval_item.h"

namespace slim {

// What one mode did with one item.
struct ModeOutcome {
  std::string text;             // the greedy continuation
  bool correct = false;         // an answer is part of it
  double kl = 0;                // of the first tokens against dense, nats; NaN for dense itself
  double answer_nll = 0;        // nats per token of the first answer, as the whole reply
  std::vector<bool> recalled;   // per stage: an answer's blocks are in R_s; empty when dense
  int64_t retained_tokens = 0;  // in the deepest segment
  double prefill_seconds = 0;   // of the first run
};

struct ItemOutcome {
  std::string id;
  std::string task;
  int64_t length = 0;  // bucket
  int64_t prompt_tokens = 0;
  double depth = 0;                // of the first answer, share of the prompt; NaN: not found
  std::vector<ModeOutcome> modes;  // as the choices
};

struct EvalRunOptions {
  std::vector<PruningChoice> pruning;  // the first one is `off`
  int max_new_tokens = 22;
  int kl_tokens = 8;  // first tokens that the divergence is taken over
  int64_t chunk_tokens = 512;
};

// The item's prompt must leave room for the answer in the context: INVALID_ARGUMENT with the id.
absl::StatusOr<ItemOutcome> RunEvalItem(const EvalItem& item, const EvalRunOptions& options,
                                        LocalModel* model);

// One line of the details file.
nlohmann::json DetailJson(const ItemOutcome& outcome, const EvalRunOptions& options);

// ---- parts of it, visible for tests and for calibration ----

// Replaces logits by log-probabilities, in double inside.
void LogSoftmax(std::vector<float>& logits);
// sum_i exp(p_i) (p_i - q_i) for two vectors of log-probabilities.
double KlDivergence(absl::Span<const float> p, absl::Span<const float> q);

// A greedy or teacher-forced continuation.
struct TokenRun {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> log_probs;  // behind the first `keep` tokens
  SequenceReport report;
  double prefill_seconds = 0;
};
// Continues `spec.prompt`: by `forced` where it is not empty, else greedily until an end token
// (which is part of the result) or spec.max_new_tokens.
absl::StatusOr<TokenRun> RunTokens(LocalModel* model, const SequenceSpec& spec,
                                   absl::Span<const int32_t> forced, size_t keep,
                                   int64_t chunk_tokens);

}  // namespace slim

#endif  // TOOLS_EVAL_EVAL_RUNNER_H_
