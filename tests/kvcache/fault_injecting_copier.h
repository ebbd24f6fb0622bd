// A copier for tests that copies nothing until told to, and then does what it is told: complete,
// fail, shorten, corrupt, complete twice, forget. Single-threaded; the test keeps a pointer while
// the manager owns it.
#ifndef TESTS_KVCACHE_FAULT_INJECTING_COPIER_H_
#define TESTS_KVCACHE_FAULT_INJECTING_COPIER_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kvcache/block_copier.h"

namespace slim {

enum class CopyFault { kNone, kFail, kShorten, kCorrupt, kDuplicate, kForget };

class FaultInjectingCopier final : public BlockCopier {
 public:
  struct Pending {
    CopyRequest request;
    bool cancelled = false;  // Cancel answered false: it will still touch the memory
    bool forgotten = false;  // never completes by itself
  };

  void SetDone(Done done) override { done_ = std::move(done); }
  void Enqueue(CopyRequest request) override { pending_.push_back({std::move(request)}); }

  // Stops a copy that was forgotten or that `cancel_stops` names; leaves others under way.
  bool Cancel(uint64_t id) override {
    ++cancels_;
    for (size_t i = 0; i < pending_.size(); ++i) {
      Pending& p = pending_[i];
      if (p.request.id != id) continue;
      if (on_fault) on_fault(p.request);
      if (!p.forgotten && !(cancel_stops && cancel_stops(p.request))) {
        p.cancelled = true;
        return false;
      }
      if (late_after_cancel) late_.push_back({id, absl::OkStatus(), BytesOf(p.request), 0});
      pending_.erase(pending_.begin() + static_cast<int64_t>(i));
      return true;
    }
    return false;  // its completion is on the way
  }

  size_t pending() const { return pending_.size(); }
  const Pending& at(size_t i) const { return pending_[i]; }
  size_t late() const { return late_.size(); }
  int64_t cancels() const { return cancels_; }
  bool any_cancelled() const {
    for (const Pending& p : pending_) {
      if (p.cancelled) return true;
    }
    return false;
  }

  // Ends the i-th pending copy.
  void Complete(size_t i, CopyFault fault = CopyFault::kNone) {
    if (fault == CopyFault::kForget) {
      pending_[i].forgotten = true;
      if (on_fault) on_fault(pending_[i].request);
      return;
    }
    const CopyRequest request = std::move(pending_[i].request);
    pending_.erase(pending_.begin() + static_cast<int64_t>(i));
    if (fault != CopyFault::kNone && fault != CopyFault::kDuplicate && on_fault) on_fault(request);
    CopyResult result{request.id, absl::OkStatus(), BytesOf(request), 1e-6};
    if (fault == CopyFault::kFail) {
      result.status = absl::UnavailableError("injected");
      result.bytes = 0;
    } else {
      for (size_t k = 0; k < request.pieces.size(); ++k) {
        const bool cut = fault == CopyFault::kShorten && k + 1 == request.pieces.size();
        if (cut) break;
        std::memcpy(request.pieces[k].destination, request.pieces[k].source,
                    static_cast<size_t>(request.piece_bytes));
      }
      if (fault == CopyFault::kShorten) result.bytes -= request.piece_bytes;
      if (fault == CopyFault::kCorrupt) {
        static_cast<char*>(request.pieces.back().destination)[0] ^= 4;
      }
    }
    done_(result);
    if (fault == CopyFault::kDuplicate) done_(result);
  }
  // Reports a completion of a copy that was cancelled long ago; its memory is not touched.
  void DeliverLate(size_t i) {
    const CopyResult result = late_[i];
    late_.erase(late_.begin() + static_cast<int64_t>(i));
    done_(result);
  }

  // Set by the test. on_fault: called with each request that will not end well.
  std::function<void(const CopyRequest&)> on_fault;
  std::function<bool(const CopyRequest&)> cancel_stops;
  bool late_after_cancel = false;

 private:
  static int64_t BytesOf(const CopyRequest& request) {
    return request.piece_bytes * static_cast<int64_t>(request.pieces.size());
  }

  Done done_;
  std::vector<Pending> pending_;
  std::vector<CopyResult> late_;
  int64_t cancels_ = 0;
};

}  // namespace slim

#endif  // TESTS_KVCACHE_FAULT_INJECTING_COPIER_H_
