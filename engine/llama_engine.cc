#include "engine/llama_engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/prune/block_scorer.h"

namespace slim {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool Reselects(const Sequence& sequence) { return !sequence.reselect.empty(); }

// Requests share cached blocks only where what is cached means the same: same tenant, same depth of
// segment 0, and both with or both without hidden states (a dense segment has none).
std::string PrefixNamespace(const SequenceSpec& spec, const std::vector<SegmentPlan>& plan) {
  return absl::StrCat(plan[0].end_layer, plan.size() > 1 ? "p:" : "d:", spec.cache_salt);
}

}  // namespace

LlamaEngine::LlamaEngine(const Options& options, std::unique_ptr<TensorSource> source,
                         std::unique_ptr<Backend> backend, std::unique_ptr<Llama> model,
                         std::unique_ptr<KvManager> kv)
    : options_(options),
      source_(std::move(source)),
      backend_(std::move(backend)),
      model_(std::move(model)),
      kv_(std::move(kv)),
      pass_(model_.get(), kv_.get()),
      prefix_cache_(
          {options.prefix_cache_bytes, options.block_tokens, kv_->layout().slab_bytes()}) {}

// ---------------------------------------------------------------- sequences

Sequence& LlamaEngine::Find(SequenceId id) const {
  const auto found = sequences_.find(id);
  SLIM_CHECK(found != sequences_.end());
  return *found->second;
}

int64_t LlamaEngine::GeneratedBlocks(const SequenceSpec& spec) const {
  const auto prompt = static_cast<int64_t>(spec.prompt.size());
  // The last token is sampled but never fed, so it needs no room.
  return CeilDiv(prompt + spec.max_new_tokens - 1, options_.block_tokens) -
         CeilDiv(prompt, options_.block_tokens);
}

std::vector<KvSegmentSpec> LlamaEngine::KvSegments(const SequenceSpec& spec,
                                                   const std::vector<SegmentPlan>& plan) const {
  std::vector<KvSegmentSpec> segments;
  for (const SegmentPlan& s : plan) {
    KvSegmentSpec segment;
    segment.first_layer = s.first_layer;
    segment.num_layers = s.num_layers();
    segment.max_blocks = s.num_blocks + GeneratedBlocks(spec);
    // Selection during decode scores every key of a decision layer.
    segment.last_layer_full =
        spec.pruning.decode_mode == DecodeMode::kReselect && &s != &plan.back();
    segments.push_back(segment);
  }
  return segments;
}

std::vector<SegmentPlan> LlamaEngine::Plan(const PruneSchedule& schedule, int64_t tokens) const {
  return ResolvePlan(schedule, model_->config().num_layers, options_.block_tokens, tokens);
}

KvDemand LlamaEngine::KvNeeded(const SequenceSpec& spec) const {
  KvDemand demand;
  for (const KvSegmentSpec& s :
       KvSegments(spec, Plan(spec.pruning, static_cast<int64_t>(spec.prompt.size())))) {
    demand.slabs += s.num_layers * s.max_blocks;
    demand.layer_slabs = std::max(demand.layer_slabs, s.max_blocks);
  }
  return demand;
}

absl::Status LlamaEngine::CheckSpec(const SequenceSpec& spec) const {
  const ModelConfig& config = model_->config();
  const auto prompt = static_cast<int64_t>(spec.prompt.size());
  if (prompt < 1) return absl::InvalidArgumentError("prompt has 0 tokens, allowed is at least 1");
  if (!(spec.max_new_tokens >= 1 && prompt + spec.max_new_tokens <= config.context_tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("prompt of ", prompt, " tokens and max_tokens ",
                                                   spec.max_new_tokens, " exceed the context of ",
                                                   config.context_tokens, " tokens"));
  }
  for (const int32_t token : spec.prompt) {
    if (!(token >= 0 && token < config.vocab_size)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token id ", token, " in the prompt, allowed is 0 to ", config.vocab_size - 1));
    }
  }
  return ValidateSchedule(spec.pruning, config.num_layers, options_.block_tokens,
                          config.context_tokens);
}

