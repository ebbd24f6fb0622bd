// Attention over paged keys and values.
//
// The keys of a sequence are taken in spans of kSpanTokens slots, counted from the start of its
// page list. Within a span a query's scores, their maximum, the exponentials and the weighted sum
// of the values are computed as a whole; spans are then merged in ascending order. So a row's
// arithmetic depends on its position and page list alone: not on the rows beside it, the chunk, the
// number of threads, or on whether its spans were computed by one task or by many (decode).

#include <algorithm>
#include <limits>

#include "engine/backend/cpu/ops.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

constexpr int kSpanTokens = kAttentionSpanTokens;
constexpr int kTileQueries = 96;  // queries of one tile, when a row's group of heads is not larger
constexpr int64_t kMaxPartialBytes = int64_t{64} << 20;
constexpr float kLog2E = 1.44269504f;

struct Call {
  const CpuContext* context = nullptr;
  TensorView q, out;
  absl::Span<const int32_t> positions;
  absl::Span<const AttentionSequence> sequences;
  int group = 1;  // query heads that share a kv head
  float scale = 1;
};

// Partial results [queries] of one task, or the running state of a tile.
struct Partial {
  float* max;
  float* sum;
  float* out;
};

constexpr int64_t Align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// One thread's scratch, cut from one buffer.
struct TileScratch {
  static int64_t Bytes(int queries, int head_dim) {
    return 3 * Align64(int64_t{4} * queries * head_dim) + 6 * Align64(int64_t{4} * queries) +
           Align64(int64_t{sizeof(QueryBytes)} * queries) +
           2 * Align64(int64_t{4} * queries * kSpanTokens);
  }
  TileScratch(uint8_t* base, int queries, int head_dim) {
    const auto take = [&base](int64_t bytes) {
      uint8_t* part = base;
      base += Align64(bytes);
      return part;
    };
    packed = take(int64_t{4} * queries * head_dim);
    for (Partial* partial : {&state, &span}) {
      partial->out = reinterpret_cast<float*>(take(int64_t{4} * queries * head_dim));
      partial->max = reinterpret_cast<float*>(take(int64_t{4} * queries));
      partial->sum = reinterpret_cast<float*>(take(int64_t{4} * queries));
    }
    query_bytes = reinterpret_cast<QueryBytes*>(take(int64_t{sizeof(QueryBytes)} * queries));
    total = reinterpret_cast<int32_t*>(take(int64_t{4} * queries));
    visible = reinterpret_cast<int32_t*>(take(int64_t{4} * queries));
    scores = reinterpret_cast<float*>(take(int64_t{4} * queries * kSpanTokens));
    weights = take(int64_t{4} * queries * kSpanTokens);
  }
  void* packed;
  QueryBytes* query_bytes;
  Partial state, span;
  int32_t* total;    // visible tokens per query, in slots of the page list
  int32_t* visible;  // of them, in the current span
  float* scores;
  void* weights;
};

int SpanCount(int64_t tokens) { return static_cast<int>((tokens + kSpanTokens - 1) / kSpanTokens); }

int Queries(const Call& call, const AttentionTask& task) {
  return task.rows * call.group * task.num_kv_heads;
}

// Element offset, in q and out, of the heads of `kv_head` of one row.
int64_t HeadsOffset(const Call& call, int64_t row, int kv_head) {
  return row * call.q.cols + int64_t{kv_head} * call.group * call.context->shape.layout.head_dim;
}

// Asks for the queries of `row` and a kv head that are packed soon, and for where their results go.
void PrefetchHeads(const Call& call, int64_t row, int kv_head) {
  const int64_t first = HeadsOffset(call, row, kv_head);
  const int64_t elements = int64_t{call.group} * call.context->shape.layout.head_dim;
  for (int64_t i = first; i < first + elements; i += 16) {
    __builtin_prefetch(call.q.f32() + i);
    __builtin_prefetch(call.out.f32() + i, 0, 2);
  }
}

