// Which steps run as recorded graphs: a list of launches that comes back is captured once and then
// replayed. The device is behind GraphDriver, so that the policy can be tested without one.
//
// A graph holds pointers and grid sizes, not what the pointers point to; a list with other pointers
// or sizes is another list (CommandList's words), so a graph is never run for work it does not fit.
// Thread rule: one thread.
#ifndef ENGINE_BACKEND_CUDA_GRAPH_CACHE_H_
#define ENGINE_BACKEND_CUDA_GRAPH_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/cuda/command_list.h"

namespace slim::cuda {

class GraphDriver {
 public:
  using Graph = void*;

  virtual ~GraphDriver() = default;
  // Launches the list as it is.
  virtual absl::Status Run(const CommandList& list) = 0;
  // Records the list without running it. A failure has put nothing on the stream and broken
  // nothing.
  virtual absl::StatusOr<Graph> Capture(const CommandList& list) = 0;
  virtual absl::Status Launch(Graph graph) = 0;
  // The graph may still be running.
  virtual void Destroy(Graph graph) = 0;
};

class GraphCache {
 public:
  struct Stats {
    int64_t plain = 0;     // lists launched one by one
    int64_t replayed = 0;  // lists run as a graph
    int64_t captured = 0;
    int64_t capture_failures = 0;
    int64_t evicted = 0;
  };

  // `driver` is borrowed and outlives the cache. At most max_lists lists are remembered; the one
  // that was not used for longest goes first.
  GraphCache(GraphDriver* driver, size_t max_lists) : driver_(driver), max_lists_(max_lists) {}
  ~GraphCache();
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  // Puts the list's work on the stream: the first time, and when it cannot be captured, launch by
  // launch; from the second time on as a graph. The errors of the driver's Run and Launch.
  absl::Status Run(const CommandList& list);

  const Stats& stats() const { return stats_; }

 private:
  struct Entry {
    std::vector<uint64_t> words;
    size_t hash = 0;
    GraphDriver::Graph graph = nullptr;
  };
  using Entries = std::list<Entry>;  // last used first

  absl::Status RunPlain(const CommandList& list);
  void Evict();

  GraphDriver* const driver_;
  const size_t max_lists_;
  Entries entries_;
  absl::flat_hash_map<size_t, Entries::iterator> by_hash_;
  bool can_capture_ = true;
  Stats stats_;
};

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_GRAPH_CACHE_H_
