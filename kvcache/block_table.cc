#include "kvcache/block_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvcache/planted_bug.h"

namespace slim {
namespace {

absl::Status CheckAscending(absl::Span<const int32_t> block_ids, int64_t above) {
  int64_t last = above;
  for (const int32_t id : block_ids) {
    if (!(id > last)) {
      return absl::InvalidArgumentError(
          absl::StrCat("KV blocks must ascend: block ", id, " after ", last));
    }
    last = id;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BlockTable::CheckAppend(absl::Span<const int32_t> block_ids) const {
  const int64_t blocks = num_blocks() + static_cast<int64_t>(block_ids.size());
  if (blocks > spec_.max_blocks) {
    return absl::ResourceExhaustedError(absl::StrCat("KV segment at layer ", spec_.first_layer,
                                                     ": ", blocks, " blocks exceed the reserved ",
                                                     spec_.max_blocks));
  }
  return CheckAscending(block_ids, all_ids_.empty() ? -1 : all_ids_.back());
}

void BlockTable::Append(std::shared_ptr<KvPage> page) {
  all_ids_.push_back(page->block_id());
  all_pages_.push_back(page.get());
  if (!all_active_) {
    active_ids_.push_back(page->block_id());
    active_pages_.push_back(page.get());
  }
  pages_.push_back(std::move(page));
  ++version_;
}

void BlockTable::Seal(int32_t end_block) {
  if (Planted(PlantedBug::kSealOnePastEnd)) ++end_block;
  for (KvPage* page : all_pages_) {
    if (page->block_id() >= end_block) break;
    page->Seal();
  }
}

absl::Status BlockTable::SetActive(absl::Span<const int32_t> block_ids) {
  absl::Status status = CheckAscending(block_ids, -1);
  if (!status.ok()) return status;
  for (const int32_t id : block_ids) {
    if (!std::binary_search(all_ids_.begin(), all_ids_.end(), id)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "block ", id, " has no pages in the segment at", " layer ", spec_.first_layer));
    }
  }
  ++version_;
  active_ids_.clear();
  active_pages_.clear();
  all_active_ = block_ids.empty();
  if (all_active_) return absl::OkStatus();
  auto wanted = block_ids.begin();
  for (KvPage* page : all_pages_) {
    const bool named = wanted != block_ids.end() && *wanted == page->block_id();
    if (named) ++wanted;
    const bool keep = !page->sealed() && !Planted(PlantedBug::kActiveDropsUnsealed);
    if (!named && !keep) continue;
    active_ids_.push_back(page->block_id());
    active_pages_.push_back(page);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<KvPageRef>> BlockTable::Publish(int32_t begin_block,
                                                           int32_t end_block) const {
  if (!(begin_block >= 0 && begin_block <= end_block)) {
    return absl::InvalidArgumentError(
        absl::StrCat("blocks [", begin_block, ", ", end_block, ") are no range"));
  }
  std::vector<KvPageRef> refs;
  auto id = std::lower_bound(all_ids_.begin(), all_ids_.end(), begin_block);
  for (int32_t block = begin_block; block < end_block; ++block, ++id) {
    if (id == all_ids_.end() || *id != block) {
      return absl::NotFoundError(absl::StrCat("block ", block, " has no pages to publish"));
    }
    const auto& page = pages_[id - all_ids_.begin()];
    if (!page->sealed()) {
      return absl::FailedPreconditionError(
          absl::StrCat("block ", block, " is published before it is sealed"));
    }
    refs.push_back(page);
  }
  return refs;
}

BlockTable::View BlockTable::ViewOf(int layer) const {
  const bool full = all_active_ || (spec_.last_layer_full && layer == end_layer() - 1);
  return full ? View{all_ids_, all_pages_} : View{active_ids_, active_pages_};
}

}  // namespace slim
