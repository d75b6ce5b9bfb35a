// The rings of other users' blobs that a client reads: each costs a descriptor for as long as it is
// kept, unlike a ring of its own, which is mapped and whose descriptor is closed. So a bounded number
// is kept, and one that was let go is asked for again. By generation and index, which no other ring of
// this broker ever has.

import PatchbayRing
import PatchbayTypes
import Synchronization

final class ForeignRings: Sendable {
  /// The most that one client keeps; who is reading from one keeps it until the copy is made.
  static let limit = 64

  private struct Key: Hashable {
    let generation: Generation
    let index: Int
  }

  private struct Kept {
    let ring: ForeignRing
    var stamp: UInt64
  }

  private struct State {
    var rings: [Key: Kept] = [:]
    var clock: UInt64 = 0

    mutating func tick() -> UInt64 {
      clock += 1
      return clock
    }
  }

  private let state = Mutex(State())

  /// The ring, if it is kept.
  func ring(_ generation: Generation, _ index: Int) -> ForeignRing? {
    state.withLock { state in
      let stamp = state.tick()
      let key = Key(generation: generation, index: index)
      state.rings[key]?.stamp = stamp
      return state.rings[key]?.ring
    }
  }

  /// Keeps a ring; the one that was not used for the longest time goes when there are too many.
  /// - Returns: the one that is kept: two readers may have asked at once.
  func keep(_ ring: ForeignRing, _ generation: Generation) -> ForeignRing {
    state.withLock { state in
      let key = Key(generation: generation, index: ring.index)
      if let first = state.rings[key]?.ring { return first }
      state.rings[key] = Kept(ring: ring, stamp: state.tick())
      if state.rings.count > Self.limit,
        let oldest = state.rings.min(by: { $0.value.stamp < $1.value.stamp })?.key
      {
        state.rings[oldest] = nil
      }
      return ring
    }
  }

  /// Lets the rings of a blob go.
  func drop(_ generation: Generation) {
    state.withLock { state in
      state.rings = state.rings.filter { $0.key.generation != generation }
    }
  }

  /// Lets one ring go that serves its blob no more.
  func drop(_ ring: ForeignRing, of generation: Generation) {
    state.withLock { $0.rings[Key(generation: generation, index: ring.index)] = nil }
  }

  var count: Int { state.withLock { $0.rings.count } }
}
