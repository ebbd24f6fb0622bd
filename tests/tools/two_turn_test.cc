// Conversations of two turns on the default model: the second question asks for text that the
// selection of the first turn dropped. What was cached in the first turn must serve the second one
// as if everything had been computed again.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "tools/common/local_engine.h"
#include "tools/common/text_file.h"
#include "tools/eval/eval_item.h"
#include "tools/eval/eval_runner.h"

namespace slim {
namespace {

constexpr int64_t kChunkTokens = 512;
constexpr int kConversations = 40;  // whose second answer the first selection dropped
constexpr int kColdRuns = 12;       // of them are computed again without the cache

// What one request said.
struct Answer {
  std::vector<int32_t> tokens;
  std::string text;
  SequenceReport report;
};

class TwoTurnTest : public testing::Test {
 protected:
  void SetUp() override {
    LocalModelOptions options;
    options.model = SLIM_MODEL_PATH;
    options.tokens_per_stream = 2048;
    options.prefix_cache_bytes = int64_t{128} << 20;
    auto model = OpenLocalModel(options);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    ASSERT_TRUE(model_->profile.has_value()) << "the default model comes with a profile";
    const auto text = ReadTextFile(SLIM_TWO_TURNS, 1 << 24);
    ASSERT_TRUE(text.ok()) << text.status();
    auto items = ParseEvalItems("two_turns.jsonl", *text);
    ASSERT_TRUE(items.ok()) << items.status();
    items_ = *std::move(items);
  }

  std::vector<int32_t> Encode(const std::vector<ChatMessage>& messages) {
    const auto pieces = model_->chat_template.Render(messages);
    EXPECT_TRUE(pieces.ok()) << pieces.status();
    auto tokens = model_->tokenizer->EncodePieces(*pieces);
    EXPECT_TRUE(tokens.ok()) << tokens.status();
    return *std::move(tokens);
  }

  Answer Ask(const std::vector<int32_t>& prompt, bool cached) {
    SequenceSpec spec;
    spec.prompt = prompt;
    spec.max_new_tokens = 16;
    spec.sampling.temperature = 0;
    spec.report_scores = true;
    spec.bypass_prefix_cache = !cached;
    spec.pruning = ScheduleFor(static_cast<int64_t>(prompt.size()));
    auto run = RunTokens(model_.get(), spec, {}, 0, kChunkTokens);
    EXPECT_TRUE(run.ok()) << run.status();
    if (!run.ok()) return {};
    return {run->tokens, model_->tokenizer->Decode(run->tokens), run->report};
  }

  PruneSchedule ScheduleFor(int64_t tokens) {
    const auto choice = ParsePruningList("profile");
    EXPECT_TRUE(choice.ok());
    auto schedule = ScheduleOf((*choice)[0], tokens, model_->engine->block_tokens(),
                               model_->engine->model_config(), model_->profile);
    EXPECT_TRUE(schedule.ok()) << schedule.status();
    return *std::move(schedule);
  }

  std::unique_ptr<LocalModel> model_;
  std::vector<EvalItem> items_;
};

TEST_F(TwoTurnTest, TheSecondQuestionIsAnsweredAsInAFreshRequest) {
  int seen = 0;
  int dropped = 0;
  int right_second = 0;  // of the dropped ones: right in the second turn
  int right_fresh = 0;   // of the dropped ones: right when asked alone
  for (const EvalItem& item : items_) {
    if (dropped == kConversations) break;
    ++seen;
    const std::vector<int32_t> first_prompt = Encode({{"user", item.prompt}});
    const Answer first = Ask(first_prompt, /*cached=*/true);
    ASSERT_FALSE(first.report.stages.empty()) << "the profile prunes prompts of this length";
    const std::vector<AnswerSpan> spans =
        FindAnswers(first_prompt, item.second_answers, *model_->tokenizer);
    ASSERT_FALSE(spans.empty()) << item.id;
    if (AnyAnswerRetained(spans, first.report.stages.back().block_ids,
                          model_->engine->block_tokens())) {
      continue;
    }
    ++dropped;

    const std::vector<int32_t> second_prompt =
        Encode({{"user", item.prompt}, {"assistant", first.text}, {"user", item.second_question}});
    const Answer cached = Ask(second_prompt, /*cached=*/true);
    // All whole blocks of the first prompt but those of its end, which the reply follows.
    EXPECT_GT(cached.report.cached_tokens, static_cast<int64_t>(first_prompt.size()) * 9 / 10)
        << item.id;
    if (dropped <= kColdRuns) {
      const Answer cold = Ask(second_prompt, /*cached=*/false);
      EXPECT_EQ(cold.report.cached_tokens, 0);
      EXPECT_EQ(cached.tokens, cold.tokens) << item.id;
      EXPECT_EQ(cached.report.digest, cold.report.digest) << item.id;
    }
    right_second += ContainsAnswer(cached.text, item.second_answers);
    const std::string document = item.prompt.substr(0, item.prompt.rfind("\n\n"));
    const Answer fresh =
        Ask(Encode({{"user", document + "\n\n" + item.second_question}}), /*cached=*/false);
    right_fresh += ContainsAnswer(fresh.text, item.second_answers);
  }
  std::printf(
      "%d conversations; second answer dropped by the first selection: %d, then right in "
      "the second turn %d, in a fresh request %d\n",
      seen, dropped, right_second, right_fresh);
  EXPECT_EQ(dropped, kConversations) << "too few conversations ask for what was dropped";
  EXPECT_GE(right_fresh, dropped / 4) << "the model cannot answer these questions at all";
  // As well as fresh, give or take what chance does with so few conversations.
  EXPECT_GE(right_second, right_fresh - 3);
}

}  // namespace
}  // namespace slim
