// From the outcomes of items to rows: per task and length, per task, per length and over all, for
// every pruning mode. Pure functions.
#ifndef TOOLS_EVAL_EVAL_REPORT_H_
#define TOOLS_EVAL_EVAL_REPORT_H_

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "tools/common/result_json.h"
#include "tools/eval/eval_runner.h"

namespace slim {

// `names`: the modes, the first one dense. Groups in order: every (task, length), then for every
// length "all", then over all lengths "retrieval" (tasks that only ask to find what the text says)
// and "all".
std::vector<EvalRow> MakeEvalRows(absl::Span<const ItemOutcome> outcomes,
                                  absl::Span<const std::string> names);

std::string EvalTable(const std::vector<EvalRow>& rows);

}  // namespace slim

#endif  // TOOLS_EVAL_EVAL_REPORT_H_
