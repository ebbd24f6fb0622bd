#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/prune/cost_model.h"
#include "tools/bench/local_benches.h"
#include "tools/bench/roofline.h"
#include "tools/common/statistics.h"
#include "tools/common/text_table.h"

namespace slim {
namespace {

// What one mode at one length needs and gathers.
struct Case {
  std::string name;
  bool cached = false;  // all but the question comes from the prefix cache
  SequenceSpec spec;
  std::vector<SegmentPlan> plan;
  std::vector<double> seconds;
  SequenceReport report;
  std::vector<OpTime> op_times;
};

absl::StatusOr<Case> MakeCase(const PruningChoice& choice, int64_t length,
                              const PrefillBenchOptions& options, const LocalModel& model) {
  const Engine& engine = *model.engine;
  Case made;
  made.name = choice.name;
  made.spec.prompt = model.RandomPrompt(length, options.seed + static_cast<uint64_t>(length));
  made.spec.max_new_tokens = options.max_new_tokens;
  made.spec.sampling.temperature = 0;
  made.spec.bypass_prefix_cache = true;
  SLIM_ASSIGN_OR_RETURN(made.spec.pruning, ScheduleOf(choice, length, engine.block_tokens(),
                                                      engine.model_config(), model.profile));
  made.plan = engine.Plan(made.spec.pruning, length);
  return made;
}

// The same text with the question number `run`. Its own cache salt keeps modes apart.
void AskAnotherQuestion(const PrefillBenchOptions& options, int run, const LocalModel& model,
                        Case* one) {
  std::vector<int32_t>& prompt = one->spec.prompt;
  const int64_t tokens = std::min(options.question_tokens, static_cast<int64_t>(prompt.size()));
  const std::vector<int32_t> question =
      model.RandomPrompt(tokens, options.seed + 7919 + static_cast<uint64_t>(run));
  std::copy(question.begin(), question.end(), prompt.end() - tokens);
}

absl::Status RunOnce(const PrefillBenchOptions& options, LocalModel* model, Case* one) {
  SLIM_ASSIGN_OR_RETURN(const PrefillResult result,
                        RunPrefill(*model, one->spec, options.chunk_tokens));
  one->seconds.push_back(absl::ToDoubleSeconds(result.time));
  for (int64_t i = 1; i < options.max_new_tokens; ++i) {
    SLIM_RETURN_IF_ERROR(RunDecodeStep(*model, {result.sequence.id()}).status());
  }
  one->report = model->engine->Report(result.sequence.id());
  return absl::OkStatus();
}

absl::Status TimeOps(const PrefillBenchOptions& options, LocalModel* model, Case* one) {
  if (!model->backend->StartOpTimes()) {
    return absl::UnimplementedError("--op_times: this backend does not time its ops");
  }
  Case timed = *one;
  SLIM_RETURN_IF_ERROR(RunOnce(options, model, &timed));
  SLIM_ASSIGN_OR_RETURN(one->op_times, model->backend->TakeOpTimes());
  return absl::OkStatus();
}

PrefillRow MakeRow(int64_t length, const ModelConfig& config, const Case& one) {
  PrefillRow row;
  row.length = length;
  row.pruning = one.name;
  row.cached_tokens = one.report.cached_tokens;
  row.runs = static_cast<int>(one.seconds.size());
  row.ttft_seconds_median = Median(one.seconds);
  row.ttft_seconds_p95 = Percentile(one.seconds, 95);
  row.tokens_per_second = static_cast<double>(length) / row.ttft_seconds_median;
  row.retained_tokens = one.plan.back().num_tokens;
  for (const OpTime& time : one.op_times) row.op_seconds.emplace_back(time.op, time.seconds);
  if (!one.cached) {
    const double flops = PrunedPrefillFlops(config, one.plan);
    row.tflops_per_second = flops / row.ttft_seconds_median / 1e12;
    row.bound_speedup = DensePrefillFlops(config, length) / flops;
    row.bound_speedup_full_dense = FullDensePrefillFlops(config, length) / flops;
  }
  if (one.report.full_kv_bytes > 0) {
    row.kv_bytes_ratio = static_cast<double>(one.report.stored_kv_bytes) /
                         static_cast<double>(one.report.full_kv_bytes);
  }
  row.kv_bytes_ratio_bound =
      static_cast<double>(PromptKvBytes(one.plan, config.kv_elements_per_token_layer())) /
      static_cast<double>(config.num_layers * length * config.kv_elements_per_token_layer());
  return row;
}

std::string OpShareTable(const std::vector<PrefillRow>& rows) {
  TextTable table({"length", "pruning", "op", "ms", "% of ops"});
  for (const PrefillRow& row : rows) {
    double sum = 0;
    for (const auto& [op, seconds] : row.op_seconds) sum += seconds;
    for (const auto& [op, seconds] : row.op_seconds) {
      table.AddRow({Grouped(row.length), row.pruning, op, Number(1000 * seconds, 2),
                    Number(100 * seconds / sum, 1)});
    }
  }
  return table.Render();
}

}  // namespace

absl::StatusOr<std::vector<PrefillRow>> RunPrefillBench(const PrefillBenchOptions& options,
                                                        LocalModel* model) {
  std::vector<PrefillRow> rows;
  RooflineProbe probe(*model->engine, options.roofline);
  for (const int64_t length : options.lengths) {
    std::vector<Case> cases;
    for (const PruningChoice& choice : options.pruning) {
      SLIM_ASSIGN_OR_RETURN(Case made, MakeCase(choice, length, options, *model));
      cases.push_back(std::move(made));
      if (options.question_tokens == 0) continue;
      Case cached = cases.back();
      cached.name += "+cached";
      cached.cached = true;
      cached.spec.bypass_prefix_cache = false;
      cached.spec.cache_salt = cached.name;
      cases.push_back(std::move(cached));
    }
    SLIM_ASSIGN_OR_RETURN(const double peak_before, probe.PeakOps());
    for (int run = -1; run < options.runs; ++run) {
      // Each run begins with another mode, so that none always follows the same one.
      for (size_t i = 0; i < cases.size(); ++i) {
        Case& one = cases[(i + static_cast<size_t>(run + 1)) % cases.size()];
        if (one.cached) AskAnotherQuestion(options, run, *model, &one);
        SLIM_RETURN_IF_ERROR(RunOnce(options, model, &one));
        if (run < 0) one.seconds.clear();
      }
    }
    SLIM_ASSIGN_OR_RETURN(const double peak_after, probe.PeakOps());
    for (size_t i = 0; i < cases.size() && options.op_times; ++i) {
      SLIM_RETURN_IF_ERROR(TimeOps(options, model, &cases[i]));
    }
    double off_seconds = kNoValue;
    for (size_t i = 0; i < cases.size(); ++i) {
      if (cases[i].name == "off") off_seconds = Median(cases[i].seconds);
    }
    for (size_t i = 0; i < cases.size(); ++i) {
      rows.push_back(MakeRow(length, model->engine->model_config(), cases[i]));
      rows.back().speedup_vs_off = off_seconds / rows.back().ttft_seconds_median;
      if (cases[i].cached) {  // the same mode without the cache is the row before
        rows.back().speedup_vs_cold =
            Median(cases[i - 1].seconds) / rows.back().ttft_seconds_median;
      } else {
        rows.back().roofline =
            probe.Prefill(cases[i].plan, rows.back().ttft_seconds_median, peak_before, peak_after);
      }
    }
  }
  return rows;
}

std::string PrefillTable(const std::vector<PrefillRow>& rows) {
  TextTable table({"length", "pruning", "runs", "ttft s", "p95 s", "tok/s", "TFLOP/s", "kept",
                   "speedup", "bound", "of bound", "KV", "KV bound", "cached", "vs cold"});
  for (const PrefillRow& row : rows) {
    table.AddRow({Grouped(row.length), row.pruning, Grouped(row.runs),
                  Number(row.ttft_seconds_median, 3), Number(row.ttft_seconds_p95, 3),
                  Number(row.tokens_per_second, 1), Number(row.tflops_per_second, 3),
                  Grouped(row.retained_tokens), Number(row.speedup_vs_off, 2),
                  Number(row.bound_speedup, 2), Number(row.speedup_vs_off / row.bound_speedup, 2),
                  Number(row.kv_bytes_ratio, 3), Number(row.kv_bytes_ratio_bound, 3),
                  Grouped(row.cached_tokens), Number(row.speedup_vs_cold, 2)});
  }
  const bool timed = std::any_of(rows.begin(), rows.end(),
                                 [](const PrefillRow& row) { return !row.op_seconds.empty(); });
  std::string text = table.Render() + RooflineTable(rows);
  if (timed) absl::StrAppend(&text, "\n", OpShareTable(rows));
  return text;
}

}  // namespace slim