void PackTile(const Call& call, const AttentionTask& task, TileScratch& scratch) {
  const CpuModelShape& shape = call.context->shape;
  const AttentionSequence& sequence = call.sequences[task.sequence];
  const int64_t elements = int64_t{call.group} * shape.layout.head_dim;
  const KernelTable& kernels = *call.context->kernels;
  auto* packed = static_cast<uint8_t*>(scratch.packed);
  QueryBytes* bytes = scratch.query_bytes;
  const int dims = shape.layout.head_dim;
  int32_t* total = scratch.total;
  constexpr int kRowsAhead = 2;
  const int64_t end = task.row + task.rows;
  for (int64_t row = task.row; row < end; ++row) {
    const auto tokens = static_cast<int32_t>(
        VisibleTokens(sequence, shape.layout.block_tokens, call.positions[row]));
    for (int h = task.kv_head; h < task.kv_head + task.num_kv_heads; ++h) {
      const float* q = call.q.f32() + HeadsOffset(call, row, h);
      if (row + kRowsAhead < end) PrefetchHeads(call, row + kRowsAhead, h);
      for (int64_t i = 0; i < elements; i += dims) {
        kernels.pack_query(q + i, dims, call.scale, packed, bytes++);
        packed += int64_t{dims} * kernels.packed_query_bytes;
      }
      total = std::fill_n(total, call.group, tokens);
    }
  }
}

void RunSpan(const Call& call, const AttentionTask& task, int span, TileScratch& scratch,
             const Partial& result) {
  const KvLayout& layout = call.context->shape.layout;
  AttentionSpanArgs args;
  args.num_queries = Queries(call, task);
  args.num_kv_heads = task.num_kv_heads;
  for (int i = 0; i < args.num_queries; ++i) {
    scratch.visible[i] = std::clamp(scratch.total[i] - span * kSpanTokens, 0, kSpanTokens);
  }
  args.queries = scratch.packed;
  args.query_bytes = scratch.query_bytes;
  args.visible_tokens = scratch.visible;
  const absl::Span<void* const> slabs = call.sequences[task.sequence].slabs;
  const int64_t first_page = int64_t{span} * (kSpanTokens / layout.block_tokens);
  const int64_t next_page = first_page + kSpanTokens / layout.block_tokens;
  args.slabs = slabs.data() + first_page;
  if (next_page < static_cast<int64_t>(slabs.size())) args.next_slab = slabs[next_page];
  args.key_offset_bytes = layout.key_head_offset(task.kv_head) * layout.element_bytes();
  args.value_offset_bytes = layout.value_head_offset(task.kv_head) * layout.element_bytes();
  args.key_scale_offset_bytes = layout.key_scale_offset(task.kv_head, 0);
  args.value_scale_offset_bytes = layout.value_scale_offset(task.kv_head, 0);
  args.block_tokens = layout.block_tokens;
  args.head_dim = layout.head_dim;
  args.span_tokens = kSpanTokens;
  args.scores = scratch.scores;
  args.weights = scratch.weights;
  args.max = result.max;
  args.sum = result.sum;
  args.out = result.out;
  if (task.num_kv_heads > 1) return call.context->kernels->attention_span_all_heads(args);
  call.context->kernels->attention_span(args);
}

void ResetState(const Partial& state, int queries, int head_dim) {
  std::fill_n(state.max, queries, -std::numeric_limits<float>::infinity());
  std::fill_n(state.sum, queries, 0.0f);
  std::fill_n(state.out, int64_t{queries} * head_dim, 0.0f);
}

void Merge(const Call& call, const AttentionTask& task, const Partial& state,
           const Partial& later) {
  const int queries = Queries(call, task), dims = call.context->shape.layout.head_dim;
  call.context->kernels->attention_merge({queries, dims, state.max, state.sum, state.out},
                                         {queries, dims, later.max, later.sum, later.out});
}

void WriteOutput(const Call& call, const AttentionTask& task, const Partial& state) {
  const int dims = call.context->shape.layout.head_dim;
  const float* from = state.out;
  const float* sum = state.sum;
  for (int64_t row = task.row; row < task.row + task.rows; ++row) {
    for (int h = task.kv_head; h < task.kv_head + task.num_kv_heads; ++h) {
      float* to = call.out.f32() + HeadsOffset(call, row, h);
      for (int i = 0; i < call.group; ++i, from += dims, to += dims) {
        call.context->kernels->attention_finish(from, *sum++, dims, to);
      }
    }
  }
}

