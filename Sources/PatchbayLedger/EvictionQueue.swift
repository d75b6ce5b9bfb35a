// Which blob leaves first when memory is short: failed ones, then the one that was read least
// recently by the ledger's own access clock. A binary heap with lazy updates: a blob stands in it at
// most once, with the stamp it had when it was put there. Stamps only grow, so an outdated entry
// comes up too early, never too late, and is put back with the stamp of the day.

import PatchbayTypes

struct EvictionEntry: Sendable, Hashable, Comparable {
  let isFailed: Bool
  let stamp: UInt64
  let generation: Generation

  static func < (left: Self, right: Self) -> Bool {
    if left.isFailed != right.isFailed { return left.isFailed }
    return (left.stamp, left.generation) < (right.stamp, right.generation)
  }
}

typealias EvictionQueue = Heap<EvictionEntry>
