#include "server/pruning_options.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "server/status_reason.h"
#include "sliminfer/v1/inference.pb.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;
using Options = v1::PruningOptions;

absl::Status FieldError(absl::string_view field, const absl::AlphaNum& value,
                        absl::string_view allowed) {
  return ErrorWithReason(absl::StatusCode::kInvalidArgument, reason::kBadField,
                         absl::StrCat("pruning.", field, " is ", value, ", allowed: ", allowed));
}

// The accepting form: NaN fails it.
template <typename T>
absl::Status CheckRange(absl::string_view field, T value, T low, T high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return FieldError(field, value, absl::StrCat(low, " to ", high));
}

absl::Status ValidateStages(const Options& options, const PruningContext& context) {
  if (options.stages_size() > 0 && options.mode() != Options::CUSTOM) {
    return FieldError("stages", absl::StrCat("set (", options.stages_size(), " stages)"),
                      "only with mode CUSTOM");
  }
  if (options.mode() == Options::CUSTOM && options.stages_size() == 0) {
    return FieldError("stages", "empty", "at least one stage with mode CUSTOM");
  }
  if (options.stages_size() >= context.model->num_layers) {
    return FieldError("stages", absl::StrCat(options.stages_size(), " stages"),
                      absl::StrCat("at most ", context.model->num_layers - 1));
  }
  int last_layer = 0;
  int64_t last_budget = INT64_MAX;
  for (int i = 0; i < options.stages_size(); ++i) {
    const Options::Stage& stage = options.stages(i);
    if (!(stage.layer() > last_layer && stage.layer() < context.model->num_layers)) {
      return FieldError(absl::StrCat("stages[", i, "].layer"), stage.layer(),
                        absl::StrCat("strictly increasing, 1 to ", context.model->num_layers - 1));
    }
    const int64_t budget = stage.budget_tokens();
    if (!(budget > 0 && budget <= last_budget && budget % context.block_tokens == 0)) {
      return FieldError(
          absl::StrCat("stages[", i, "].budget_tokens"), budget,
          absl::StrCat("positive, non-increasing, a multiple of ", context.block_tokens));
    }
    last_layer = stage.layer();
    last_budget = budget;
  }
  return absl::OkStatus();
}

absl::Status ValidateScalars(const Options& options, const PruningContext& context) {
  const int64_t max_tokens = context.model->context_tokens;
  if (options.has_ratio()) {
    if (!(options.ratio() > 0 && options.ratio() <= 1)) {
      return FieldError("ratio", options.ratio(), "greater than 0, at most 1");
    }
    if (options.mode() != Options::RATIO) {
      return FieldError("ratio", options.ratio(), "only with mode RATIO");
    }
  }
  if (options.has_min_prompt_tokens()) {
    SLIM_RETURN_IF_ERROR(
        CheckRange<int64_t>("min_prompt_tokens", options.min_prompt_tokens(), 0, max_tokens));
  }
  if (options.has_sink_blocks()) {
    SLIM_RETURN_IF_ERROR(CheckRange("sink_blocks", options.sink_blocks(), 0, 64));
  }
  if (options.has_local_tokens()) {
    SLIM_RETURN_IF_ERROR(
        CheckRange<int64_t>("local_tokens", options.local_tokens(), 0, max_tokens));
  }
  if (options.has_gamma()) {
    SLIM_RETURN_IF_ERROR(CheckRange("gamma", options.gamma(), 0.0, 1.0));
  }
  if (options.has_decode_budget_tokens()) {
    SLIM_RETURN_IF_ERROR(CheckRange<int64_t>("decode_budget_tokens", options.decode_budget_tokens(),
                                             context.block_tokens, max_tokens));
  }
  return absl::OkStatus();
}

absl::optional<ScoreKind> ScoreKindOf(Options::ScoreKind kind) {
  switch (kind) {
    case Options::UNIT_MAX:
      return ScoreKind::kUnitMax;
    case Options::UNIT_SIGNED:
      return ScoreKind::kUnitSigned;
    case Options::MEAN_POOL:
      return ScoreKind::kMeanPool;
    case Options::MAX_POOL:
      return ScoreKind::kMaxPool;
    case Options::WINDOW_ATTENTION:
      return ScoreKind::kWindowAttention;
    case Options::RECENCY:
      return ScoreKind::kRecency;
    case Options::RANDOM:
      return ScoreKind::kRandom;
    default:
      return absl::nullopt;
  }
}

// The mode after the server's default has been put in, and its ratio.
struct EffectiveMode {
  Options::Mode mode = Options::OFF;
  double ratio = 0;
};

EffectiveMode ResolveMode(const Options& options, const PruningContext& context) {
  if (options.mode() != Options::MODE_UNSPECIFIED) {
    return {options.mode(), options.has_ratio() ? options.ratio() : PruningDefault().ratio};
  }
  switch (context.server_default.mode) {
    case PruningDefault::Mode::kAuto:
      return {context.profile != nullptr ? Options::PROFILE : Options::OFF, 0};
    case PruningDefault::Mode::kOff:
      return {Options::OFF, 0};
    case PruningDefault::Mode::kProfile:
      return {Options::PROFILE, 0};
    case PruningDefault::Mode::kPaper:
      return {Options::PAPER, 0};
    case PruningDefault::Mode::kRatio:
      return {Options::RATIO, context.server_default.ratio};
  }
  return {Options::OFF, 0};
}

