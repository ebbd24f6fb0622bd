// One pass of packed rows through the layers: which rows are active at which layer, where their
// hidden states lie, and which pages they read and write.
//
// An item is the work of one sequence in a step: a chunk of prompt rows for layers [first, last],
// or one decode row for all layers. Items with different layer ranges share every layer they have
// in common; nothing is padded. Thread rule: only the worker thread.
#ifndef ENGINE_PACKED_PASS_H_
#define ENGINE_PACKED_PASS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/model/llama.h"
#include "kvcache/kv_manager.h"

namespace slim {

struct PassItem {
  KvSequenceId kv{};
  int first_layer = 0;
  int last_layer = 0;
  // At first_layer only query, attention, output and FFN are computed: its K and V exist already
  // (the decision layer of the segment before).
  bool finish_first = false;
  // At last_layer only K and V are computed and stored, for all rows, or for all but the last row.
  enum class Last : uint8_t { kFull, kKvOnly, kKvOnlyButLastRow } last = Last::kFull;
  std::vector<int32_t> positions;  // ascending; one per row
  std::vector<int32_t> tokens;     // one per row, or empty when `hidden` is given
  // Page of each row's block in the segment's table is first_row_in_segment + row over block size;
  // -1: the table's last page (decode).
  int64_t first_row_in_segment = 0;
  // Rows of hidden states to start from, instead of tokens.
  TensorView hidden;
  std::vector<int64_t> hidden_rows;  // row r starts as hidden[hidden_rows[r]]

  // One generated token on its way through all layers.
  bool decode() const { return first_row_in_segment < 0; }
  int64_t rows() const { return static_cast<int64_t>(positions.size()); }
  int64_t first_home_row = 0;  // set by Run: where the item's rows are in home()
};

class PackedPass {
 public:
  // Called after a layer for each item that computed queries in it, while the layer's pages are
  // still held: item index, the rotated queries of its last row [1, heads * head_dim], the pages.
  using LayerHook =
      std::function<absl::Status(int layer, int item, TensorView query, const KvPages& pages)>;

  // Borrowed; both outlive the pass.
  PackedPass(Llama* model, KvManager* kv) : model_(model), kv_(kv) {}

  // Runs every item through its layers, between KvManager::BeginStep and EndStep of the caller.
  // Afterwards home() holds each row's hidden state as its last layer left it: the layer's output,
  // or its input for rows that computed K and V only.
  // A lost block (ABORTED) of one sequence is recorded in item_status and the item sits out the
  // remaining layers; any other error ends the pass, which holds no pages then.
  absl::Status Run(absl::Span<PassItem> items, const LayerHook& hook);

  TensorView home() const { return home_view_; }
  const std::vector<absl::Status>& item_status() const { return item_status_; }
  // Keys that the decode rows of the last Run saw, summed over rows and layers.
  int64_t decode_keys() const { return decode_keys_; }

 private:
  enum class Work : uint8_t { kFinish, kFull, kKvOnly };
  // A run of neighbouring rows of one item that have the same work at a layer.
  struct RowRun {
    int item = 0;
    int64_t first = 0;
    int64_t rows = 0;
    Work work = Work::kFull;
    bool prompt = false;  // LinearInput::prompt_rows
    bool operator==(const RowRun& o) const {
      return item == o.item && first == o.first && rows == o.rows && work == o.work;
    }
  };

  absl::Status EnterRows(absl::Span<PassItem> items);
  std::vector<RowRun> RunsAt(absl::Span<const PassItem> items, int layer) const;
  void MarkPromptRanges(const std::vector<RowRun>& runs);
  absl::Status Repack(absl::Span<const PassItem> items, const std::vector<RowRun>& runs);
  absl::Status RunLayer(absl::Span<const PassItem> items, int layer, const LayerHook& hook);
  // While the pages of the layer are held.
  absl::Status ComputeLayer(absl::Span<const PassItem> items, int layer, const LayerHook& hook);
  void AcquirePages(absl::Span<const PassItem> items, int layer);
  void FillSlots(const PassItem& item, const RowRun& run, const KvPages& pages);

  Llama* const model_;
  KvManager* const kv_;
  Buffer home_, packed_;
  int64_t reserved_rows_ = 0;
  TensorView home_view_;
  std::vector<absl::Status> item_status_;
  int64_t decode_keys_ = 0;
  std::vector<RowRun> runs_;           // of the packed rows
  std::vector<int64_t> packed_home_;   // home row of each packed row
  std::vector<int64_t> packed_index_;  // 0, 1, 2, ...
  std::vector<int32_t> positions_;     // of each packed row
  std::vector<KvPages> pages_;         // per item, at the current layer
  std::vector<KvSlot> slots_;
  std::vector<AttentionSequence> sequences_;
  std::vector<PromptRowRange> prompt_ranges_;
};

}  // namespace slim

#endif  // ENGINE_PACKED_PASS_H_
