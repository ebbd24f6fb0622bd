#include "engine/prune/profile.h"

#include <cmath>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/prune/built_in_profiles.h"
#include "nlohmann/json.hpp"

namespace slim {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::pair<ScoreKind, const char*> kScoreKinds[] = {
    {ScoreKind::kUnitMax, "unit_max"},
    {ScoreKind::kUnitSigned, "unit_signed"},
    {ScoreKind::kMeanPool, "mean_pool"},
    {ScoreKind::kMaxPool, "max_pool"},
    {ScoreKind::kWindowAttention, "window_attention"},
    {ScoreKind::kRecency, "recency"},
    {ScoreKind::kRandom, "random"},
};

absl::Status KeyError(absl::string_view key, const std::string& seen, absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat("profile key ", key, " is ", seen, ", allowed is ", allowed));
}

absl::Status CheckKeys(const Json& object, absl::string_view where,
                       std::initializer_list<const char*> allowed) {
  if (!object.is_object()) return KeyError(where, object.dump(), "an object");
  for (const auto& item : object.items()) {
    bool known = false;
    for (const char* name : allowed) known = known || item.key() == name;
    if (!known) {
      return KeyError(absl::StrCat(where, ".", item.key()), "unknown",
                      absl::StrJoin(allowed, ", "));
    }
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status ReadInt(const Json& object, const char* key, int64_t low, int64_t high, bool required,
                     T& out) {
  if (!object.contains(key)) {
    return required ? KeyError(key, "missing", "required") : absl::OkStatus();
  }
  const Json& value = object[key];
  if (!value.is_number_integer() || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    return KeyError(key, value.dump(), absl::StrCat(low, " to ", high));
  }
  out = static_cast<T>(value.get<int64_t>());
  return absl::OkStatus();
}

absl::Status ReadString(const Json& object, const char* key, std::string& out) {
  if (!object.contains(key) || !object[key].is_string()) {
    return KeyError(key, object.contains(key) ? object[key].dump() : "missing", "a string");
  }
  out = object[key].get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadStages(const Json& root, PruneProfile& profile) {
  if (!root.contains("stages") || !root["stages"].is_array() || root["stages"].empty()) {
    return KeyError("stages", root.contains("stages") ? root["stages"].dump() : "missing",
                    "a non-empty array");
  }
  int last_layer = 0;
  for (const Json& entry : root["stages"]) {
    SLIM_RETURN_IF_ERROR(CheckKeys(entry, "stages", {"layer", "tokens", "ratio"}));
    ProfileStage stage;
    SLIM_RETURN_IF_ERROR(
        ReadInt(entry, "layer", last_layer + 1, profile.num_layers - 1, true, stage.layer));
    SLIM_RETURN_IF_ERROR(ReadInt(entry, "tokens", 0, int64_t{1} << 27, false, stage.tokens));
    if (entry.contains("ratio")) {
      if (!entry["ratio"].is_number()) return KeyError("ratio", entry["ratio"].dump(), "0 to 1");
      stage.ratio = entry["ratio"].get<double>();
    }
    if (!(stage.ratio >= 0 && stage.ratio <= 1)) {
      return KeyError("ratio", absl::StrCat(stage.ratio), "0 to 1");
    }
    if (!(stage.ratio > 0 || stage.tokens > 0)) {
      return KeyError("tokens", "0", "above 0 where ratio is 0");
    }
    if (!profile.stages.empty() && (stage.tokens > profile.stages.back().tokens ||
                                    stage.ratio > profile.stages.back().ratio)) {
      return KeyError("stages", entry.dump(), "tokens and ratio that do not grow");
    }
    last_layer = stage.layer;
    profile.stages.push_back(stage);
  }
  return absl::OkStatus();
}

int64_t RoundUp(double tokens, int block_tokens) {
  return static_cast<int64_t>(std::ceil(tokens / block_tokens)) * block_tokens;
}

}  // namespace

absl::optional<ScoreKind> ParseScoreKind(absl::string_view name) {
  for (const auto& [kind, text] : kScoreKinds) {
    if (name == text) return kind;
  }
  return absl::nullopt;
}

absl::string_view ScoreKindName(ScoreKind kind) {
  for (const auto& [candidate, text] : kScoreKinds) {
    if (candidate == kind) return text;
  }
  return "unknown";
}

bool PruneProfile::Matches(const ModelConfig& config) const {
  return architecture == config.architecture && num_layers == config.num_layers &&
         width == config.width && num_heads == config.num_heads && vocab_size == config.vocab_size;
}

PruneSchedule PruneProfile::ScheduleFor(int64_t num_tokens) const {
  PruneSchedule schedule = defaults;
  schedule.profile = name;
  for (const ProfileStage& stage : stages) {
    schedule.stages.push_back(
        {stage.layer,
         RoundUp(static_cast<double>(stage.tokens) + stage.ratio * static_cast<double>(num_tokens),
                 block_tokens)});
  }
  return schedule;
}

absl::StatusOr<PruneProfile> ParseProfile(absl::string_view text) {
  const Json root = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) return absl::InvalidArgumentError("profile is not valid JSON");
  SLIM_RETURN_IF_ERROR(
      CheckKeys(root, "profile",
                {"name", "model", "block_tokens", "stages", "score", "window_tokens", "dilation",
                 "sink_blocks", "local_tokens", "min_prompt_tokens"}));
  PruneProfile profile;
  SLIM_RETURN_IF_ERROR(ReadString(root, "name", profile.name));
  if (!root.contains("model")) return KeyError("model", "missing", "required");
  const Json& model = root["model"];
  SLIM_RETURN_IF_ERROR(
      CheckKeys(model, "model", {"architecture", "layers", "width", "heads", "vocabulary"}));
  SLIM_RETURN_IF_ERROR(ReadString(model, "architecture", profile.architecture));
  SLIM_RETURN_IF_ERROR(ReadInt(model, "layers", 1, 512, true, profile.num_layers));
  SLIM_RETURN_IF_ERROR(ReadInt(model, "width", 1, 1 << 17, true, profile.width));
  SLIM_RETURN_IF_ERROR(ReadInt(model, "heads", 1, 1024, true, profile.num_heads));
  SLIM_RETURN_IF_ERROR(ReadInt(model, "vocabulary", 1, 1 << 21, true, profile.vocab_size));
  SLIM_RETURN_IF_ERROR(ReadInt(root, "block_tokens", 32, 64, false, profile.block_tokens));
  if (profile.block_tokens != 32 && profile.block_tokens != 64) {
    return KeyError("block_tokens", absl::StrCat(profile.block_tokens), "32 or 64");
  }
  SLIM_RETURN_IF_ERROR(ReadStages(root, profile));
  PruneSchedule& defaults = profile.defaults;
  if (root.contains("score")) {
    std::string score;
    SLIM_RETURN_IF_ERROR(ReadString(root, "score", score));
    const absl::optional<ScoreKind> kind = ParseScoreKind(score);
    if (!kind) return KeyError("score", score, "a score kind, e.g. window_attention or unit_max");
    defaults.score_kind = *kind;
  }
  SLIM_RETURN_IF_ERROR(ReadInt(root, "window_tokens", 1, 256, false, defaults.window_tokens));
  SLIM_RETURN_IF_ERROR(ReadInt(root, "sink_blocks", 0, 64, false, defaults.sink_blocks));
  SLIM_RETURN_IF_ERROR(ReadInt(root, "local_tokens", 0, 1 << 20, false, defaults.local_tokens));
  SLIM_RETURN_IF_ERROR(
      ReadInt(root, "min_prompt_tokens", 0, 1 << 27, false, defaults.min_prompt_tokens));
  if (root.contains("dilation")) {
    if (!root["dilation"].is_boolean()) {
      return KeyError("dilation", root["dilation"].dump(), "true or false");
    }
    defaults.dilation = root["dilation"].get<bool>();
  }
  return profile;
}

std::string FormatProfile(const PruneProfile& profile) {
  Json root;
  root["name"] = profile.name;
  root["model"] = {{"architecture", profile.architecture},
                   {"layers", profile.num_layers},
                   {"width", profile.width},
                   {"heads", profile.num_heads},
                   {"vocabulary", profile.vocab_size}};
  root["block_tokens"] = profile.block_tokens;
  root["stages"] = Json::array();
  for (const ProfileStage& stage : profile.stages) {
    Json entry;
    entry["layer"] = stage.layer;
    if (stage.tokens > 0) entry["tokens"] = stage.tokens;
    if (stage.ratio > 0) entry["ratio"] = stage.ratio;
    root["stages"].push_back(entry);
  }
  root["score"] = std::string(ScoreKindName(profile.defaults.score_kind));
  root["window_tokens"] = profile.defaults.window_tokens;
  root["dilation"] = profile.defaults.dilation;
  root["sink_blocks"] = profile.defaults.sink_blocks;
  root["local_tokens"] = profile.defaults.local_tokens;
  root["min_prompt_tokens"] = profile.defaults.min_prompt_tokens;
  return root.dump(2) + "\n";
}

absl::StatusOr<PruneProfile> ReadProfile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot open profile ", path));
  std::ostringstream text;
  text << file.rdbuf();
  absl::StatusOr<PruneProfile> profile = ParseProfile(text.str());
  if (!profile.ok()) {
    return absl::Status(profile.status().code(),
                        absl::StrCat(path, ": ", profile.status().message()));
  }
  return profile;
}

