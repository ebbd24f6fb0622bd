// Bugs that a test build plants on purpose, to prove that the simulator would find them. In every
// other build Planted() is the constant false and the compiler removes the branch.
#ifndef KVCACHE_PLANTED_BUG_H_
#define KVCACHE_PLANTED_BUG_H_

namespace slim {

enum class PlantedBug {
  kNone,
  kFreeDespiteTransfer,   // a slab is free at once although a copy still touches it
  kLeakOnLostCompletion,  // a transfer that timed out never gives its freed slabs back
  kDoubleCompletion,      // a second completion of one transfer is applied again
  kSealOnePastEnd,        // one block too many is declared immutable
  kOrphansUncharged,      // pages kept for others are not charged: reservations are over-sold
  kGlobalAbort,           // one failed copy fails every sequence
  kSwappedSlabs,          // two slabs of one transfer change places
  kShortCopyAccepted,     // fewer bytes than asked for pass as done
  kInfiniteTimeout,       // a lost completion is waited for without end
  kEvictDirty,            // an unsaved slab leaves the device
  kEvictPinned,           // a slab in use leaves the device
  kStaleSlabReused,       // a slab is handed out without being zeroed
  kWriteDuringWriteBack,  // writing does not wait for the copy that reads the slab
  kFailedCopyIgnored,     // a failed copy passes as done
  kQuarantineSkipped,     // a slab is reused while a timed-out copy may still write it
  kActiveDropsUnsealed,   // an active set forgets the pages still being written
  kLostSlabServed,        // a slab whose write-back failed is served as zeroes
  kHeldForever,           // slabs freed during a copy are not given back when it ends
  kCount,
};

#ifdef SLIM_KV_PLANTED_BUGS
extern PlantedBug g_planted_bug;
inline bool Planted(PlantedBug bug) { return g_planted_bug == bug; }
#else
constexpr bool Planted(PlantedBug) { return false; }
#endif

}  // namespace slim

#endif  // KVCACHE_PLANTED_BUG_H_