absl::StatusOr<SequenceId> LlamaEngine::Add(SequenceSpec spec) {
  SLIM_RETURN_IF_ERROR(CheckSpec(spec));
  std::vector<SegmentPlan> plan = Plan(spec.pruning, static_cast<int64_t>(spec.prompt.size()));
  PrefixCache::Hit hit;
  const bool use_cache = options_.prefix_cache_bytes > 0 && !spec.bypass_prefix_cache;
  if (use_cache) {
    // The last token is always computed: its logits are what the request is about.
    const auto reusable = static_cast<int64_t>(spec.prompt.size()) - 1;
    hit = prefix_cache_.Lookup(PrefixNamespace(spec, plan), spec.prompt, reusable);
    prefix_query_tokens_ += static_cast<int64_t>(spec.prompt.size());
    prefix_hit_tokens_ += hit.tokens;
  }
  const SequenceId id{next_id_++};
  auto sequence = std::make_unique<Sequence>(id, std::move(spec), std::move(plan),
                                             options_.block_tokens, model_->config().vocab_size);
  if (hit.tokens > 0 && !sequence->last_segment()) {
    SLIM_RETURN_IF_ERROR(AllocateBoundary(*sequence));
    SLIM_RETURN_IF_ERROR(prefix_cache_.CopyHidden(hit, sequence->boundary_view, *backend_));
  }
  sequence->cached_tokens = hit.tokens;
  sequence->next_row = hit.tokens;
  SLIM_ASSIGN_OR_RETURN(sequence->kv,
                        ReserveKv(KvSegments(sequence->spec, sequence->plan), hit.pages));
  sequences_.emplace(id, std::move(sequence));
  return id;
}

absl::StatusOr<KvSequenceId> LlamaEngine::ReserveKv(absl::Span<const KvSegmentSpec> segments,
                                                    absl::Span<const KvPageRef> prefix) {
  while (true) {
    absl::StatusOr<KvSequenceId> kv = kv_->AddSequenceWithPrefix(segments, prefix);
    // What the cache holds is only borrowed room: a request that needs it gets it.
    if (kv.ok() || !absl::IsResourceExhausted(kv.status()) || !prefix_cache_.EvictOldest()) {
      return kv;
    }
  }
}

absl::Status LlamaEngine::AllocateBoundary(Sequence& sequence) {
  const int64_t rows = sequence.plan[0].num_tokens;
  const int64_t width = model_->config().width;
  SLIM_ASSIGN_OR_RETURN(sequence.boundary,
                        backend_->Allocate(rows * width * static_cast<int64_t>(sizeof(float))));
  sequence.boundary_view = TensorView{sequence.boundary.data(), rows, width};
  return absl::OkStatus();
}

absl::Status LlamaEngine::PublishPrefix(Sequence& sequence) {
  const SequenceSpec& spec = sequence.spec;
  if (options_.prefix_cache_bytes == 0 || spec.bypass_prefix_cache) return absl::OkStatus();
  const int64_t first = sequence.cached_tokens / options_.block_tokens;
  const int64_t end = sequence.prompt_tokens() / options_.block_tokens;
  if (first >= end) return absl::OkStatus();
  SLIM_ASSIGN_OR_RETURN(
      const std::vector<KvPageRef> pages,
      kv_->PublishBlocks(sequence.kv, 0, static_cast<int32_t>(first), static_cast<int32_t>(end)));
  return prefix_cache_.Insert(PrefixNamespace(spec, sequence.plan), spec.prompt, first, pages,
                              sequence.plan[0].num_layers(), sequence.boundary_view, *backend_);
}

void LlamaEngine::Remove(SequenceId id) {
  kv_->RemoveSequence(Find(id).kv);
  sequences_.erase(id);
}

PrefillWork LlamaEngine::NextPrefill(SequenceId id) const {
  const Sequence& sequence = Find(id);
  if (sequence.prefill_done) return PrefillWork{};
  const ModelConfig& c = model_->config();
  const double query_cols = static_cast<double>(c.num_heads) * c.head_dim;
  const double kv_cols = static_cast<double>(c.num_kv_heads) * c.head_dim;
  // Multiply-adds of one row in one layer's linear work, and of attention to one key.
  const double linear = c.width * (2 * query_cols + 2 * kv_cols) + 3.0 * c.width * c.ffn_width;
  const double attention = 2 * query_cols * static_cast<double>(sequence.next_row);
  PrefillWork work;
  work.rows = sequence.current().num_tokens - sequence.next_row;
  work.row_cost = sequence.current().num_layers() * (1 + attention / linear);
  return work;
}

SequenceReport LlamaEngine::Report(SequenceId id) const {
  return Find(id).Report(model_->config().num_layers,
                         kv_->layout().slab_bytes() / kv_->layout().block_tokens);
}

