#include "engine/packed_pass.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace slim {

absl::Status PackedPass::EnterRows(absl::Span<PassItem> items) {
  const int64_t width = model_->config().width;
  int64_t rows = 0;
  for (PassItem& item : items) {
    item.first_home_row = rows;
    rows += item.rows();
  }
  if (rows > reserved_rows_) {
    const int64_t bytes = rows * width * static_cast<int64_t>(sizeof(float));
    SLIM_ASSIGN_OR_RETURN(home_, model_->backend().Allocate(bytes));
    SLIM_ASSIGN_OR_RETURN(packed_, model_->backend().Allocate(bytes));
    reserved_rows_ = rows;
  }
  home_view_ = TensorView{home_.data(), rows, width};
  item_status_.assign(items.size(), absl::OkStatus());
  decode_keys_ = 0;
  packed_index_.resize(rows);
  std::iota(packed_index_.begin(), packed_index_.end(), 0);
  runs_.clear();
  packed_home_.clear();

  for (const PassItem& item : items) {
    const TensorView target = home_view_.Rows(item.first_home_row, item.rows());
    if (item.hidden_rows.empty()) {
      SLIM_RETURN_IF_ERROR(model_->Embed(item.tokens, target));
    } else {
      SLIM_RETURN_IF_ERROR(
          model_->backend().CopyRows(item.hidden, item.hidden_rows, target,
                                     absl::MakeConstSpan(packed_index_).subspan(0, item.rows())));
    }
  }
  return absl::OkStatus();
}

// The rows of every kind of work lie together, and within it those of LinearInput::prompt_rows.
std::vector<PackedPass::RowRun> PackedPass::RunsAt(absl::Span<const PassItem> items,
                                                   int layer) const {
  std::vector<RowRun> runs;
  const bool apart = model_->backend().info().prompt_rows_apart;
  const auto add = [&](int i, int64_t first, int64_t end, Work work) {
    const std::vector<int32_t>& positions = items[i].positions;
    const int64_t exact_end = !apart || items[i].decode()
                                  ? end
                                  : std::lower_bound(positions.begin() + first,
                                                     positions.begin() + end, kExactPositions) -
                                        positions.begin();
    if (first < exact_end) runs.push_back({i, first, exact_end - first, work, false});
    if (exact_end < end) runs.push_back({i, exact_end, end - exact_end, work, true});
  };
  for (int i = 0; i < static_cast<int>(items.size()); ++i) {
    const PassItem& item = items[i];
    if (layer < item.first_layer || layer > item.last_layer || !item_status_[i].ok()) continue;
    const int64_t rows = item.rows();
    if (layer == item.first_layer && item.finish_first) {
      add(i, 0, rows, Work::kFinish);
    } else if (layer < item.last_layer || item.last == PassItem::Last::kFull) {
      add(i, 0, rows, Work::kFull);
    } else if (item.last == PassItem::Last::kKvOnly) {
      add(i, 0, rows, Work::kKvOnly);
    } else {
      add(i, rows - 1, rows, Work::kFull);
      add(i, 0, rows - 1, Work::kKvOnly);
    }
  }
  std::stable_sort(runs.begin(), runs.end(), [](const RowRun& a, const RowRun& b) {
    return std::pair(a.work, a.prompt) < std::pair(b.work, b.prompt);
  });
  return runs;
}

void PackedPass::MarkPromptRanges(const std::vector<RowRun>& runs) {
  prompt_ranges_.clear();
  int64_t row = 0;
  for (const RowRun& run : runs) {
    if (run.prompt && !prompt_ranges_.empty() && prompt_ranges_.back().end == row) {
      prompt_ranges_.back().end += run.rows;
    } else if (run.prompt) {
      prompt_ranges_.push_back({row, row + run.rows});
    }
    row += run.rows;
  }
}

absl::Status PackedPass::Repack(absl::Span<const PassItem> items, const std::vector<RowRun>& runs) {
  Backend& backend = model_->backend();
  const int64_t width = home_view_.cols;
  const auto indices = absl::MakeConstSpan(packed_index_);
  if (!packed_home_.empty()) {
    const auto rows = static_cast<int64_t>(packed_home_.size());
    SLIM_RETURN_IF_ERROR(backend.CopyRows(TensorView{packed_.data(), rows, width},
                                          indices.subspan(0, rows), home_view_, packed_home_));
  }
  packed_home_.clear();
  positions_.clear();
  for (const RowRun& run : runs) {
    const PassItem& item = items[run.item];
    for (int64_t r = run.first; r < run.first + run.rows; ++r) {
      packed_home_.push_back(item.first_home_row + r);
      positions_.push_back(item.positions[r]);
    }
  }
  runs_ = runs;
  const auto rows = static_cast<int64_t>(packed_home_.size());
  if (rows == 0) return absl::OkStatus();
  return backend.CopyRows(home_view_, packed_home_, TensorView{packed_.data(), rows, width},
                          indices.subspan(0, rows));
}

