#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "tools/bench/local_benches.h"
#include "tools/common/statistics.h"
#include "tools/common/text_table.h"

namespace slim {
namespace {

constexpr int kWarmUpSteps = 2;

// Seconds of every measured step of all streams together.
absl::StatusOr<std::vector<double>> TimeSteps(const DecodeBenchOptions& options, LocalModel* model,
                                              const std::vector<SequenceId>& streams) {
  std::vector<double> seconds;
  for (int64_t step = -kWarmUpSteps; step < options.max_new_tokens; ++step) {
    const absl::Time begin = model->clock.Now();
    SLIM_RETURN_IF_ERROR(RunDecodeStep(*model, streams).status());
    if (step >= 0) seconds.push_back(absl::ToDoubleSeconds(model->clock.Now() - begin));
  }
  return seconds;
}

absl::StatusOr<DecodeRow> Measure(const DecodeBenchOptions& options, LocalModel* model,
                                  const std::vector<SequenceId>& streams) {
  const KvStats before = model->engine->stats().kv;
  SLIM_ASSIGN_OR_RETURN(const std::vector<double> seconds, TimeSteps(options, model, streams));
  const KvStats after = model->engine->stats().kv;
  DecodeRow row;
  row.streams = static_cast<int>(streams.size());
  row.seconds_per_token_median = Median(seconds);
  double total = 0;
  for (const double one : seconds) total += one;
  row.tokens_per_second = static_cast<double>(seconds.size() * streams.size()) / total;
  // The two warm-up steps count in the stall too: they are a small part of it.
  row.kv_stall_share = (after.stall_seconds - before.stall_seconds) / total;
  const auto on_time = static_cast<double>(after.prefetch_on_time - before.prefetch_on_time);
  const auto late = static_cast<double>(after.prefetch_late - before.prefetch_late);
  if (on_time + late > 0) row.prefetch_on_time_share = on_time / (on_time + late);
  return row;
}

absl::StatusOr<PrefillResult> StartStream(const DecodeBenchOptions& options,
                                          const PruningChoice& choice, int64_t context,
                                          int64_t stream, LocalModel* model) {
  const Engine& engine = *model->engine;
  SequenceSpec spec;
  spec.prompt =
      model->RandomPrompt(context, options.seed + static_cast<uint64_t>(1000 * stream + context));
  const auto counts = static_cast<int64_t>(options.streams.size());
  spec.max_new_tokens = 1 + counts * (options.max_new_tokens + kWarmUpSteps);
  spec.sampling.temperature = 0;
  spec.bypass_prefix_cache = true;
  SLIM_ASSIGN_OR_RETURN(spec.pruning, ScheduleOf(choice, context, engine.block_tokens(),
                                                 engine.model_config(), model->profile));
  spec.pruning.decode_mode = options.decode_mode;
  spec.pruning.decode_budget_tokens = options.decode_budget_tokens;
  return RunPrefill(*model, std::move(spec), options.chunk_tokens);
}

}  // namespace

absl::StatusOr<std::vector<DecodeRow>> RunDecodeBench(const DecodeBenchOptions& options,
                                                      LocalModel* model) {
  std::vector<int64_t> counts = options.streams;
  std::sort(counts.begin(), counts.end());
  std::vector<DecodeRow> rows;
  for (const int64_t context : options.contexts) {
    for (const PruningChoice& choice : options.pruning) {
      std::vector<PrefillResult> streams;
      std::vector<SequenceId> ids;
      for (const int64_t count : counts) {
        while (static_cast<int64_t>(streams.size()) < count) {
          SLIM_ASSIGN_OR_RETURN(
              PrefillResult stream,
              StartStream(options, choice, context, static_cast<int64_t>(streams.size()), model));
          ids.push_back(stream.sequence.id());
          streams.push_back(std::move(stream));
        }
        SLIM_ASSIGN_OR_RETURN(DecodeRow row, Measure(options, model, ids));
        row.context = context;
        row.pruning = choice.name;
        row.decode_mode = options.decode_mode == DecodeMode::kReselect ? "reselect" : "frozen";
        row.kv_tier = options.kv_tier;
        row.prefetch = options.prefetch;
        rows.push_back(std::move(row));
      }
    }
  }
  return rows;
}

std::string DecodeTable(const std::vector<DecodeRow>& rows) {
  TextTable table({"context", "pruning", "decode", "kv", "prefetch", "streams", "tok/s", "ms/token",
                   "stalled", "on time"});
  for (const DecodeRow& row : rows) {
    table.AddRow({Grouped(row.context), row.pruning, row.decode_mode, row.kv_tier,
                  row.prefetch ? "on" : "off", Grouped(row.streams),
                  Number(row.tokens_per_second, 1), Number(1000 * row.seconds_per_token_median, 2),
                  Number(row.kv_stall_share, 3), Number(row.prefetch_on_time_share, 3)});
  }
  return table.Render();
}

}  // namespace slim