absl::optional<PruneProfile> BuiltInProfile(const ModelConfig& config) {
  for (const char* text : kBuiltInProfiles) {
    const absl::StatusOr<PruneProfile> profile = ParseProfile(text);
    if (profile.ok() && profile->Matches(config)) return *profile;
  }
  return absl::nullopt;
}

PruneSchedule PaperSchedule(const ModelConfig& config) {
  PruneSchedule schedule;
  schedule.profile = "paper";
  schedule.score_kind = ScoreKind::kUnitMax;
  schedule.window_tokens = 4;
  schedule.dilation = false;
  const int first = config.num_layers / 3;
  const bool qwen = config.architecture == "qwen2";
  const int64_t budgets[] = {qwen ? 12288 : 8192, qwen ? 6144 : 4096, qwen ? 4096 : 2048};
  const int layers[] = {first, 2 * first, config.num_layers - 2};
  int last = 0;
  for (int s = 0; s < 3; ++s) {
    if (layers[s] <= last) continue;  // a model too shallow for three stages has fewer
    schedule.stages.push_back({layers[s], budgets[s]});
    last = layers[s];
  }
  return schedule;
}

PruneSchedule RatioSchedule(double ratio, int64_t num_tokens, int block_tokens,
                            const ModelConfig& config, const PruneProfile* profile) {
  PruneSchedule schedule =
      profile != nullptr ? profile->ScheduleFor(num_tokens) : PaperSchedule(config);
  schedule.profile = absl::StrCat("ratio:", ratio);
  schedule.min_prompt_tokens = 0;
  double share = ratio;
  for (PruneStage& stage : schedule.stages) {
    stage.budget_tokens = RoundUp(share * static_cast<double>(num_tokens), block_tokens);
    share /= 2;
  }
  return schedule;
}

}  // namespace slim