void PackedPass::AcquirePages(absl::Span<const PassItem> items, int layer) {
  pages_.assign(items.size(), KvPages{});
  for (size_t i = 0; i < items.size(); ++i) {
    if (layer < items[i].first_layer || layer > items[i].last_layer) continue;
    if (!item_status_[i].ok()) continue;
    absl::StatusOr<KvPages> pages = kv_->AcquireLayer(items[i].kv, layer);
    if (pages.ok()) {
      pages_[i] = *pages;
    } else {
      item_status_[i] = pages.status();  // the sequence is lost, the others go on
    }
  }
}

void PackedPass::FillSlots(const PassItem& item, const RowRun& run, const KvPages& pages) {
  const int block_tokens = kv_->layout().block_tokens;
  for (int64_t r = run.first; r < run.first + run.rows; ++r) {
    const int64_t page = item.first_row_in_segment < 0
                             ? static_cast<int64_t>(pages.slabs.size()) - 1
                             : (item.first_row_in_segment + r) / block_tokens;
    const int32_t position = item.positions[r];
    SLIM_CHECK(page < static_cast<int64_t>(pages.slabs.size()));
    SLIM_CHECK(pages.block_ids[page] == position / block_tokens);
    slots_.push_back(KvSlot{pages.slabs[page], position % block_tokens});
  }
}

absl::Status PackedPass::RunLayer(absl::Span<const PassItem> items, int layer,
                                  const LayerHook& hook) {
  AcquirePages(items, layer);
  absl::Status status = ComputeLayer(items, layer, hook);
  // Also when it failed: the sequences are still to be removed.
  for (size_t i = 0; i < items.size(); ++i) {
    if (!pages_[i].slabs.empty()) kv_->ReleaseLayer(items[i].kv, layer);
  }
  return status;
}

absl::Status PackedPass::ComputeLayer(absl::Span<const PassItem> items, int layer,
                                      const LayerHook& hook) {
  const std::vector<RowRun> runs = RunsAt(items, layer);
  if (runs != runs_) SLIM_RETURN_IF_ERROR(Repack(items, runs));

  LayerBatch batch;
  slots_.clear();
  sequences_.clear();
  std::vector<int> query_items;
  std::vector<int64_t> query_last_rows;
  int64_t row = 0;
  for (const RowRun& run : runs) {
    const KvPages& pages = pages_[run.item];
    if (run.work != Work::kFinish) FillSlots(items[run.item], run, pages);
    if (items[run.item].decode()) {
      // The row's own token is the last one on its last page.
      decode_keys_ += (static_cast<int64_t>(pages.slabs.size()) - 1) * kv_->layout().block_tokens +
                      slots_.back().slot + 1;
    }
    if (run.work != Work::kKvOnly) {
      sequences_.push_back(AttentionSequence{row, run.rows, pages.slabs, pages.block_ids});
      if (run.first + run.rows == items[run.item].rows()) {
        query_items.push_back(run.item);
        query_last_rows.push_back(row + run.rows - 1);
      }
    }
    (run.work == Work::kFinish ? batch.finish_rows
     : run.work == Work::kFull ? batch.full_rows
                               : batch.kv_only_rows) += run.rows;
    row += run.rows;
  }
  if (row > 0) {
    batch.hidden = TensorView{packed_.data(), row, home_view_.cols};
    batch.positions = positions_;
    batch.slots = slots_;
    batch.sequences = sequences_;
    MarkPromptRanges(runs);
    batch.prompt_ranges = prompt_ranges_;
    SLIM_RETURN_IF_ERROR(model_->RunLayer(layer, batch));
  }
  for (size_t i = 0; hook && i < query_items.size(); ++i) {
    const TensorView queries = model_->queries();
    const TensorView query = queries.Rows(query_last_rows[i], 1);
    SLIM_RETURN_IF_ERROR(hook(layer, query_items[i], query, pages_[query_items[i]]));
  }
  return absl::OkStatus();
}

absl::Status PackedPass::Run(absl::Span<PassItem> items, const LayerHook& hook) {
  SLIM_RETURN_IF_ERROR(EnterRows(items));
  int first = INT32_MAX, last = -1;
  for (const PassItem& item : items) {
    first = std::min(first, item.first_layer);
    last = std::max(last, item.last_layer);
  }
  for (int layer = first; layer <= last; ++layer) {
    const bool active = std::any_of(items.begin(), items.end(), [&](const PassItem& item) {
      return layer >= item.first_layer && layer <= item.last_layer;
    });
    if (active) SLIM_RETURN_IF_ERROR(RunLayer(items, layer, hook));
  }
  return Repack(items, {});  // everything back home
}

}  // namespace slim
