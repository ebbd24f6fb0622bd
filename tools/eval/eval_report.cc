#include "tools/eval/eval_report.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/common/statistics.h"
#include "tools/common/text_table.h"
#include "tools/eval/eval_item.h"

namespace slim {
namespace {

constexpr int kDepthFifths = 5;

using Group = std::vector<const ItemOutcome*>;

// Share of true among what was counted; NaN when nothing was.
struct Share {
  int64_t hits = 0;
  int64_t count = 0;
  void Add(bool hit) {
    hits += hit ? 1 : 0;
    ++count;
  }
  double value() const {
    return count > 0 ? static_cast<double>(hits) / static_cast<double>(count) : kNoValue;
  }
};

void FillRecall(const Group& group, size_t mode, EvalRow* row) {
  Share last;
  std::vector<Share> stages, fifths(kDepthFifths);
  for (const ItemOutcome* item : group) {
    const std::vector<bool>& recalled = item->modes[mode].recalled;
    if (recalled.empty()) continue;
    if (stages.size() < recalled.size()) stages.resize(recalled.size());
    for (size_t s = 0; s < recalled.size(); ++s) stages[s].Add(recalled[s]);
    last.Add(recalled.back());
    const int fifth = std::clamp(static_cast<int>(item->depth * kDepthFifths), 0, kDepthFifths - 1);
    fifths[fifth].Add(recalled.back());
  }
  if (last.count == 0) return;
  row->block_recall = last.value();
  for (const Share& share : stages) row->recall_by_stage.push_back(share.value());
  for (const Share& share : fifths) row->recall_by_depth.push_back(share.value());
}

EvalRow MakeRow(const Group& group, size_t mode, const std::string& task, int64_t length,
                const std::string& name) {
  EvalRow row;
  row.task = task;
  row.length = length;
  row.pruning = name;
  row.n = static_cast<int64_t>(group.size());
  Share correct, kept;
  std::vector<double> kl, nll;
  for (const ItemOutcome* item : group) {
    const ModeOutcome& outcome = item->modes[mode];
    correct.Add(outcome.correct);
    if (item->modes[0].correct) kept.Add(outcome.correct);
    if (std::isfinite(outcome.kl)) kl.push_back(outcome.kl);
    if (std::isfinite(outcome.answer_nll)) nll.push_back(outcome.answer_nll);
  }
  row.accuracy = correct.value();
  const Interval accuracy = Wilson95(correct.hits, correct.count);
  row.ci95_low = accuracy.low;
  row.ci95_high = accuracy.high;
  row.dense_correct = kept.count;
  row.kept = kept.hits;
  const Interval kept_interval = Wilson95(kept.hits, kept.count);
  row.kept_ci95_low = kept_interval.low;
  row.kept_ci95_high = kept_interval.high;
  row.kl_mean = Mean(kl);
  row.answer_nll = Mean(nll);
  FillRecall(group, mode, &row);
  return row;
}

std::string Joined(const std::vector<double>& values) {
  std::string text;
  for (const double value : values) {
    absl::StrAppend(&text, text.empty() ? "" : " ", Number(value, 2));
  }
  return text.empty() ? "-" : text;
}

}  // namespace

std::vector<EvalRow> MakeEvalRows(absl::Span<const ItemOutcome> outcomes,
                                  absl::Span<const std::string> names) {
  std::set<std::pair<std::string, int64_t>> tasks;
  std::set<int64_t> lengths;
  for (const ItemOutcome& outcome : outcomes) {
    tasks.emplace(outcome.task, outcome.length);
    lengths.insert(outcome.length);
  }
  std::vector<EvalRow> rows;
  const auto add = [&](const std::string& task, int64_t length,
                       const std::function<bool(const ItemOutcome&)>& belongs) {
    Group group;
    for (const ItemOutcome& outcome : outcomes) {
      if (belongs(outcome)) group.push_back(&outcome);
    }
    if (group.empty()) return;
    for (size_t mode = 0; mode < names.size(); ++mode) {
      rows.push_back(MakeRow(group, mode, task, length, names[mode]));
    }
  };
  for (const auto& [task, length] : tasks) {
    add(task, length, [task = task, length = length](const ItemOutcome& outcome) {
      return outcome.task == task && outcome.length == length;
    });
  }
  for (const int64_t length : lengths) {
    add("all", length, [length](const ItemOutcome& item) { return item.length == length; });
  }
  add("retrieval", 0, [](const ItemOutcome& item) { return IsRetrievalTask(item.task); });
  add("all", 0, [](const ItemOutcome& item) { return true; });
  return rows;
}

std::string EvalTable(const std::vector<EvalRow>& rows) {
  TextTable table({"task", "length", "pruning", "n", "right", "95 %", "kept", "95 %", "KL", "NLL",
                   "recall R1..RS", "by depth"});
  for (const EvalRow& row : rows) {
    table.AddRow({row.task, row.length > 0 ? Grouped(row.length) : "all", row.pruning,
                  Grouped(row.n), Number(row.accuracy, 3),
                  absl::StrCat(Number(row.ci95_low, 2), "-", Number(row.ci95_high, 2)),
                  absl::StrCat(row.kept, "/", row.dense_correct),
                  absl::StrCat(Number(row.kept_ci95_low, 2), "-", Number(row.kept_ci95_high, 2)),
                  Number(row.kl_mean, 3), Number(row.answer_nll, 3), Joined(row.recall_by_stage),
                  Joined(row.recall_by_depth)});
  }
  return table.Render();
}

}  // namespace slim
