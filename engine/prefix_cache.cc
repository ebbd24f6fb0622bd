#include "engine/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace slim {

PrefixCache::Key PrefixCache::KeyOf(const std::string& name_space, absl::Span<const int32_t> prompt,
                                    int64_t block, uint64_t parent) const {
  const auto tokens = prompt.subspan(block * options_.block_tokens, options_.block_tokens);
  return Key{parent, block == 0 ? name_space : std::string(),
             std::vector<int32_t>(tokens.begin(), tokens.end())};
}

void PrefixCache::Touch(uint64_t id) {
  Entry& entry = entries_.at(id);
  ages_.erase(Age{entry.last_use, -entry.depth, id});
  entry.last_use = clock_;
  ages_.insert(Age{entry.last_use, -entry.depth, id});
}

PrefixCache::Hit PrefixCache::Lookup(const std::string& name_space,
                                     absl::Span<const int32_t> prompt, int64_t max_tokens) {
  Hit hit;
  ++clock_;
  const int64_t blocks =
      std::min<int64_t>(max_tokens, static_cast<int64_t>(prompt.size())) / options_.block_tokens;
  uint64_t parent = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const auto found = index_.find(KeyOf(name_space, prompt, block, parent));
    if (found == index_.end()) break;
    parent = found->second;
    Touch(parent);
    hit.entries.push_back(parent);
    hit.pages.push_back(entries_.at(parent).page);
    hit.tokens += options_.block_tokens;
  }
  return hit;
}

absl::Status PrefixCache::CopyHidden(const Hit& hit, TensorView hidden, Backend& backend) const {
  SLIM_CHECK(hidden.rows >= hit.tokens);
  float* out = hidden.f32();
  for (const uint64_t id : hit.entries) {
    const std::vector<float>& rows = entries_.at(id).hidden;
    SLIM_CHECK(static_cast<int64_t>(rows.size()) == options_.block_tokens * hidden.cols);
    SLIM_RETURN_IF_ERROR(
        backend.CopyFromHost(rows.data(), out, static_cast<int64_t>(rows.size() * sizeof(float))));
    out += rows.size();
  }
  return absl::OkStatus();
}

absl::Status PrefixCache::Insert(const std::string& name_space, absl::Span<const int32_t> prompt,
                                 int64_t first_block, absl::Span<const KvPageRef> pages,
                                 int num_layers, TensorView hidden, Backend& backend) {
  ++clock_;
  uint64_t parent = 0;
  const int64_t end = first_block + static_cast<int64_t>(pages.size());
  for (int64_t block = 0; block < end; ++block) {
    Key key = KeyOf(name_space, prompt, block, parent);
    const auto found = index_.find(key);
    if (found != index_.end()) {
      parent = found->second;
      Touch(parent);
      continue;
    }
    if (block < first_block) return absl::OkStatus();  // its parents were evicted meanwhile
    Entry entry;
    entry.page = pages[block - first_block];
    entry.depth = block;
    entry.last_use = clock_;
    entry.bytes = num_layers * options_.slab_bytes +
                  static_cast<int64_t>(key.tokens.size() * sizeof(int32_t) * 2 + sizeof(Entry));
    if (hidden.data != nullptr) {
      const int64_t size = options_.block_tokens * hidden.cols;
      entry.hidden.resize(size);
      entry.bytes += size * static_cast<int64_t>(sizeof(float));
      SLIM_RETURN_IF_ERROR(backend.CopyToHost(hidden.f32() + block * size, entry.hidden.data(),
                                              size * static_cast<int64_t>(sizeof(float))));
    }
    // What was used in this call is newest; if only that is left, the cache is full of this prompt.
    while (bytes_ + entry.bytes > options_.capacity_bytes && !ages_.empty() &&
           std::get<0>(*ages_.begin()) < clock_) {
      EvictOldest();
    }
    if (bytes_ + entry.bytes > options_.capacity_bytes) return absl::OkStatus();
    const uint64_t id = next_id_++;
    bytes_ += entry.bytes;
    ages_.insert(Age{entry.last_use, -entry.depth, id});
    index_.emplace(key, id);
    entry.key = std::move(key);
    entries_.emplace(id, std::move(entry));
    parent = id;
  }
  return absl::OkStatus();
}

bool PrefixCache::EvictOldest() {
  if (ages_.empty()) return false;
  const uint64_t id = std::get<2>(*ages_.begin());
  ages_.erase(ages_.begin());
  const auto found = entries_.find(id);
  bytes_ -= found->second.bytes;
  index_.erase(found->second.key);
  entries_.erase(found);
  return true;
}

}  // namespace slim