EngineStats LlamaEngine::stats() const {
  EngineStats stats;
  stats.kv = kv_->stats();
  stats.prefix_cache_query_tokens = prefix_query_tokens_;
  stats.prefix_cache_hit_tokens = prefix_hit_tokens_;
  stats.decode_kv_bytes = decode_kv_bytes_;
  return stats;
}

// ---------------------------------------------------------------- a step

absl::StatusOr<StepResult> LlamaEngine::Step(const StepPlan& plan) {
  const absl::Time start = absl::Now();
  std::vector<StepItem> items;
  std::vector<PassItem> passes;
  StepResult result;
  for (const PrefillItem& prefill : plan.prefill) {
    Sequence& sequence = Find(prefill.sequence);
    SLIM_CHECK(!sequence.prefill_done && prefill.max_rows > 0);
    passes.push_back(sequence.NextChunk(prefill.max_rows));
    items.push_back(StepItem{&sequence, /*decode=*/false, passes.back().rows(), -1, {}});
    result.prefill_rows += items.back().rows;
  }
  for (const SequenceId id : plan.decode) {
    Sequence& sequence = Find(id);
    SLIM_CHECK(sequence.prefill_done && sequence.last_token >= 0);
    passes.push_back(sequence.DecodeRow(model_->config().num_layers));
    items.push_back(StepItem{&sequence, /*decode=*/true, 1, -1, {}});
    ++result.decode_rows;
  }
  if (items.empty()) return result;

  const double stall_before = kv_->stats().stall_seconds;
  std::vector<KvUse> uses;
  for (size_t i = 0; i < items.size(); ++i) {
    SLIM_RETURN_IF_ERROR(AppendPages(items[i], passes[i]));
    KvUse use;
    use.sequence = passes[i].kv;
    use.first_layer = passes[i].first_layer;
    use.end_layer = passes[i].last_layer + 1;
    use.first_written_block = passes[i].positions[0] / options_.block_tokens;
    uses.push_back(use);
  }
  SLIM_RETURN_IF_ERROR(kv_->BeginStep(uses));
  const auto run_passes = [&]() -> absl::Status {
    SLIM_RETURN_IF_ERROR(pass_.Run(
        absl::MakeSpan(passes), [&](int layer, int item, TensorView query, const KvPages& pages) {
          return AfterLayer(items[item], layer, query, pages);
        }));
    decode_kv_bytes_ +=
        pass_.decode_keys() * (kv_->layout().slab_bytes() / kv_->layout().block_tokens);
    for (size_t i = 0; i < items.size(); ++i) items[i].status = pass_.item_status()[i];
    for (size_t i = 0; i < items.size(); ++i) {
      if (!items[i].decode && items[i].status.ok()) {
        SLIM_RETURN_IF_ERROR(FinishPrefillChunk(items[i], passes[i]));
      }
    }
    return absl::OkStatus();
  };
  const absl::Status passed = run_passes();
  kv_->EndStep();  // also of a step that failed: its sequences are still to be removed
  SLIM_RETURN_IF_ERROR(passed);
  result.kv_stall = absl::Seconds(kv_->stats().stall_seconds - stall_before);
  SLIM_RETURN_IF_ERROR(ComputeLogits(items, passes));

  const absl::Duration elapsed = absl::Now() - start;
  for (StepItem& item : items) {
    Sequence& sequence = *item.sequence;
    sequence.kv_stall += result.kv_stall;
    SequenceOutput output;
    output.sequence = sequence.id;
    if (item.logits_row >= 0) SampleToken(item, output);
    output.status = item.status;
    if (!item.decode) {
      output.in_prefill = !sequence.prefill_done;
      const double share = static_cast<double>(sequence.DoneRowLayers()) /
                           static_cast<double>(sequence.TotalRowLayers());
      output.progress.total_tokens = sequence.prompt_tokens();
      output.progress.done_tokens =
          sequence.prefill_done
              ? sequence.prompt_tokens()
              : static_cast<int64_t>(share * static_cast<double>(sequence.prompt_tokens()));
      output.progress.retained_tokens = sequence.current().num_tokens;
      if (sequence.segment > 0) {
        sequence.stages[sequence.segment - 1].segment_time +=
            elapsed * (static_cast<double>(item.rows) /
                       static_cast<double>(result.prefill_rows + result.decode_rows));
      }
    }
    result.outputs.push_back(std::move(output));
  }
  return result;
}

