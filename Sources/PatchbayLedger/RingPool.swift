// Rings that serve no blob and are kept for the next one: their memory is there already, and clients
// may still have it mapped, so a blob in a ring of the pool is written several times as fast as in a
// fresh one. A ring comes here when nobody can write into it any more and nobody has its blob open.
// The pool is charged as everything else, it is the first to go when memory is short, and what nobody
// took for a while is given back.

import PatchbayTypes

/// What a ring must have in common with another to serve in its place.
struct RingKind: Hashable, Sendable {
  let access: Access
  let dataByteCount: Int
  let hasMap: Bool
}

struct RingPool: Sendable {
  struct Rest {
    let kind: RingKind
    let byteCount: Int
    let since: Int64
    /// Its place in the order of coming.
    let number: UInt64
  }

  /// The rings of one kind in the order of coming.
  private struct Stack {
    private var rings: [RingID] = []
    private var head = 0

    var isEmpty: Bool { head == rings.count }
    /// The one that came last, whose memory is the warmest.
    var last: RingID? { isEmpty ? nil : rings.last }

    mutating func append(_ ring: RingID) { rings.append(ring) }
    mutating func removeLast() { rings.removeLast() }

    mutating func removeFirst() {
      head += 1
      // Each is moved once at most.
      guard head * 2 > rings.count else { return }
      rings.removeFirst(head)
      head = 0
    }
  }

  private var stacks: [RingKind: Stack] = [:]
  private(set) var resting: [RingID: Rest] = [:]
  /// In the order of coming; those that were taken meanwhile are passed over.
  private var order: [(ring: RingID, number: UInt64)] = []
  private var head = 0
  private var lastNumber: UInt64 = 0
  private(set) var byteCount = 0

  var count: Int { resting.count }

  mutating func add(_ ring: RingID, _ kind: RingKind, byteCount: Int, at moment: Int64) {
    lastNumber += 1
    resting[ring] = Rest(kind: kind, byteCount: byteCount, since: moment, number: lastNumber)
    stacks[kind, default: Stack()].append(ring)
    order.append((ring, lastNumber))
    self.byteCount += byteCount
  }

  /// The ring of a kind that came last.
  mutating func take(_ kind: RingKind) -> RingID? {
    guard let ring = stacks[kind]?.last else { return nil }
    stacks[kind]?.removeLast()
    remove(ring)
    return ring
  }

  /// The ring that came first: of all, so of its kind, too.
  mutating func takeOldest() -> RingID? {
    guard head < order.count, let kind = resting[order[head].ring]?.kind else { return nil }
    let ring = order[head].ring
    stacks[kind]?.removeFirst()
    remove(ring)
    return ring
  }

  /// When the ring came that came first.
  var oldest: Int64? { head < order.count ? resting[order[head].ring]?.since : nil }

  private mutating func remove(_ ring: RingID) {
    guard let rest = resting.removeValue(forKey: ring) else { return }
    byteCount -= rest.byteCount
    if stacks[rest.kind]?.isEmpty == true { stacks[rest.kind] = nil }
    skipTaken()
  }

  /// Keeps one that rests at the head.
  private mutating func skipTaken() {
    while head < order.count, resting[order[head].ring]?.number != order[head].number { head += 1 }
    guard head > 64, head * 2 > order.count else { return }
    order.removeFirst(head)
    head = 0
  }
}
