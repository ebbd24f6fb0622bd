// The pages of one (sequence, segment), ascending by block id, and which of them are active.
// One table serves all layers of the segment. Worker thread only; shares ownership of the pages.
#ifndef KVCACHE_BLOCK_TABLE_H_
#define KVCACHE_BLOCK_TABLE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvcache/kv_manager.h"
#include "kvcache/page_ledger.h"

namespace slim {

class BlockTable {
 public:
  // What one layer acquires. Valid until the table changes.
  struct View {
    absl::Span<const int32_t> block_ids;
    absl::Span<KvPage* const> pages;
  };

  explicit BlockTable(const KvSegmentSpec& spec) : spec_(spec) {}

  const KvSegmentSpec& spec() const { return spec_; }
  int end_layer() const { return spec_.first_layer + spec_.num_layers; }
  int64_t num_blocks() const { return static_cast<int64_t>(pages_.size()); }
  // Counts up whenever a view would change.
  uint64_t version() const { return version_; }

  // INVALID_ARGUMENT when ids do not ascend above those present, RESOURCE_EXHAUSTED above
  // max_blocks.
  absl::Status CheckAppend(absl::Span<const int32_t> block_ids) const;
  void Append(std::shared_ptr<KvPage> page);
  void Seal(int32_t end_block);
  // INVALID_ARGUMENT, with nothing changed, when ids do not ascend or one is absent.
  absl::Status SetActive(absl::Span<const int32_t> block_ids);
  absl::StatusOr<std::vector<KvPageRef>> Publish(int32_t begin_block, int32_t end_block) const;

  View ViewOf(int layer) const;
  const std::vector<std::shared_ptr<KvPage>>& pages() const { return pages_; }

 private:
  const KvSegmentSpec spec_;
  std::vector<std::shared_ptr<KvPage>> pages_;
  std::vector<KvPage*> all_pages_;
  std::vector<int32_t> all_ids_;
  bool all_active_ = true;
  std::vector<KvPage*> active_pages_;  // meaningful when !all_active_
  std::vector<int32_t> active_ids_;
  uint64_t version_ = 1;
};

}  // namespace slim

#endif  // KVCACHE_BLOCK_TABLE_H_
