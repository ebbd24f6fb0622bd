// Finds out which layers of a model can decide what stays, and by which score: every candidate
// decides alone, on prompts whose answer is at a known place. Thread rule: one thread.
#ifndef TOOLS_EVAL_CALIBRATE_H_
#define TOOLS_EVAL_CALIBRATE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/prune/profile.h"
#include "nlohmann/json.hpp"
#include "tools/common/local_engine.h"
#include "tools/eval/eval_item.h"

namespace slim {

struct CalibrateOptions {
  std::vector<int> layers;  // decision layers, 0 .. L - 2
  std::vector<ScoreKind> scores;
  double keep = 0.2;  // share of the prompt that a candidate may keep
  int window_tokens = 24;
  bool dilation = true;
  int kl_tokens = 4;
  int64_t chunk_tokens = 512;
  // The profile that is written.
  std::string output;  // file, empty: none
  std::string name = "calibrated";
  double min_recall = 0.9;  // a layer with less cannot decide
  int min_gap = 4;          // layers between two decisions
  std::vector<int64_t> tokens = {768, 384, 320};
  std::vector<double> ratios = {0.08, 0.05, 0.03};
};

void AddCalibrate(CLI::App* app, CalibrateOptions* options);

// One candidate over all items.
struct CandidateRow {
  int layer = 0;  // decision layer; the stage begins at the next one
  ScoreKind score = ScoreKind::kWindowAttention;
  int64_t n = 0;
  double recall = 0;  // answer's blocks among those kept
  double recall_low = 0;
  double recall_high = 0;
  double kl_mean = 0;  // of the first tokens against dense
};
nlohmann::json ToJson(const CandidateRow& row);

// Items whose answer does not occur in the prompt are left out of the recall.
absl::StatusOr<std::vector<CandidateRow>> MeasureCandidates(const std::vector<EvalItem>& items,
                                                            const CalibrateOptions& options,
                                                            LocalModel* model);

// The score whose layers pass most often, and from its passing layers the shallowest ones that lie
// far enough apart, as many as there are budgets. FAILED_PRECONDITION when no layer passes.
absl::StatusOr<PruneProfile> ChooseProfile(const std::vector<CandidateRow>& rows,
                                           const CalibrateOptions& options,
                                           const LocalModel& model);

// The decision layers of that choice, apart from the model: ascending, at most `count`.
std::vector<int> ChooseLayers(const std::vector<CandidateRow>& rows, ScoreKind score,
                              double min_recall, int min_gap, size_t count);

std::string CandidateTable(const std::vector<CandidateRow>& rows);

}  // namespace slim

#endif  // TOOLS_EVAL_CALIBRATE_H_