absl::Status LlamaEngine::AppendPages(const StepItem& item, const PassItem& pass) {
  Sequence& sequence = *item.sequence;
  const int block_tokens = options_.block_tokens;
  if (item.decode) {
    const int32_t position = pass.positions[0];
    if (position % block_tokens != 0) return absl::OkStatus();
    const int32_t block = position / block_tokens;
    for (size_t s = 0; s < sequence.plan.size(); ++s) {
      SLIM_RETURN_IF_ERROR(kv_->AppendBlocks(sequence.kv, static_cast<int>(s), {block}));
    }
    return absl::OkStatus();
  }
  // Blocks of this chunk that the chunk before has not begun.
  const int64_t begin = CeilDiv(sequence.next_row, block_tokens);
  const int64_t end = CeilDiv(sequence.next_row + item.rows, block_tokens);
  if (begin >= end) return absl::OkStatus();
  return kv_->AppendBlocks(
      sequence.kv, sequence.segment,
      absl::MakeConstSpan(sequence.blocks[sequence.segment]).subspan(begin, end - begin));
}

absl::Status LlamaEngine::FinishPrefillChunk(StepItem& item, const PassItem& pass) {
  Sequence& sequence = *item.sequence;
  const SegmentPlan& segment = sequence.current();
  if (!sequence.last_segment()) {
    // The rows become the boundary's rows [next_row, ...): they come from rows at or after these,
    // so nothing that is still needed is overwritten.
    if (sequence.boundary.data() == nullptr) SLIM_RETURN_IF_ERROR(AllocateBoundary(sequence));
    std::vector<int64_t> from(item.rows), to(item.rows);
    for (int64_t r = 0; r < item.rows; ++r) {
      from[r] = pass.first_home_row + r;
      to[r] = sequence.next_row + r;
    }
    SLIM_RETURN_IF_ERROR(backend_->CopyRows(pass_.home(), from, sequence.boundary_view, to));
  }
  sequence.next_row += item.rows;
  SealWritten(sequence, sequence.segment, sequence.next_row);
  if (sequence.next_row < segment.num_tokens) return absl::OkStatus();
  if (sequence.segment == 0) SLIM_RETURN_IF_ERROR(PublishPrefix(sequence));
  if (!sequence.last_segment()) {
    const absl::Status decided = Decide(sequence);
    // A lost block or a NaN score ends this sequence only.
    if (!decided.ok()) item.status = decided;
    return absl::OkStatus();
  }
  for (size_t stage = 0; stage < sequence.reselect.size(); ++stage) {
    SLIM_RETURN_IF_ERROR(kv_->SetActiveBlocks(sequence.kv, static_cast<int>(stage) + 1,
                                              sequence.reselect[stage].active()));
  }
  sequence.prefill_done = true;
  sequence.boundary = Buffer();
  sequence.boundary_view = TensorView{};
  return absl::OkStatus();
}

void LlamaEngine::SealWritten(Sequence& sequence, int segment, int64_t written_rows) {
  const int64_t whole = written_rows / options_.block_tokens;
  if (whole == 0) return;
  kv_->SealBlocks(sequence.kv, segment, sequence.blocks[segment][whole - 1] + 1);
}

