#include "kvcache/page_ledger.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "kvcache/planted_bug.h"

namespace slim {

KvPage::~KvPage() { ledger_->Destroy(this); }

PageLedger::PageLedger(BlockPool* pool, SlabReleaser releaser)
    : pool_(pool), releaser_(std::move(releaser)) {
  MutexLock lock(&mutex_);
  counters_.total_slabs = pool_->total_slabs();
  counters_.free_slabs = pool_->free_slabs();
}

PageLedger::~PageLedger() { SLIM_CHECK(pages_.empty()); }

absl::Status PageLedger::Reserve(int64_t slabs) {
  SLIM_CHECK(slabs >= 0);
  const int64_t available = unreserved();
  if (slabs > available) {
    return absl::ResourceExhaustedError(
        absl::StrCat("KV cache: ", slabs, " slabs needed, ", available, " not reserved"));
  }
  MutexLock lock(&mutex_);
  counters_.reserved_slabs += slabs;
  return absl::OkStatus();
}

void PageLedger::Unreserve(int64_t slabs) {
  MutexLock lock(&mutex_);
  counters_.reserved_slabs -= slabs;
  SLIM_CHECK(counters_.reserved_slabs >= 0);
}

int64_t PageLedger::unreserved() const {
  MutexLock lock(&mutex_);
  const int64_t orphaned = Planted(PlantedBug::kOrphansUncharged) ? 0 : orphaned_;
  return counters_.total_slabs - counters_.reserved_slabs - orphaned -
         counters_.held_by_transfer_slabs;
}

absl::StatusOr<std::vector<std::shared_ptr<KvPage>>> PageLedger::NewPages(
    KvSequenceId owner, absl::Span<const int32_t> block_ids, int first_layer, int num_layers) {
  const auto blocks = static_cast<int64_t>(block_ids.size());
  std::vector<SlabId> slabs;  // [layer][block]
  slabs.reserve(blocks * num_layers);
  SLIM_RETURN_IF_ERROR(pool_->Acquire(blocks * num_layers, &slabs));
  std::vector<std::shared_ptr<KvPage>> pages;
  pages.reserve(blocks);
  for (int64_t i = 0; i < blocks; ++i) {
    std::shared_ptr<KvPage> page(new KvPage(this, owner, block_ids[i], first_layer));
    page->slabs_.reserve(num_layers);
    for (int layer = 0; layer < num_layers; ++layer) {
      page->slabs_.push_back(slabs[layer * blocks + i]);
    }
    pages_.insert(page.get());
    pages.push_back(std::move(page));
  }
  MutexLock lock(&mutex_);
  counters_.free_slabs = pool_->free_slabs();
  counters_.cached_slabs += blocks * num_layers;
  return pages;
}

void PageLedger::AddUser(KvPage* page) {
  if (page->users_++ > 0) return;
  MutexLock lock(&mutex_);
  counters_.cached_slabs -= page->num_layers();
  counters_.used_slabs += page->num_layers();
}

void PageLedger::DropUser(KvPage* page, KvSequenceId sequence) {
  SLIM_CHECK(page->users_ > 0);
  MutexLock lock(&mutex_);
  if (!page->orphaned_ && page->owner_ == sequence) {
    page->orphaned_ = true;
    orphaned_ += page->num_layers();
  }
  if (--page->users_ > 0) return;
  counters_.used_slabs -= page->num_layers();
  counters_.cached_slabs += page->num_layers();
}

void PageLedger::Destroy(KvPage* page) {
  SLIM_CHECK(page->users_ == 0);
  pages_.erase(page);
  std::vector<SlabId> free;
  for (const SlabId slab : page->slabs_) {
    if (releaser_(slab)) free.push_back(slab);
  }
  pool_->Release(free);
  MutexLock lock(&mutex_);
  if (page->orphaned_) orphaned_ -= page->num_layers();
  counters_.cached_slabs -= page->num_layers();
  counters_.held_by_transfer_slabs += page->num_layers() - static_cast<int64_t>(free.size());
  counters_.free_slabs = pool_->free_slabs();
}

void PageLedger::ReleaseHeld(SlabId slab) {
  pool_->Release({&slab, 1});
  MutexLock lock(&mutex_);
  --counters_.held_by_transfer_slabs;
  SLIM_CHECK(counters_.held_by_transfer_slabs >= 0);
  counters_.free_slabs = pool_->free_slabs();
}

KvTierStats PageLedger::counters() const {
  MutexLock lock(&mutex_);
  return counters_;
}

absl::Status PageLedger::Check(int64_t reserved) const {
  int64_t used = 0, cached = 0, orphaned = 0;
  absl::flat_hash_set<SlabId> seen;
  for (const KvPage* page : pages_) {
    (page->users_ > 0 ? used : cached) += page->num_layers();
    if (page->orphaned_) orphaned += page->num_layers();
    for (const SlabId slab : page->slabs_) {
      if (!seen.insert(slab).second || !pool_->is_taken(slab)) {
        return absl::InternalError(
            absl::StrCat("slab ", slab, " of block ", page->block_id(), " has two owners or none"));
      }
    }
  }
  MutexLock lock(&mutex_);
  const KvTierStats& c = counters_;
  const bool ok = c.used_slabs == used && c.cached_slabs == cached && orphaned_ == orphaned &&
                  c.reserved_slabs == reserved && c.free_slabs == pool_->free_slabs() &&
                  c.free_slabs + used + cached + c.held_by_transfer_slabs == c.total_slabs &&
                  reserved + orphaned + c.held_by_transfer_slabs <= c.total_slabs;
  if (ok) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(
      "slabs not conserved: total ", c.total_slabs, " free ", c.free_slabs, " (pool ",
      pool_->free_slabs(), ") used ", c.used_slabs, " (tables ", used, ") cached ", c.cached_slabs,
      " (tables ", cached, ") held ", c.held_by_transfer_slabs, " reserved ", c.reserved_slabs,
      " (sequences ", reserved, ") orphaned ", orphaned_, " (tables ", orphaned, ")"));
}

}  // namespace slim
