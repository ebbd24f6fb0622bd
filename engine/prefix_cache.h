// Remembers the first segment of finished prompts, block by block, so that a request that begins
// with the same tokens computes only the rest.
//
// What may be shared is a pure function of the prefix: K and V of segment 0's layers, and the
// hidden states at the input of its last layer (the decision layer). Nothing deeper is, since which
// blocks survive depends on the tokens that follow. An entry is one whole block, found by its
// parent entry and its very tokens, so a hit is exact and no hash collision can mix prompts up.
// Namespaces (cache salt, depth of segment 0) never share entries.
//
// Bounded in bytes; the entry used longest ago goes first, children before their parents.
// Thread rule: only the worker thread.
#ifndef ENGINE_PREFIX_CACHE_H_
#define ENGINE_PREFIX_CACHE_H_

#include <cstdint>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "kvcache/kv_manager.h"

namespace slim {

class PrefixCache {
 public:
  struct Options {
    int64_t capacity_bytes = 0;  // 0: nothing is ever remembered
    int block_tokens = 0;
    int64_t slab_bytes = 0;
  };
  struct Hit {
    int64_t tokens = 0;             // a multiple of block_tokens
    std::vector<KvPageRef> pages;   // of segment 0, ascending
    std::vector<uint64_t> entries;  // for CopyHidden; valid until the next Insert or eviction
  };

  explicit PrefixCache(const Options& options) : options_(options) {}

  // The longest remembered prefix of prompt[0, max_tokens), and marks it as just used.
  Hit Lookup(const std::string& name_space, absl::Span<const int32_t> prompt, int64_t max_tokens);

  // Copies the hidden states of a hit into rows [0, hit.tokens) of `hidden` [tokens, d].
  absl::Status CopyHidden(const Hit& hit, TensorView hidden, Backend& backend) const;

  // Remembers blocks [first_block, first_block + pages.size()) of the prompt. `hidden` holds the
  // boundary rows of the prompt from row 0 on, or is empty for a full-depth (dense) segment. Blocks
  // whose parents are no longer remembered, and those remembered already, are left out.
  absl::Status Insert(const std::string& name_space, absl::Span<const int32_t> prompt,
                      int64_t first_block, absl::Span<const KvPageRef> pages, int num_layers,
                      TensorView hidden, Backend& backend);

  // Forgets the entry used longest ago; false when there is none.
  bool EvictOldest();

  int64_t bytes() const { return bytes_; }
  int64_t num_blocks() const { return static_cast<int64_t>(entries_.size()); }

 private:
  struct Key {
    uint64_t parent = 0;     // 0: first block of a prompt
    std::string name_space;  // of first blocks; empty for the others
    std::vector<int32_t> tokens;
    bool operator==(const Key& o) const {
      return parent == o.parent && name_space == o.name_space && tokens == o.tokens;
    }
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.parent, key.name_space, key.tokens);
    }
  };
  struct Entry {
    Key key;
    KvPageRef page;
    std::vector<float> hidden;  // [block_tokens, d] or empty
    int64_t depth = 0;
    uint64_t last_use = 0;
    int64_t bytes = 0;
  };
  // Oldest first; of one age the deepest first, so that a child goes before its parent.
  using Age = std::tuple<uint64_t, int64_t, uint64_t>;  // last use, -depth, entry id

  Key KeyOf(const std::string& name_space, absl::Span<const int32_t> prompt, int64_t block,
            uint64_t parent) const;
  void Touch(uint64_t id);

  const Options options_;
  uint64_t next_id_ = 1;
  uint64_t clock_ = 0;  // counts lookups and inserts
  int64_t bytes_ = 0;
  absl::flat_hash_map<Key, uint64_t> index_;
  absl::flat_hash_map<uint64_t, Entry> entries_;
  std::set<Age> ages_;
};

}  // namespace slim

#endif  // ENGINE_PREFIX_CACHE_H_
