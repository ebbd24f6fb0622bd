// What the process uses, from /proc/self. Thread-safe.
#ifndef SERVER_PROCESS_STATS_H_
#define SERVER_PROCESS_STATS_H_

#include <cstdint>

namespace slim {

struct ProcessStats {
  double resident_bytes = 0;
  double cpu_seconds = 0;  // user and system
  double open_fds = 0;
  double max_fds = 0;             // soft limit
  double start_time_seconds = 0;  // since the epoch
};

// Values that cannot be read are 0.
ProcessStats ReadProcessStats();

// Raises the soft limit of open files to the hard one; returns the limit that holds now.
int64_t RaiseFileLimit();

}  // namespace slim

#endif  // SERVER_PROCESS_STATS_H_
