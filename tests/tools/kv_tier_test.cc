// The two KV tiers on the default model: a device arena of a quarter of the KV gives the same
// tokens as one memory that holds everything, for dense and pruned prompts, eight streams at a
// time.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "tools/common/local_engine.h"

namespace slim {
namespace {

constexpr int kGroups = 8;
constexpr int kStreams = 8;
constexpr int64_t kLongest = 640;
constexpr int64_t kNewTokens = 24;

std::unique_ptr<LocalModel> Open(KvTier tier) {
  LocalModelOptions options;
  options.model = SLIM_MODEL_PATH;
  options.tokens_per_stream = kLongest + kNewTokens;
  options.streams = kStreams;
  options.kv_tier = tier;
  // Of the room for eight prompts of the greatest length; the real ones are 93 % of that.
  options.device_share = 0.23;
  auto model = OpenLocalModel(options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// Dense, pruned with a fixed selection, and pruned with a selection made anew while decoding.
SequenceSpec Spec(const LocalModel& model, int group, int stream) {
  const int index = group * kStreams + stream;
  SequenceSpec spec;
  spec.prompt =
      model.RandomPrompt(kLongest - 11 * (index % kStreams), static_cast<uint64_t>(100 + index));
  spec.max_new_tokens = kNewTokens;
  spec.sampling.temperature = 0;
  if (index % 3 == 0) return spec;
  spec.pruning.stages = {{8, 416}, {15, 320}, {19, 256}};
  spec.pruning.window_tokens = 24;
  spec.pruning.local_tokens = 64;
  if (index % 3 == 2) {
    spec.pruning.decode_mode = DecodeMode::kReselect;
    spec.pruning.decode_budget_tokens = 192;
  }
  return spec;
}

std::vector<std::vector<int32_t>> RunGroup(LocalModel* model, int group) {
  std::vector<PrefillResult> streams;
  std::vector<SequenceId> ids;
  std::vector<std::vector<int32_t>> tokens(kStreams);
  for (int stream = 0; stream < kStreams; ++stream) {
    auto start = RunPrefill(*model, Spec(*model, group, stream), 256);
    EXPECT_TRUE(start.ok()) << start.status();
    if (!start.ok()) return {};
    tokens[stream].push_back(start->token);
    ids.push_back(start->sequence.id());
    streams.push_back(*std::move(start));
  }
  for (int64_t step = 1; step < kNewTokens; ++step) {
    const auto next = RunDecodeStep(*model, ids);
    EXPECT_TRUE(next.ok()) << next.status();
    if (!next.ok()) return {};
    for (int stream = 0; stream < kStreams; ++stream) tokens[stream].push_back((*next)[stream]);
  }
  return tokens;
}

TEST(KvTierTest, AQuarterOfTheKvOnTheDeviceGivesTheSameTokens) {
  const auto unified = Open(KvTier::kUnified);
  const auto discrete = Open(KvTier::kDiscrete);
  ASSERT_TRUE(unified != nullptr && discrete != nullptr);
  for (int group = 0; group < kGroups; ++group) {
    const auto expected = RunGroup(unified.get(), group);
    ASSERT_EQ(expected.size(), static_cast<size_t>(kStreams));
    EXPECT_EQ(RunGroup(discrete.get(), group), expected) << "group " << group;
  }
  const KvStats kv = discrete->engine->stats().kv;
  EXPECT_LE(kv.device.total_slabs * 4, kv.host.total_slabs);
  // Every decode step of a dense stream brings back what the arena cannot keep.
  EXPECT_GT(kv.bytes_to_device, kv.bytes_to_host);
  EXPECT_GT(kv.prefetch_on_time, 0);
  EXPECT_EQ(unified->engine->stats().kv.bytes_to_device, 0);
  std::printf("slabs on time %lld, late %lld; %.1f MB in, %.1f MB out, stalled %.3f s\n",
              static_cast<long long>(kv.prefetch_on_time), static_cast<long long>(kv.prefetch_late),
              kv.bytes_to_device / 1e6, kv.bytes_to_host / 1e6, kv.stall_seconds);
}

}  // namespace
}  // namespace slim
