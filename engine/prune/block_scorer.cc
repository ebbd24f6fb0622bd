#include "engine/prune/block_scorer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

// splitmix64: a well-mixed 64-bit hash of a counter.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

uint64_t FoldWord(uint64_t digest, uint64_t word) {
  for (int byte = 0; byte < 8; ++byte) {
    digest = (digest ^ ((word >> (8 * byte)) & 0xff)) * 0x100000001b3ull;
  }
  return digest;
}

}  // namespace

absl::StatusOr<std::vector<float>> ComputeScores(const PruneSchedule& schedule,
                                                 const BlockScoreArgs& args, Backend* backend) {
  std::vector<float> scores(args.block_ids.size());
  if (schedule.score_kind == ScoreKind::kRecency) {
    for (size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(args.block_ids[i]);
  } else if (schedule.score_kind == ScoreKind::kRandom) {
    for (size_t i = 0; i < scores.size(); ++i) {
      const uint64_t bits = Mix(schedule.random_seed ^ Mix(args.block_ids[i]));
      scores[i] = static_cast<float>(bits >> 40) * 0x1p-24f;
    }
  } else {
    SLIM_RETURN_IF_ERROR(backend->ScoreBlocks(args, absl::MakeSpan(scores)));
    if (schedule.dilation) Dilate(args.block_ids, scores);
  }
  return scores;
}

void Dilate(absl::Span<const int32_t> block_ids, std::vector<float>& scores) {
  const std::vector<float> original = scores;
  for (size_t i = 0; i < scores.size(); ++i) {
    // A NaN must survive: it is an error for the caller to find.
    if (std::isnan(original[i])) continue;
    if (i > 0 && block_ids[i - 1] == block_ids[i] - 1) {
      scores[i] = std::max(scores[i], 0.5f * original[i - 1]);
    }
    if (i + 1 < scores.size() && block_ids[i + 1] == block_ids[i] + 1) {
      scores[i] = std::max(scores[i], 0.5f * original[i + 1]);
    }
  }
}

absl::StatusOr<std::vector<int32_t>> SelectBlocks(absl::Span<const int32_t> block_ids,
                                                  absl::Span<const float> scores,
                                                  absl::Span<const int32_t> forced,
                                                  int64_t num_blocks) {
  SLIM_CHECK(block_ids.size() == scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    if (std::isnan(scores[i])) {
      return absl::InternalError(absl::StrCat("score of block ", block_ids[i], " is NaN"));
    }
  }
  std::vector<int32_t> kept(forced.begin(), forced.end());
  std::vector<size_t> candidates;  // indices into block_ids that are not forced
  candidates.reserve(block_ids.size());
  for (size_t i = 0; i < block_ids.size(); ++i) {
    if (!std::binary_search(forced.begin(), forced.end(), block_ids[i])) candidates.push_back(i);
  }
  const int64_t wanted =
      std::clamp<int64_t>(num_blocks - static_cast<int64_t>(forced.size()), 0, candidates.size());
  std::partial_sort(candidates.begin(), candidates.begin() + wanted, candidates.end(),
                    [&](size_t a, size_t b) {
                      if (scores[a] != scores[b]) return scores[a] > scores[b];
                      return block_ids[a] < block_ids[b];
                    });
  for (int64_t i = 0; i < wanted; ++i) kept.push_back(block_ids[candidates[i]]);
  std::sort(kept.begin(), kept.end());
  return kept;
}

uint64_t FoldDigest(uint64_t digest, int layer, absl::Span<const int32_t> block_ids) {
  digest = FoldWord(digest, static_cast<uint64_t>(layer));
  digest = FoldWord(digest, block_ids.size());
  for (const int32_t id : block_ids) digest = FoldWord(digest, static_cast<uint64_t>(id));
  return digest;
}

std::string DigestText(uint64_t digest) { return absl::StrFormat("%016x", digest); }

}  // namespace slim
