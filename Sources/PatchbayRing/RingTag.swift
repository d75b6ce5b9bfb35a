// Which use a ring serves: the word that makes reuse safe for readers that hold nothing. A reader
// compares it before and after each copy; whoever begins a use invalidates it before it resets
// anything and stores the new one last.

import CPatchbayLayout
import Synchronization

/// The tag of one use of a ring as one extent.
struct RingTag: Sendable {
  private let words: SharedWords
  private let value: UInt64

  init(_ words: SharedWords, useNumber: UInt32, index: Int) {
    self.words = words
    value = Self.value(useNumber: useNumber, index: index)
  }

  static func value(useNumber: UInt32, index: Int) -> UInt64 {
    UInt64(useNumber) << 32 | UInt64(UInt32(truncatingIfNeeded: index) &+ 1)
  }

  /// Whether the ring serves this use now: the look before a read.
  var isCurrent: Bool {
    // acquiring: the reset of frontier and map that came before the tag. Pairs with TAG-BEGIN.
    unsafe words.word64(Int(PB_RING_TAG_AT)).pointee.load(ordering: .acquiring) == value
  }

  /// Whether what was copied since `isCurrent` is this use's: the look after a read.
  var isStillCurrent: Bool {
    // acquiring (fence): no load of the copy may sink below the load of the tag. Pairs with TAG-END.
    atomicMemoryFence(ordering: .acquiring)
    // relaxed: the fence above orders it.
    return unsafe words.word64(Int(PB_RING_TAG_AT)).pointee.load(ordering: .relaxed) == value
  }

  /// Starts the use: every word of the ring's header that says what is readable is zero afterwards.
  /// - Parameters:
  ///   - isFresh: the ring has never been used, so all its bytes are zero already.
  ///   - reset: empties whatever else tells what is covered.
  func begin(isFresh: Bool, reset: () -> Void) {
    let tag = unsafe words.word64(Int(PB_RING_TAG_AT))
    if !isFresh {
      // relaxed: the fence below orders it before the reset.
      unsafe tag.pointee.store(0, ordering: .relaxed)
      // sequentially consistent (fence): the invalid tag is visible before anything is reset, and
      // before views are looked for. TAG-END.
      atomicMemoryFence(ordering: .sequentiallyConsistent)
      for word in Self.resetWords {
        // relaxed: readers meet them only after the new tag. Pairs with TAG-BEGIN.
        unsafe words.word64(word).pointee.store(0, ordering: .relaxed)
      }
      reset()
    }
    // releasing: the reset. TAG-BEGIN. If the publisher dies before this line nobody ever reads
    // the ring.
    unsafe tag.pointee.store(value, ordering: .releasing)
  }

  private static var resetWords: [Int] {
    [
      Int(PB_RING_FRONTIER_AT), Int(PB_RING_COVERED_BYTES_AT), Int(PB_RING_MARK_COUNT_AT),
      Int(PB_RING_BASE_AT), Int(PB_RING_INTENT_AT),
    ]
  }
}