absl::Status LlamaEngine::Decide(Sequence& sequence) {
  const absl::Time start = absl::Now();
  const ModelConfig& config = model_->config();
  const int stage = sequence.segment;  // the stage that opens segment stage + 1
  const SegmentPlan& now = sequence.plan[stage];
  const SegmentPlan& next = sequence.plan[stage + 1];
  const PruneSchedule& schedule = sequence.spec.pruning;
  const int layer = now.end_layer - 1;
  const int64_t window = std::min<int64_t>(schedule.window_tokens, now.num_tokens);
  const int64_t cols = int64_t{config.num_heads} * config.head_dim;

  const int64_t bytes = window * cols * static_cast<int64_t>(sizeof(float));
  if (window_queries_.bytes() < bytes) {
    SLIM_ASSIGN_OR_RETURN(window_queries_, backend_->Allocate(bytes));
  }
  std::vector<int32_t> positions(window);
  for (int64_t w = 0; w < window; ++w) {
    positions[w] = sequence.PositionOf(stage, now.num_tokens - window + w);
  }
  const TensorView hidden = sequence.boundary_view.Rows(now.num_tokens - window, window);
  BlockScoreArgs args;
  args.kind = schedule.score_kind;
  args.queries = TensorView{window_queries_.data(), window, cols};
  args.positions = positions;
  args.num_tokens = sequence.prompt_tokens();
  args.num_heads = config.num_heads;
  SLIM_RETURN_IF_ERROR(model_->Queries(layer, hidden, positions, args.queries));

  SLIM_ASSIGN_OR_RETURN(const KvPages pages, kv_->AcquireLayer(sequence.kv, layer));
  args.slabs = pages.slabs;
  args.block_ids = pages.block_ids;
  const std::vector<int32_t> forced =
      ForcedBlocks(schedule, options_.block_tokens, sequence.prompt_tokens());
  absl::Status status;
  absl::StatusOr<std::vector<float>> scores = ComputeScores(schedule, args, backend_.get());
  absl::StatusOr<std::vector<int32_t>> kept =
      scores.ok() ? SelectBlocks(pages.block_ids, *scores, forced, next.num_blocks)
                  : absl::StatusOr<std::vector<int32_t>>(scores.status());
  if (kept.ok()) status = StartReselect(sequence, stage, args, *kept, forced);
  kv_->ReleaseLayer(sequence.kv, layer);
  if (!kept.ok()) return kept.status();
  SLIM_RETURN_IF_ERROR(status);

  StageReport& report = sequence.stages[stage];
  report.layer = next.first_layer;
  report.retained_tokens = next.num_tokens;
  report.retained_blocks = next.num_blocks;
  report.chosen_blocks = next.num_blocks - static_cast<int64_t>(forced.size());
  if (sequence.spec.report_scores) {
    report.block_ids = *kept;
    report.scores = *std::move(scores);
  }
  sequence.digest = FoldDigest(sequence.digest, next.first_layer, *kept);
  sequence.EnterNextSegment(*std::move(kept));
  report.decision_time = absl::Now() - start;
  return absl::OkStatus();
}

// ---------------------------------------------------------------- selection during decode

absl::Status LlamaEngine::StartReselect(Sequence& sequence, int stage, BlockScoreArgs args,
                                        const std::vector<int32_t>& retained,
                                        const std::vector<int32_t>& forced) {
  const PruneSchedule& schedule = sequence.spec.pruning;
  if (schedule.decode_mode != DecodeMode::kReselect) return absl::OkStatus();
  // Without a budget of its own, decode keeps half of what prefill retained.
  const int64_t budget = schedule.decode_budget_tokens > 0
                             ? schedule.decode_budget_tokens / options_.block_tokens
                             : static_cast<int64_t>(retained.size()) / 2;
  const int64_t active = std::clamp<int64_t>(budget, static_cast<int64_t>(forced.size()),
                                             static_cast<int64_t>(retained.size()));
  sequence.reselect.emplace_back(schedule, retained, forced, active);
  const TensorView window = args.queries;
  const absl::Span<const int32_t> positions = args.positions;
  for (int64_t w = 0; w < window.rows; ++w) {
    args.queries = window.Rows(w, 1);
    args.positions = positions.subspan(w, 1);
    SLIM_RETURN_IF_ERROR(sequence.reselect[stage].AddQuery(args, backend_.get()));
  }
  return sequence.reselect[stage].Update().status();
}

absl::Status LlamaEngine::AfterLayer(StepItem& item, int layer, TensorView query,
                                     const KvPages& pages) {
  Sequence& sequence = *item.sequence;
  if (!item.decode || !Reselects(sequence)) return absl::OkStatus();
  for (size_t stage = 0; stage < sequence.reselect.size(); ++stage) {
    if (sequence.plan[stage + 1].first_layer - 1 != layer) continue;
    const std::vector<int32_t> position = {
        static_cast<int32_t>(sequence.prompt_tokens() + sequence.generated - 1)};
    BlockScoreArgs args;
    args.kind = sequence.spec.pruning.score_kind;
    args.queries = query;
    args.positions = position;
    args.slabs = pages.slabs;
    args.block_ids = pages.block_ids;
    args.num_tokens = sequence.prompt_tokens();
    args.num_heads = model_->config().num_heads;
    // Pages of generated tokens come after the prompt's and have no score.
    while (!args.block_ids.empty() &&
           int64_t{args.block_ids.back()} * options_.block_tokens >= args.num_tokens) {
      args.block_ids.remove_suffix(1);
      args.slabs.remove_suffix(1);
    }
    Reselector& reselector = sequence.reselect[stage];
    absl::Status status = reselector.AddQuery(args, backend_.get());
    if (status.ok()) {
      const absl::StatusOr<bool> changed = reselector.Update();
      status = changed.status();
      if (changed.ok() && *changed) {
        ++sequence.reselect_swaps;
        status =
            kv_->SetActiveBlocks(sequence.kv, static_cast<int>(stage) + 1, reselector.active());
      }
    }
    if (!status.ok()) item.status = status;
  }
  return absl::OkStatus();
}