// Whether single rows (decode) make tasks enough, counted in spans, to keep the threads busy with
// all heads of a row in one task.
bool RowsAreTasksEnough(const Call& call) {
  int64_t tasks = 0;
  for (const AttentionSequence& sequence : call.sequences) {
    if (sequence.num_rows == 1) {
      tasks += SpanCount(static_cast<int64_t>(sequence.block_ids.size()) *
                         call.context->shape.layout.block_tokens);
    }
  }
  const int threads = call.context->pool->num_threads();
  return threads == 1 || tasks >= int64_t{2} * threads;
}

// Query tiles of all sequences, the costly ones first.
void MakeTiles(const Call& call, std::vector<AttentionTask>& tiles) {
  const KvLayout& layout = call.context->shape.layout;
  const int tile_rows = std::max(1, kTileQueries / call.group);
  const bool all_heads = RowsAreTasksEnough(call);
  tiles.clear();
  for (size_t s = 0; s < call.sequences.size(); ++s) {
    const AttentionSequence& sequence = call.sequences[s];
    SLIM_CHECK(sequence.slabs.size() == sequence.block_ids.size());
    for (int64_t r = 0; r < sequence.num_rows; r += tile_rows) {
      AttentionTask tile;
      tile.sequence = static_cast<int>(s);
      tile.row = sequence.first_row + r;
      tile.rows = static_cast<int>(std::min<int64_t>(tile_rows, sequence.num_rows - r));
      tile.visible_tokens =
          VisibleTokens(sequence, layout.block_tokens, call.positions[tile.row + tile.rows - 1]);
      tile.num_spans = SpanCount(tile.visible_tokens);
      // The kernel for all heads keeps sums of a head's channels where a span's scores were.
      if (all_heads && tile.rows == 1 && layout.head_dim <= kSpanTokens) {
        tile.num_kv_heads = layout.num_kv_heads;
      }
      for (tile.kv_head = 0; tile.kv_head < layout.num_kv_heads;
           tile.kv_head += tile.num_kv_heads) {
        tiles.push_back(tile);
      }
    }
  }
  std::sort(tiles.begin(), tiles.end(), [](const AttentionTask& a, const AttentionTask& b) {
    return a.visible_tokens * a.rows * a.num_kv_heads > b.visible_tokens * b.rows * b.num_kv_heads;
  });
}

// Cuts every tile into its spans; false when there are tiles enough to keep the threads busy, or
// too much would have to be kept. Numbers the partial results by first query.
bool SplitTiles(const Call& call, std::vector<AttentionTask>& tiles,
                std::vector<AttentionTask>& tasks, int64_t* partial_queries) {
  const int threads = call.context->pool->num_threads();
  if (threads == 1 || static_cast<int64_t>(tiles.size()) >= int64_t{4} * threads) return false;
  int64_t queries = 0;
  bool several = false;
  for (const AttentionTask& tile : tiles) {
    queries += int64_t{tile.num_spans} * Queries(call, tile);
    several |= tile.num_spans > 1;
  }
  const int64_t bytes = queries * (call.context->shape.layout.head_dim + 2) * 4;
  if (!several || bytes > kMaxPartialBytes) return false;
  tasks.clear();
  *partial_queries = queries;
  queries = 0;
  for (AttentionTask& tile : tiles) {
    tile.tile = &tile - tiles.data();
    tile.partial = queries;
    for (int span = 0; span < tile.num_spans; ++span) {
      AttentionTask task = tile;
      task.first_span = span;
      task.num_spans = 1;
      task.partial = queries;
      tasks.push_back(task);
      queries += Queries(call, tile);
    }
  }
  return true;
}

// Whole tiles: all spans one after the other, then the output.
void RunTile(const Call& call, const AttentionTask& tile, TileScratch& scratch) {
  PackTile(call, tile, scratch);
  if (tile.num_spans == 1) {  // merging into an empty state changes nothing: 2^0 is 1
    RunSpan(call, tile, 0, scratch, scratch.state);
    return WriteOutput(call, tile, scratch.state);
  }
  ResetState(scratch.state, Queries(call, tile), call.context->shape.layout.head_dim);
  for (int span = 0; span < tile.num_spans; ++span) {
    RunSpan(call, tile, span, scratch, scratch.span);
    Merge(call, tile, scratch.state, scratch.span);
  }
  WriteOutput(call, tile, scratch.state);
}

}  // namespace

