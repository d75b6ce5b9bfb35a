// Which use a ring serves: the word that makes reuse safe for readers that hold nothing. A reader
// compares it before and after each copy; the broker, which begins each use (`RingUse`), invalidates
// it before it resets anything and stores the new one last.

import CPatchbayLayout
import Synchronization

/// The tag of one use of a ring as one extent.
struct RingTag: Sendable {
  private let words: SharedWords
  let value: UInt64

  init(_ words: SharedWords, useNumber: UInt32, index: Int) {
    self.words = words
    value = Self.value(useNumber: useNumber, index: index)
  }

  static func value(useNumber: UInt32, index: Int) -> UInt64 {
    UInt64(useNumber) << 32 | UInt64(UInt32(truncatingIfNeeded: index) &+ 1)
  }

  /// Whether the ring serves this use now: the look before a read.
  @inline(__always)
  var isCurrent: Bool {
    // acquiring: the reset of frontier and map that came before the tag. Pairs with TAG-BEGIN.
    unsafe words.word64(Int(PB_RING_TAG_AT)).pointee.load(ordering: .acquiring) == value
  }

  /// Whether what was copied since `isCurrent` is this use's: the look after a read.
  @inline(__always)
  var isStillCurrent: Bool {
    // acquiring (fence): no load of the copy may sink below the load of the tag. Pairs with TAG-END.
    atomicMemoryFence(ordering: .acquiring)
    // relaxed: the fence above orders it.
    return unsafe words.word64(Int(PB_RING_TAG_AT)).pointee.load(ordering: .relaxed) == value
  }
}
