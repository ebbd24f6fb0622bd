#include "engine/tokenizer/bpe.h"

#include <functional>
#include <queue>
#include <tuple>

namespace slim {
namespace {

// Up to this many bytes a scan per merge beats a queue.
constexpr size_t kShortPiece = 32;

}  // namespace

void Bpe::Encode(absl::string_view piece, std::vector<int32_t>& tokens) const {
  if (piece.size() <= kShortPiece) {
    EncodeShort(piece, tokens);
  } else {
    EncodeLong(piece, tokens);
  }
}

void Bpe::EncodeShort(absl::string_view piece, std::vector<int32_t>& tokens) const {
  int32_t symbols[kShortPiece];
  Merge ranks[kShortPiece];  // of symbols i and i + 1
  int count = 0;
  for (const char c : piece) {
    const int32_t token = byte_tokens_[static_cast<unsigned char>(c)];
    if (token >= 0) symbols[count++] = token;
  }
  const auto look_up = [&](int i) {
    const auto found = merges_.find({symbols[i], symbols[i + 1]});
    ranks[i] = found == merges_.end() ? Merge{INT32_MAX, -1} : found->second;
  };
  for (int i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    int best = 0;
    for (int i = 1; i + 1 < count; ++i) {
      if (ranks[i].rank < ranks[best].rank) best = i;
    }
    if (ranks[best].rank == INT32_MAX) break;
    symbols[best] = ranks[best].result;
    for (int i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      ranks[i] = ranks[i + 1];
    }
    --count;
    if (best > 0) look_up(best - 1);
    if (best + 1 < count) look_up(best);
  }
  tokens.insert(tokens.end(), symbols, symbols + count);
}

void Bpe::EncodeLong(absl::string_view piece, std::vector<int32_t>& tokens) const {
  struct Node {
    int32_t token;
    int32_t previous;
    int32_t next;
  };
  std::vector<Node> nodes;
  nodes.reserve(piece.size());
  for (const char c : piece) {
    const int32_t token = byte_tokens_[static_cast<unsigned char>(c)];
    if (token < 0) continue;
    const auto i = static_cast<int32_t>(nodes.size());
    nodes.push_back({token, i - 1, i + 1});
  }
  if (nodes.empty()) return;
  nodes.back().next = -1;
  // A pair that may have changed since it was queued is recognised by its two tokens.
  struct Candidate {
    int32_t rank, left, left_token, right_token, result;
    bool operator>(const Candidate& o) const {
      return std::tie(rank, left) > std::tie(o.rank, o.left);
    }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<Candidate>> queue;
  const auto consider = [&](int32_t left) {
    if (left < 0 || nodes[left].next < 0) return;
    const int32_t right = nodes[left].next;
    const auto found = merges_.find({nodes[left].token, nodes[right].token});
    if (found == merges_.end()) return;
    queue.push(
        {found->second.rank, left, nodes[left].token, nodes[right].token, found->second.result});
  };
  for (int32_t i = 0; i < static_cast<int32_t>(nodes.size()); ++i) consider(i);
  while (!queue.empty()) {
    const Candidate c = queue.top();
    queue.pop();
    Node& left = nodes[c.left];
    if (left.token != c.left_token || left.next < 0) continue;
    Node& right = nodes[left.next];
    if (right.token != c.right_token) continue;
    left.token = c.result;
    right.token = -1;  // joined: no candidate matches it any more
    left.next = right.next;
    if (left.next >= 0) nodes[left.next].previous = c.left;
    consider(left.previous);
    consider(c.left);
  }
  for (int32_t i = 0; i >= 0; i = nodes[i].next) tokens.push_back(nodes[i].token);
}

}  // namespace slim
