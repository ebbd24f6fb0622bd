#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "tools/bench/local_benches.h"
#include "tools/bench/roofline.h"
#include "tools/common/statistics.h"
#include "tools/common/text_table.h"

namespace slim {
namespace {

constexpr int64_t kWarmUpSteps = 2;
constexpr int64_t kTurns = 4;

// The streams of one KV memory, and what their steps took.
struct Case {
  LocalModel* model = nullptr;
  const KvChoice* kv = nullptr;
  std::vector<PrefillResult> streams;
  std::vector<SequenceId> ids;
  std::vector<double> seconds;  // of every measured step of all streams together
  EngineStats before;
};

absl::Status RunSteps(Case* one, int64_t steps) {
  for (int64_t step = 0; step < steps; ++step) {
    const absl::Time begin = one->model->clock.Now();
    SLIM_RETURN_IF_ERROR(RunDecodeStep(*one->model, one->ids).status());
    one->seconds.push_back(absl::ToDoubleSeconds(one->model->clock.Now() - begin));
  }
  return absl::OkStatus();
}

// The memories take turns, so that their ratios come from the same minutes of the machine.
absl::Status MeasureByTurns(const DecodeBenchOptions& options, std::vector<Case>* cases) {
  for (Case& one : *cases) {
    SLIM_RETURN_IF_ERROR(RunSteps(&one, kWarmUpSteps));
    one.seconds.clear();
    one.before = one.model->engine->stats();
  }
  const int64_t steps = options.max_new_tokens;
  const int64_t turns = std::min(kTurns, steps);
  for (int64_t turn = 0; turn < turns; ++turn) {
    for (Case& one : *cases) {
      SLIM_RETURN_IF_ERROR(RunSteps(&one, (turn + 1) * steps / turns - turn * steps / turns));
    }
  }
  return absl::OkStatus();
}

DecodeRow MakeRow(const Case& one) {
  const KvStats before = one.before.kv, after = one.model->engine->stats().kv;
  DecodeRow row;
  row.streams = static_cast<int>(one.streams.size());
  row.seconds_per_token_median = Median(one.seconds);
  double total = 0;
  for (const double step : one.seconds) total += step;
  row.tokens_per_second = static_cast<double>(one.seconds.size() * one.streams.size()) / total;
  row.kv_stall_share = (after.stall_seconds - before.stall_seconds) / total;
  const auto on_time = static_cast<double>(after.prefetch_on_time - before.prefetch_on_time);
  const auto late = static_cast<double>(after.prefetch_late - before.prefetch_late);
  if (on_time + late > 0) row.prefetch_on_time_share = on_time / (on_time + late);
  std::vector<double> prefills;
  for (const PrefillResult& stream : one.streams) {
    prefills.push_back(absl::ToDoubleSeconds(stream.time));
  }
  row.prefill_seconds_median = Median(prefills);
  row.kv_tier = one.kv->tier == KvTier::kDiscrete ? "discrete" : "unified";
  row.prefetch = one.kv->prefetch;
  return row;
}

// Of one step, on average.
double KvBytesOf(const Case& one) {
  const int64_t bytes = one.model->engine->stats().decode_kv_bytes - one.before.decode_kv_bytes;
  return static_cast<double>(bytes) / static_cast<double>(one.seconds.size());
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
                                                      absl::Span<LocalModel* const> models) {
  SLIM_CHECK(models.size() == options.kv.size());
  std::vector<int64_t> counts = options.streams;
  std::sort(counts.begin(), counts.end());
  std::vector<DecodeRow> rows;
  RooflineProbe probe(*models.at(0)->engine, options.roofline);
  for (const int64_t context : options.contexts) {
    for (const PruningChoice& choice : options.pruning) {
      std::vector<Case> cases(models.size());
      for (size_t i = 0; i < models.size(); ++i) {
        cases[i].model = models[i];
        cases[i].kv = &options.kv[i];
      }
      for (const int64_t count : counts) {
        for (Case& one : cases) {
          while (static_cast<int64_t>(one.streams.size()) < count) {
            SLIM_ASSIGN_OR_RETURN(PrefillResult stream,
                                  StartStream(options, choice, context,
                                              static_cast<int64_t>(one.streams.size()), one.model));
            one.ids.push_back(stream.sequence.id());
            one.streams.push_back(std::move(stream));
          }
        }
        SLIM_ASSIGN_OR_RETURN(const double read_before, probe.ReadBandwidth());
        SLIM_RETURN_IF_ERROR(MeasureByTurns(options, &cases));
        SLIM_ASSIGN_OR_RETURN(const double read_after, probe.ReadBandwidth());
        for (const Case& one : cases) {
          DecodeRow row = MakeRow(one);
          row.context = context;
          row.pruning = choice.name;
          row.decode_mode = options.decode_mode == DecodeMode::kReselect ? "reselect" : "frozen";
          row.roofline =
              probe.Decode(KvBytesOf(one), row.seconds_per_token_median, read_before, read_after);
          rows.push_back(std::move(row));
        }
      }
    }
  }
  return rows;
}

std::string DecodeTable(const std::vector<DecodeRow>& rows) {
  TextTable table({"context", "pruning", "decode", "kv", "prefetch", "streams", "prompt s", "tok/s",
                   "ms/token", "stalled", "on time"});
  for (const DecodeRow& row : rows) {
    table.AddRow({Grouped(row.context), row.pruning, row.decode_mode, row.kv_tier,
                  row.prefetch ? "on" : "off", Grouped(row.streams),
                  Number(row.prefill_seconds_median, 3), Number(row.tokens_per_second, 1),
                  Number(1000 * row.seconds_per_token_median, 2), Number(row.kv_stall_share, 3),
                  Number(row.prefetch_on_time_share, 3)});
  }
  return table.Render() + RooflineTable(rows);
}

}  // namespace slim
