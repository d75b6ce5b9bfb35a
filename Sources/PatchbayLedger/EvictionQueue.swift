// Which blob leaves first when memory is short: failed ones, then the one that was read least
// recently by the ledger's own access clock. A binary heap with lazy updates: a blob stands in it at
// most once, with the stamp it had when it was put there. Stamps only grow, so an outdated entry
// comes up too early, never too late, and is put back with the stamp of the day.

import PatchbayTypes

struct EvictionQueue: Sendable {
  struct Entry: Sendable, Hashable, Comparable {
    let isFailed: Bool
    let stamp: UInt64
    let generation: Generation

    static func < (left: Self, right: Self) -> Bool {
      if left.isFailed != right.isFailed { return left.isFailed }
      return (left.stamp, left.generation) < (right.stamp, right.generation)
    }
  }

  private var heap: [Entry] = []
  var count: Int { heap.count }

  mutating func push(_ entry: Entry) {
    heap.append(entry)
    siftUp(heap.count - 1)
  }

  mutating func pop() -> Entry? {
    guard let first = heap.first, let last = heap.popLast() else { return nil }
    if !heap.isEmpty {
      heap[0] = last
      siftDown(0)
    }
    return first
  }

  /// Forgets entries of blobs that are gone.
  mutating func keep(where isWanted: (Entry) -> Bool) {
    heap.removeAll { !isWanted($0) }
    for index in stride(from: heap.count / 2 - 1, through: 0, by: -1) { siftDown(index) }
  }

  private mutating func siftUp(_ start: Int) {
    var child = start
    while child > 0 {
      let parent = (child - 1) / 2
      guard heap[child] < heap[parent] else { return }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  private mutating func siftDown(_ start: Int) {
    var parent = start
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2]
      where child < heap.count && heap[child] < heap[least] {
        least = child
      }
      guard least != parent else { return }
      heap.swapAt(parent, least)
      parent = least
    }
  }
}