int64_t VisibleTokens(const AttentionSequence& sequence, int block_tokens, int32_t position) {
  const auto end = std::upper_bound(sequence.block_ids.begin(), sequence.block_ids.end(),
                                    position / block_tokens);
  SLIM_CHECK(end != sequence.block_ids.begin());
  const int64_t before = end - sequence.block_ids.begin() - 1;
  const int64_t in_last = int64_t{position} - int64_t{*(end - 1)} * block_tokens + 1;
  return before * block_tokens + std::min<int64_t>(block_tokens, in_last);
}

absl::Status CpuAttention(CpuContext& context, TensorView q, absl::Span<const int32_t> positions,
                          absl::Span<const AttentionSequence> sequences, TensorView out) {
  const KvLayout& layout = context.shape.layout;
  const int dims = layout.head_dim;
  SLIM_CHECK(q.cols == int64_t{context.shape.num_heads} * dims && out.cols == q.cols &&
             out.rows == q.rows && static_cast<int64_t>(positions.size()) == q.rows);
  Call call;
  call.context = &context;
  call.q = q;
  call.out = out;
  call.positions = positions;
  call.sequences = sequences;
  call.group = context.shape.num_heads / layout.num_kv_heads;
  call.scale = kLog2E / __builtin_sqrtf(static_cast<float>(dims));

  MakeTiles(call, context.attention_tiles);
  if (context.attention_tiles.empty()) return absl::OkStatus();
  const int queries = std::max(kTileQueries, context.shape.num_heads);
  const int64_t scratch_bytes = TileScratch::Bytes(queries, dims);
  SLIM_ASSIGN_OR_RETURN(
      uint8_t* const scratch_base,
      context.attention_threads.Get<uint8_t>(scratch_bytes * context.pool->num_threads()));
  const auto scratch_of = [&](int thread) {
    return TileScratch(scratch_base + thread * scratch_bytes, queries, dims);
  };
  const std::vector<AttentionTask>& tiles = context.attention_tiles;
  int64_t partial_queries = 0;
  if (!SplitTiles(call, context.attention_tiles, context.attention_tasks, &partial_queries)) {
    context.pool->ParallelFor(tiles.size(), 1, [&](int64_t begin, int64_t end, int thread) {
      TileScratch scratch = scratch_of(thread);
      for (int64_t i = begin; i < end; ++i) RunTile(call, tiles[i], scratch);
    });
    return absl::OkStatus();
  }

  SLIM_ASSIGN_OR_RETURN(float* const partials,
                        context.attention_partials.Get<float>(partial_queries * (dims + 2)));
  const auto partial_at = [&](int64_t query) {
    return Partial{partials + query, partials + partial_queries + query,
                   partials + 2 * partial_queries + query * dims};
  };
  const std::vector<AttentionTask>& tasks = context.attention_tasks;
  context.attention_packed.assign(context.pool->num_threads(), -1);
  context.pool->ParallelFor(tasks.size(), 1, [&](int64_t begin, int64_t end, int thread) {
    TileScratch scratch = scratch_of(thread);
    int64_t& packed = context.attention_packed[thread];
    for (int64_t i = begin; i < end; ++i) {
      if (packed != tasks[i].tile) PackTile(call, tasks[i], scratch);
      packed = tasks[i].tile;
      RunSpan(call, tasks[i], tasks[i].first_span, scratch, partial_at(tasks[i].partial));
    }
  });
  context.pool->ParallelFor(tiles.size(), 1, [&](int64_t begin, int64_t end, int thread) {
    TileScratch scratch = scratch_of(thread);
    for (int64_t i = begin; i < end; ++i) {
      const int tile_queries = Queries(call, tiles[i]);
      ResetState(scratch.state, tile_queries, dims);
      for (int span = 0; span < tiles[i].num_spans; ++span) {
        Merge(call, tiles[i], scratch.state, partial_at(tiles[i].partial + span * tile_queries));
      }
      WriteOutput(call, tiles[i], scratch.state);
    }
  });
  return absl::OkStatus();
}

}  // namespace slim
