#include "tools/common/pruning_choice.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

absl::Status ChoiceError(absl::string_view item) {
  return absl::InvalidArgumentError(absl::StrCat(
      "--pruning: item '", item,
      "', allowed is off, paper, ratio:R, profile, profile:FILE, random:R, recency:R (R greater "
      "than 0, at most 1), random:profile or recency:profile"));
}

absl::StatusOr<PruningChoice> ParseChoice(absl::string_view item) {
  PruningChoice choice;
  choice.name = std::string(item);
  const std::vector<absl::string_view> parts = absl::StrSplit(item, absl::MaxSplits(':', 1));
  const absl::string_view kind = parts[0];
  if (parts.size() == 1) {
    if (kind == "off") return choice;
    choice.budget =
        kind == "paper" ? PruningChoice::Budget::kPaper : PruningChoice::Budget::kProfile;
    if (kind == "paper" || kind == "profile") return choice;
    return ChoiceError(item);
  }
  const absl::string_view value = parts[1];
  if (kind == "profile") {
    if (value.empty()) return ChoiceError(item);
    choice.budget = PruningChoice::Budget::kProfile;
    choice.profile_path = std::string(value);
    return choice;
  }
  if (kind == "random") choice.control = ScoreKind::kRandom;
  if (kind == "recency") choice.control = ScoreKind::kRecency;
  if (choice.control.has_value() && value == "profile") {
    choice.budget = PruningChoice::Budget::kProfile;
    return choice;
  }
  if (!choice.control.has_value() && kind != "ratio") return ChoiceError(item);
  choice.budget = PruningChoice::Budget::kRatio;
  if (!absl::SimpleAtod(value, &choice.ratio) || !(choice.ratio > 0 && choice.ratio <= 1)) {
    return ChoiceError(item);
  }
  return choice;
}

}  // namespace

absl::StatusOr<std::vector<PruningChoice>> ParsePruningList(absl::string_view text) {
  std::vector<PruningChoice> choices;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    SLIM_ASSIGN_OR_RETURN(PruningChoice choice, ParseChoice(item));
    for (const PruningChoice& other : choices) {
      if (other.name == choice.name) {
        return absl::InvalidArgumentError(absl::StrCat("--pruning: '", item, "' occurs twice"));
      }
    }
    choices.push_back(std::move(choice));
  }
  return choices;
}

absl::Status LoadProfiles(std::vector<PruningChoice>& choices) {
  for (PruningChoice& choice : choices) {
    if (choice.profile_path.empty()) continue;
    SLIM_ASSIGN_OR_RETURN(choice.from_file, ReadProfile(choice.profile_path));
  }
  return absl::OkStatus();
}

absl::StatusOr<PruneSchedule> ScheduleOf(const PruningChoice& choice, int64_t num_tokens,
                                         int block_tokens, const ModelConfig& config,
                                         const absl::optional<PruneProfile>& profile) {
  PruneSchedule schedule;
  switch (choice.budget) {
    case PruningChoice::Budget::kOff:
      return schedule;
    case PruningChoice::Budget::kPaper:
      schedule = PaperSchedule(config);
      break;
    case PruningChoice::Budget::kRatio:
      schedule = RatioSchedule(choice.ratio, num_tokens, block_tokens, config,
                               profile.has_value() ? &*profile : nullptr);
      break;
    case PruningChoice::Budget::kProfile: {
      const absl::optional<PruneProfile>& used =
          choice.from_file.has_value() ? choice.from_file : profile;
      if (!used.has_value()) {
        return absl::FailedPreconditionError(
            absl::StrCat("--pruning ", choice.name,
                         ": there is no profile for this model; give --profile FILE"));
      }
      if (!used->Matches(config)) {
        return absl::FailedPreconditionError(absl::StrCat("--pruning ", choice.name, ": profile '",
                                                          used->name, "' is for another model"));
      }
      if (used->block_tokens != block_tokens) {
        return absl::FailedPreconditionError(
            absl::StrCat("--pruning ", choice.name, ": profile '", used->name, "' has blocks of ",
                         used->block_tokens, " tokens, the model was opened with ", block_tokens));
      }
      schedule = used->ScheduleFor(num_tokens);
      break;
    }
  }
  if (choice.control.has_value()) {
    schedule.score_kind = *choice.control;
    schedule.dilation = false;  // would favour neighbours of what chance picked
    schedule.random_seed = 1;
  }
  return schedule;
}

}  // namespace slim
