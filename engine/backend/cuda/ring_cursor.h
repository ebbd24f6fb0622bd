// Where the next piece of a ring of equal segments lies, and which segment's old use has to be over
// first. The arithmetic alone: no memory, no device. Thread rule: one thread.
#ifndef ENGINE_BACKEND_CUDA_RING_CURSOR_H_
#define ENGINE_BACKEND_CUDA_RING_CURSOR_H_

#include <cstdint>

namespace slim::cuda {

class RingCursor {
 public:
  struct Place {
    int64_t offset = 0;
    int left_segment = -1;     // the piece before was the last one in this segment; -1: stayed
    int entered_segment = -1;  // wait for its old use before writing; -1: stayed
  };

  RingCursor() = default;
  RingCursor(int segments, int64_t segment_bytes)
      : segments_(segments), segment_bytes_(segment_bytes) {}

  int segments() const { return segments_; }
  int64_t segment_bytes() const { return segment_bytes_; }
  int64_t total_bytes() const { return segments_ * segment_bytes_; }

  // bytes <= segment_bytes(); a piece lies in one segment.
  Place Take(int64_t bytes) {
    Place place;
    if (used_ + bytes > segment_bytes_) {
      place.left_segment = segment_;
      segment_ = (segment_ + 1) % segments_;
      place.entered_segment = segment_;
      used_ = 0;
    }
    place.offset = segment_ * segment_bytes_ + used_;
    used_ += bytes;
    return place;
  }

 private:
  int segments_ = 0;
  int64_t segment_bytes_ = 0;
  int segment_ = 0;
  int64_t used_ = 0;
};

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_RING_CURSOR_H_
