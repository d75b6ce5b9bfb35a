// Positions at which a record of the blob begins: where a reader may join that came late or lost its
// place. The last so many are kept. A reader may find one overwritten while it looks; it counts again
// afterwards and passes over what it may have misread.

import CPatchbayLayout
import PatchbayTypes
import Synchronization

/// The marks in a ring's header.
package struct RingMarks: Sendable {
  private let words: SharedWords

  init(_ words: SharedWords) { self.words = words }

  package static let keptCount = Int(PB_RING_MARK_COUNT)

  /// Adds a mark, which must not be lower than the one before. One thread at a time.
  package func add(_ position: Int) {
    let word = unsafe words.word64(Int(PB_RING_MARK_COUNT_AT))
    // relaxed: this thread's own.
    let count = unsafe word.pointee.load(ordering: .relaxed)
    // releasing: the count that came before, so who reads this mark sees that its predecessor in the
    // slot has gone. MARK.
    unsafe slot(count).pointee.store(UInt64(position), ordering: .releasing)
    // releasing: the mark. MARK. If the publisher dies before this line the mark was never made.
    unsafe word.pointee.store(count &+ 1, ordering: .releasing)
  }

  private var count: UInt64 {
    // acquiring: the marks that it counts. Pairs with MARK.
    unsafe words.word64(Int(PB_RING_MARK_COUNT_AT)).pointee.load(ordering: .acquiring)
  }

  @unsafe private func slot(_ number: UInt64) -> UnsafeMutablePointer<Atomic<UInt64>> {
    unsafe words.word64(Int(PB_RING_MARKS_AT) + Int(number % UInt64(Self.keptCount)) * 8)
  }

  /// Whether a mark was ever made.
  package var isEmpty: Bool { count == 0 }

  /// The last mark, which one can hardly fail to read before it is overwritten; nil when there is
  /// none.
  package var newest: Int? {
    for _ in 0..<Self.attemptLimit {
      let before = count
      guard before > 0 else { return nil }
      // acquiring: as in `kept`. Pairs with MARK.
      let mark = unsafe slot(before - 1).pointee.load(ordering: .acquiring)
      if before - 1 + UInt64(Self.keptCount) > count {
        return Int(min(mark, UInt64(ExtentPlan.positionLimit)))
      }
    }
    return nil
  }

  private static let attemptLimit = 1000

  /// The highest mark that is not above a position; nil when none of the kept ones is.
  package func last(notAbove position: Int) -> Int? { kept().last { $0 <= position } }

  /// The lowest mark that is not below a position; nil when none of the kept ones is, or all of them
  /// were overwritten while they were read.
  package func first(notBelow position: Int) -> Int? { kept().first { $0 >= position } }

  /// The marks that were not overwritten while they were read, the lowest first.
  private func kept() -> [Int] {
    let before = count
    let first = before - min(before, UInt64(Self.keptCount))
    let found = (first..<before).map { number in
      // acquiring: the count that was current when this mark took its slot. Pairs with MARK.
      (number, unsafe slot(number).pointee.load(ordering: .acquiring))
    }
    // Who has read what a later mark stored sees a count that reaches that mark's number.
    let after = count
    return found.filter { $0.0 &+ UInt64(Self.keptCount) > after }
      .map { Int(min($0.1, UInt64(ExtentPlan.positionLimit))) }
  }
}
