#include "kvcache/block_copier_verifying.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace slim {
namespace {

// Each step is a bijection of the state, so a single changed word always changes the hash.
uint64_t HashBytes(const void* data, int64_t bytes) {
  const char* p = static_cast<const char*>(data);
  uint64_t hash = 0x9E3779B97F4A7C15u;
  for (; bytes > 0; bytes -= 8, p += 8) {
    uint64_t word = 0;
    std::memcpy(&word, p, static_cast<size_t>(bytes < 8 ? bytes : 8));
    hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace

VerifyingCopier::VerifyingCopier(std::unique_ptr<BlockCopier> inner) : inner_(std::move(inner)) {}

void VerifyingCopier::SetDone(Done done) {
  done_ = std::move(done);
  inner_->SetDone([this](const CopyResult& result) { OnDone(result); });
}

void VerifyingCopier::Enqueue(CopyRequest request) {
  Open open{request.pieces, request.piece_bytes, {}};
  for (const CopyPiece& piece : request.pieces) {
    open.hashes.push_back(HashBytes(piece.source, request.piece_bytes));
  }
  {
    MutexLock lock(&mutex_);
    open_.emplace(request.id, std::move(open));
  }
  inner_->Enqueue(std::move(request));
}

bool VerifyingCopier::Cancel(uint64_t id) {
  if (!inner_->Cancel(id)) return false;
  MutexLock lock(&mutex_);
  open_.erase(id);
  return true;
}

void VerifyingCopier::OnDone(CopyResult result) {
  Open open;
  {
    MutexLock lock(&mutex_);
    auto it = open_.find(result.id);
    if (it != open_.end()) {
      open = std::move(it->second);
      open_.erase(it);
    }
  }
  // A request that is no longer open was cancelled or reported before: its memory is not ours.
  for (size_t i = 0; result.status.ok() && i < open.hashes.size(); ++i) {
    if (HashBytes(open.pieces[i].destination, open.piece_bytes) != open.hashes[i]) {
      result.status = absl::DataLossError(absl::StrCat("KV copy ", result.id, ": slab ", i, " of ",
                                                       open.hashes.size(), " arrived changed"));
    }
  }
  done_(result);
}

}  // namespace slim
