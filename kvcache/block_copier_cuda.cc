#include "kvcache/block_copier_cuda.h"

#include <algorithm>
#include <utility>

namespace slim {

CudaBlockCopier::CudaBlockCopier(std::unique_ptr<CopyLink> link) : link_(std::move(link)) {
  for (int d = 0; d < kDirections; ++d) threads_[d] = std::thread([this, d] { Run(d); });
}

CudaBlockCopier::~CudaBlockCopier() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    mutex_.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
  MutexLock lock(&mutex_);
  for (auto& queue : queued_) {
    for (const Queued& queued : queue) link_->Drop(queued.after);
  }
}

void CudaBlockCopier::SetDone(Done done) {
  MutexLock lock(&mutex_);
  done_ = std::move(done);
}

void CudaBlockCopier::Enqueue(CopyRequest request) {
  // Here and not when the copy starts: what the compute stream is given later need not be waited
  // for.
  absl::StatusOr<CopyLink::Mark> after = link_->MarkCompute();
  if (after.ok()) {
    MutexLock lock(&mutex_);
    auto& queue = queued_[static_cast<int>(request.direction)];
    queue.push_back({std::move(request), *after});
    mutex_.NotifyAll();
    return;
  }
  Done done;
  {
    MutexLock lock(&mutex_);
    done = done_;
  }
  done(CopyResult{request.id, after.status(), 0, 0});
}

bool CudaBlockCopier::Cancel(uint64_t id) {
  CopyLink::Mark after = nullptr;
  {
    MutexLock lock(&mutex_);
    for (auto& queue : queued_) {
      const auto found = std::find_if(queue.begin(), queue.end(), [id](const Queued& queued) {
        return queued.request.id == id;
      });
      if (found == queue.end()) continue;
      after = found->after;
      queue.erase(found);
      break;
    }
  }
  // Not queued: on the stream, or its completion is on the way.
  if (after == nullptr) return false;
  link_->Drop(after);
  return true;
}

bool CudaBlockCopier::Take(int direction, size_t started, std::deque<Queued>* taken) {
  MutexLock lock(&mutex_);
  std::deque<Queued>& queue = queued_[direction];
  while (!stop_ && queue.empty() && started == 0) mutex_.Wait();
  if (stop_) return false;
  while (!queue.empty() && started + taken->size() < kMaxStarted) {
    taken->push_back(std::move(queue.front()));
    queue.pop_front();
  }
  return true;
}

void CudaBlockCopier::Run(int direction) {
  std::deque<Started> started;
  std::deque<Queued> taken;
  while (Take(direction, started.size(), &taken)) {
    Done done;
    {
      MutexLock lock(&mutex_);
      done = done_;
    }
    for (const Queued& queued : taken) {
      const CopyRequest& request = queued.request;
      const absl::StatusOr<CopyLink::Mark> end = link_->StartCopy(request, queued.after);
      if (!end.ok()) {
        done(CopyResult{request.id, end.status(), 0, 0});
        continue;
      }
      const int64_t bytes = request.piece_bytes * static_cast<int64_t>(request.pieces.size());
      started.push_back({CopyResult{request.id, absl::OkStatus(), bytes, 0}, *end});
    }
    taken.clear();
    if (started.empty()) continue;
    CopyResult result = std::move(started.front().result);
    const absl::StatusOr<double> seconds = link_->WaitForCopy(started.front().end);
    started.pop_front();
    if (seconds.ok()) {
      result.busy_seconds = *seconds;
    } else {
      result.status = seconds.status();
      result.bytes = 0;
    }
    done(result);
  }
  // Nothing may still be writing when the owner frees the memory.
  for (const Started& left : started) (void)link_->WaitForCopy(left.end);
}

}  // namespace slim
