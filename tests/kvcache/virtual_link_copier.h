// A copier in virtual time: each direction carries one request at a time at a given bandwidth, and
// a fake clock says when it is through. Single-threaded.
#ifndef TESTS_KVCACHE_VIRTUAL_LINK_COPIER_H_
#define TESTS_KVCACHE_VIRTUAL_LINK_COPIER_H_

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/clock.h"
#include "kvcache/block_copier.h"

namespace slim {

class VirtualLinkCopier final : public BlockCopier {
 public:
  VirtualLinkCopier(FakeClock* clock, double bytes_per_second)
      : clock_(clock), bytes_per_second_(bytes_per_second) {}

  void SetDone(Done done) override { done_ = std::move(done); }
  void Enqueue(CopyRequest request) override {
    absl::Time& free = link_free_[static_cast<int>(request.direction)];
    const int64_t bytes = request.piece_bytes * static_cast<int64_t>(request.pieces.size());
    const absl::Duration busy = absl::Seconds(static_cast<double>(bytes) / bytes_per_second_);
    free = std::max(free, clock_->Now()) + busy;
    queue_.push_back({free, absl::ToDoubleSeconds(busy), std::move(request)});
  }
  bool Cancel(uint64_t) override { return false; }

  // When the next copy ends; the far future when there is none.
  absl::Time Next() const {
    absl::Time next = absl::InfiniteFuture();
    for (const Entry& e : queue_) next = std::min(next, e.end);
    return next;
  }
  // Ends what is due now.
  void Deliver() {
    for (size_t i = 0; i < queue_.size();) {
      if (queue_[i].end > clock_->Now()) {
        ++i;
        continue;
      }
      const Entry e = std::move(queue_[i]);
      queue_.erase(queue_.begin() + static_cast<int64_t>(i));
      for (const CopyPiece& piece : e.request.pieces) {
        std::memcpy(piece.destination, piece.source, static_cast<size_t>(e.request.piece_bytes));
      }
      done_({e.request.id, absl::OkStatus(),
             e.request.piece_bytes * static_cast<int64_t>(e.request.pieces.size()), e.busy});
      i = 0;
    }
  }

 private:
  struct Entry {
    absl::Time end;
    double busy = 0;
    CopyRequest request;
  };
  FakeClock* const clock_;
  const double bytes_per_second_;
  Done done_;
  absl::Time link_free_[2] = {absl::InfinitePast(), absl::InfinitePast()};
  std::vector<Entry> queue_;
};

}  // namespace slim

#endif  // TESTS_KVCACHE_VIRTUAL_LINK_COPIER_H_
