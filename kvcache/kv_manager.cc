#include "kvcache/kv_manager.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "kvcache/block_copier_host.h"
#include "kvcache/block_copier_verifying.h"
#include "kvcache/block_pool.h"
#include "kvcache/discrete_kv_manager.h"
#include "kvcache/unified_kv_manager.h"

namespace slim {
namespace {

absl::Status CheckOptions(const KvManager::Options& o) {
  constexpr int kMaxDimension = 1 << 16;
  const KvLayout& l = o.layout;
  if (!(l.num_kv_heads > 0 && l.num_kv_heads <= kMaxDimension && l.head_dim > 0 &&
        l.head_dim <= kMaxDimension && l.block_tokens > 0 && l.block_tokens <= kMaxDimension &&
        l.head_dim % l.pack() == 0 && l.block_tokens % l.pack() == 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV layout of ", l.num_kv_heads, " heads, ", l.head_dim, " dims, ",
                     l.block_tokens, " tokens per block: each must lie in [1, ", kMaxDimension,
                     "], dims and tokens be multiples of ", l.pack()));
  }
  if (!(o.num_layers > 0 && o.num_layers <= kMaxDimension)) {
    return absl::InvalidArgumentError(absl::StrCat("KV cache of ", o.num_layers, " layers"));
  }
  if (!(o.device_bytes >= l.slab_bytes())) {
    return absl::InvalidArgumentError(absl::StrCat("KV device_bytes ", o.device_bytes,
                                                   " hold no slab of ", l.slab_bytes(), " bytes"));
  }
  if (o.tier == KvTier::kUnified) return absl::OkStatus();
  if (o.keys_apart) {
    return absl::InvalidArgumentError("KV keys_apart is for the unified tier: copies move slabs");
  }
  if (!(o.host_bytes >= l.slab_bytes())) {
    return absl::InvalidArgumentError(absl::StrCat("KV host_bytes ", o.host_bytes,
                                                   " hold no slab of ", l.slab_bytes(), " bytes"));
  }
  // A copy that is waited for without end would keep its pages for ever.
  if (!(o.transfer_timeout > absl::ZeroDuration() && o.transfer_timeout <= absl::Hours(1))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "KV transfer_timeout ", absl::FormatDuration(o.transfer_timeout), " out of (0, 1h]"));
  }
  return absl::OkStatus();
}

BlockPool::Shape ShapeOf(const KvManager::Options& options) {
  return options.keys_apart ? BlockPool::Shape::kHalves : BlockPool::Shape::kWhole;
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvManager>> CreateKvManager(const KvManager::Options& options,
                                                           const Clock* clock,
                                                           KvMemories memories) {
  absl::Status status = CheckOptions(options);
  if (!status.ok()) return status;
  if (options.tier == KvTier::kUnified) {
    return UnifiedKvManager::Create(options, std::move(memories.device));
  }
  if (memories.copier == nullptr) memories.copier = std::make_unique<HostBlockCopier>();
  if (options.verify_transfers) {
    if (memories.device != nullptr && !memories.device->host_readable()) {
      return absl::InvalidArgumentError(
          "KV verify_transfers compares both ends of a copy, and the host cannot read the "
          "device's");
    }
    memories.copier = std::make_unique<VerifyingCopier>(std::move(memories.copier));
  }
  return DiscreteKvManager::Create(options, clock, std::move(memories));
}

absl::StatusOr<KvMemorySizes> KvMemorySizesOf(const KvManager::Options& options) {
  absl::Status status = CheckOptions(options);
  if (!status.ok()) return status;
  const int64_t slab_bytes = options.layout.slab_bytes();
  KvMemorySizes sizes;
  const BlockPool::Shape shape = ShapeOf(options);
  sizes.stride_bytes = BlockPool::Stride(slab_bytes, shape);
  sizes.device_slabs = BlockPool::SlabsIn(options.device_bytes, slab_bytes, shape);
  if (options.tier == KvTier::kDiscrete) {
    sizes.host_slabs = BlockPool::SlabsIn(options.host_bytes, slab_bytes);
  }
  return sizes;
}

absl::StatusOr<KvLayout> KvLayoutOf(const KvManager::Options& options) {
  SLIM_ASSIGN_OR_RETURN(const KvMemorySizes sizes, KvMemorySizesOf(options));
  KvLayout layout = options.layout;
  layout.values_after =
      options.keys_apart ? sizes.stride_bytes / 2 * sizes.device_slabs / layout.element_bytes() : 0;
  return layout;
}

}  // namespace slim