// ---------------------------------------------------------------- logits and sampling

absl::Status LlamaEngine::ComputeLogits(std::vector<StepItem>& items,
                                        absl::Span<const PassItem> passes) {
  std::vector<int64_t> from, to;
  logits_sequences_.clear();
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].status.ok() || !items[i].sequence->prefill_done) continue;
    items[i].logits_row = static_cast<int64_t>(from.size());
    to.push_back(items[i].logits_row);
    from.push_back(passes[i].first_home_row + passes[i].rows() - 1);
    logits_sequences_.push_back(items[i].sequence->id);
  }
  const auto rows = static_cast<int64_t>(from.size());
  if (rows == 0) return absl::OkStatus();
  const int64_t width = model_->config().width;
  const int64_t vocabulary = model_->config().vocab_size;
  if (rows > logits_rows_reserved_) {
    SLIM_ASSIGN_OR_RETURN(final_, backend_->Allocate(rows * width * int64_t{sizeof(float)}));
    SLIM_ASSIGN_OR_RETURN(logits_, backend_->Allocate(rows * vocabulary * int64_t{sizeof(float)}));
    logits_rows_reserved_ = rows;
  }
  const TensorView last{final_.data(), rows, width};
  SLIM_RETURN_IF_ERROR(backend_->CopyRows(pass_.home(), from, last, to));
  SLIM_RETURN_IF_ERROR(model_->Logits(last, TensorView{logits_.data(), rows, vocabulary}));
  host_logits_.resize(rows * vocabulary);
  return backend_->CopyToHost(logits_.data(), host_logits_.data(),
                              rows * vocabulary * static_cast<int64_t>(sizeof(float)));
}

void LlamaEngine::SampleToken(StepItem& item, SequenceOutput& output) {
  Sequence& sequence = *item.sequence;
  const SequenceSpec& spec = sequence.spec;
  const int64_t vocabulary = model_->config().vocab_size;
  const auto logits =
      absl::MakeSpan(host_logits_).subspan(item.logits_row * vocabulary, vocabulary);
  std::vector<float> raw;  // the sampler changes its copy
  if (spec.top_logprobs >= 0) raw.assign(logits.begin(), logits.end());
  const bool too_early = sequence.generated < spec.min_new_tokens;
  absl::StatusOr<int32_t> token = sequence.sampler.Sample(
      logits, too_early ? absl::MakeConstSpan(spec.end_tokens) : absl::Span<const int32_t>());
  if (!token.ok()) {
    item.status = token.status();
    return;
  }
  sequence.last_token = *token;
  ++sequence.generated;
  output.token = *token;
  if (spec.top_logprobs >= 0) output.logprobs = ComputeLogprobs(raw, *token, spec.top_logprobs);
}

void LlamaEngine::ForceToken(SequenceId id, int32_t token) {
  Sequence& sequence = Find(id);
  SLIM_CHECK(sequence.last_token >= 0 && token >= 0 && token < model_->config().vocab_size);
  sequence.last_token = token;
}

absl::Status LlamaEngine::CopyLastLogits(SequenceId sequence, absl::Span<float> logits) {
  const int64_t vocabulary = model_->config().vocab_size;
  SLIM_CHECK(static_cast<int64_t>(logits.size()) == vocabulary);
  for (size_t row = 0; row < logits_sequences_.size(); ++row) {
    if (logits_sequences_[row] != sequence) continue;
    // The sampler changes the host's copy; the backend's is as the model made it.
    return backend_->CopyToHost(static_cast<const float*>(logits_.data()) + row * vocabulary,
                                logits.data(), vocabulary * static_cast<int64_t>(sizeof(float)));
  }
  return absl::NotFoundError("the last step sampled no token for this sequence");
}

}  // namespace slim