PruneSchedule CustomSchedule(const Options& options, const PruningContext& context) {
  PruneSchedule schedule;
  if (context.profile != nullptr) schedule = context.profile->defaults;
  schedule.profile.clear();
  schedule.min_prompt_tokens = 0;  // who lists stages means them, whatever the length
  schedule.stages.clear();
  for (const Options::Stage& stage : options.stages()) {
    schedule.stages.push_back({stage.layer(), stage.budget_tokens()});
  }
  return schedule;
}

void Override(const Options& options, const PruningContext& context, PruneSchedule* schedule) {
  if (options.has_min_prompt_tokens()) schedule->min_prompt_tokens = options.min_prompt_tokens();
  if (options.has_sink_blocks()) schedule->sink_blocks = options.sink_blocks();
  if (options.has_local_tokens()) schedule->local_tokens = options.local_tokens();
  if (options.has_gamma()) schedule->gamma = options.gamma();
  if (options.has_decode_budget_tokens()) {
    schedule->decode_budget_tokens = options.decode_budget_tokens();
  }
  if (const auto kind = ScoreKindOf(options.score_kind())) schedule->score_kind = *kind;
  schedule->random_seed = options.random_seed();
  schedule->decode_mode = context.server_decode;
  if (options.decode_mode() == Options::FROZEN) schedule->decode_mode = DecodeMode::kFrozen;
  if (options.decode_mode() == Options::RESELECT) schedule->decode_mode = DecodeMode::kReselect;
}

}  // namespace

absl::StatusOr<PruningDefault> ParsePruningDefault(absl::string_view text) {
  PruningDefault result;
  absl::string_view rest = text;
  if (text == "auto") {
    result.mode = PruningDefault::Mode::kAuto;
  } else if (text == "off") {
    result.mode = PruningDefault::Mode::kOff;
  } else if (text == "profile") {
    result.mode = PruningDefault::Mode::kProfile;
  } else if (text == "paper") {
    result.mode = PruningDefault::Mode::kPaper;
  } else if (absl::ConsumePrefix(&rest, "ratio:") && absl::SimpleAtod(rest, &result.ratio) &&
             result.ratio > 0 && result.ratio <= 1) {
    result.mode = PruningDefault::Mode::kRatio;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", text,
        "\" is not one of auto, off, profile, paper, ratio:R with R above 0, at most 1"));
  }
  return result;
}

std::string PruningDefaultText(const PruningDefault& pruning) {
  switch (pruning.mode) {
    case PruningDefault::Mode::kAuto:
      return "auto";
    case PruningDefault::Mode::kOff:
      return "off";
    case PruningDefault::Mode::kProfile:
      return "profile";
    case PruningDefault::Mode::kPaper:
      return "paper";
    case PruningDefault::Mode::kRatio:
      return absl::StrCat("ratio:", pruning.ratio);
  }
  return "off";
}

absl::Status ValidatePruningOptions(const Options& options, const PruningContext& context) {
  if (!Options::Mode_IsValid(options.mode())) {
    return FieldError("mode", static_cast<int>(options.mode()),
                      "the values of PruningOptions.Mode");
  }
  if (!Options::ScoreKind_IsValid(options.score_kind())) {
    return FieldError("score_kind", static_cast<int>(options.score_kind()),
                      "the values of PruningOptions.ScoreKind");
  }
  if (!Options::DecodeMode_IsValid(options.decode_mode())) {
    return FieldError("decode_mode", static_cast<int>(options.decode_mode()),
                      "the values of PruningOptions.DecodeMode");
  }
  SLIM_RETURN_IF_ERROR(ValidateScalars(options, context));
  SLIM_RETURN_IF_ERROR(ValidateStages(options, context));
  if (options.mode() == Options::PROFILE && context.profile == nullptr) {
    return ErrorWithReason(absl::StatusCode::kUnimplemented, reason::kFeature,
                           "pruning.mode PROFILE: this model has no pruning profile");
  }
  return absl::OkStatus();
}

absl::StatusOr<PruneSchedule> BuildPruneSchedule(const Options& options,
                                                 const PruningContext& context,
                                                 int64_t num_tokens) {
  PruneSchedule schedule;
  const EffectiveMode effective = ResolveMode(options, context);
  switch (effective.mode) {
    case Options::PROFILE:
      if (context.profile != nullptr) schedule = context.profile->ScheduleFor(num_tokens);
      break;
    case Options::PAPER:
      schedule = PaperSchedule(*context.model);
      break;
    case Options::RATIO:
      schedule = RatioSchedule(effective.ratio, num_tokens, context.block_tokens, *context.model,
                               context.profile);
      break;
    case Options::CUSTOM:
      schedule = CustomSchedule(options, context);
      break;
    default:
      return schedule;  // dense
  }
  Override(options, context, &schedule);
  SLIM_RETURN_IF_ERROR(ValidateSchedule(schedule, context.model->num_layers, context.block_tokens,
                                        context.model->context_tokens));
  return schedule;
}

}  // namespace slim
