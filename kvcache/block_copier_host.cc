#include "kvcache/block_copier_host.h"

#include <sys/prctl.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace slim {

HostBlockCopier::HostBlockCopier(double bytes_per_second)
    : bytes_per_second_(bytes_per_second > 0 ? bytes_per_second : 0) {
  if (bytes_per_second_ > 0) thread_ = std::thread([this] { Run(); });
}

HostBlockCopier::~HostBlockCopier() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    mutex_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void HostBlockCopier::SetDone(Done done) {
  MutexLock lock(&mutex_);  // publishes `done_` to the copy thread
  done_ = std::move(done);
}

void HostBlockCopier::Enqueue(CopyRequest request) {
  if (bytes_per_second_ == 0) return done_(CopyOne(request).result);
  MutexLock lock(&mutex_);
  requests_.push_back(std::move(request));
  mutex_.NotifyAll();
}

bool HostBlockCopier::Cancel(uint64_t id) {
  MutexLock lock(&mutex_);
  auto it = std::find_if(requests_.begin(), requests_.end(),
                         [id](const CopyRequest& request) { return request.id == id; });
  // Not queued: being copied, or copied and its completion on the way.
  if (it == requests_.end()) return false;
  requests_.erase(it);
  return true;
}

HostBlockCopier::Finished HostBlockCopier::CopyOne(const CopyRequest& request) {
  const absl::Time begin = clock_.Now();
  for (const CopyPiece& piece : request.pieces) {
    std::memcpy(piece.destination, piece.source, static_cast<size_t>(request.piece_bytes));
  }
  const int64_t bytes = request.piece_bytes * static_cast<int64_t>(request.pieces.size());
  absl::Time end = clock_.Now();
  absl::Duration busy = end - begin;
  if (bytes_per_second_ > 0) {
    busy = absl::Seconds(static_cast<double>(bytes) / bytes_per_second_);
    absl::Time& link_free = link_free_[static_cast<int>(request.direction)];
    link_free = std::max(link_free, begin) + busy;
    end = std::max(end, link_free);
  }
  return {end, CopyResult{request.id, absl::OkStatus(), bytes, absl::ToDoubleSeconds(busy)}};
}

void HostBlockCopier::Run() {
  // The default slack of 50 us is as long as a whole copy takes on a fast link.
  (void)prctl(PR_SET_TIMERSLACK, 1000);
  while (true) {
    std::deque<CopyRequest> requests;
    {
      MutexLock lock(&mutex_);
      const absl::Time next = finished_.empty() ? absl::InfiniteFuture() : finished_.top().at;
      while (!stop_ && requests_.empty()) {
        const absl::Duration left = next - clock_.Now();
        if (left <= absl::ZeroDuration()) break;
        mutex_.WaitWithTimeout(left);
      }
      if (stop_) return;
      // One at a time: what is still queued can be cancelled.
      if (!requests_.empty()) {
        requests.push_back(std::move(requests_.front()));
        requests_.pop_front();
      }
    }
    for (const CopyRequest& request : requests) finished_.push(CopyOne(request));
    while (!finished_.empty() && finished_.top().at <= clock_.Now()) {
      done_(finished_.top().result);
      finished_.pop();
    }
  }
}

}  // namespace slim
