// What a read of a window looks at, as plain pointers into its ring: a read of a few bytes takes as
// long as two counts of a reference.

import CPatchbayLayout
import PatchbayLayout
import PatchbayTypes
import Synchronization

/// The words and the data of a window. Good as long as its `Window` lives: who keeps one keeps that.
@safe package struct WindowSight: @unchecked Sendable {
  package let shape: WindowShape
  @unsafe private let tagWord: UnsafeMutablePointer<Atomic<UInt64>>
  @unsafe private let frontierWord: UnsafeMutablePointer<Atomic<UInt64>>
  @unsafe private let baseWord: UnsafeMutablePointer<Atomic<UInt64>>
  @unsafe private let data: UnsafeMutableRawPointer
  private let tag: UInt64

  init(_ words: SharedWords, dataOffset: Int, shape: WindowShape, tag: RingTag) {
    self.shape = shape
    unsafe tagWord = words.word64(Int(PB_RING_TAG_AT))
    unsafe frontierWord = words.word64(Int(PB_RING_FRONTIER_AT))
    unsafe baseWord = words.word64(Int(PB_RING_BASE_AT))
    unsafe data = words.place(dataOffset, shape.ringByteCount)
    self.tag = tag.value
  }

  /// As `RingTag.isCurrent`.
  @inline(__always)
  package var isCurrent: Bool {
    // acquiring: as in `RingTag`. Pairs with TAG-BEGIN.
    unsafe tagWord.pointee.load(ordering: .acquiring) == tag
  }

  /// End of what has been written, as a position. A peer wrote it: never beyond the highest position.
  @inline(__always)
  package var frontier: Int {
    // acquiring: the data below it. Pairs with DATA-FRONTIER.
    let word = unsafe frontierWord.pointee.load(ordering: .acquiring)
    return Int(min(word, UInt64(ExtentPlan.positionLimit)))
  }

  /// The same; 0 when the ring serves another use.
  @inline(__always)
  package var currentFrontier: Int { isCurrent ? frontier : 0 }

  /// The lowest position that is still there: the look before a copy, and for people.
  @inline(__always)
  package var base: Int {
    // acquiring: of nothing that matters before a copy; with the tag after one, see `wasThere`.
    // Pairs with BASE.
    let word = unsafe baseWord.pointee.load(ordering: .acquiring)
    return Int(min(word, UInt64(ExtentPlan.positionLimit)))
  }

  /// Whether what was copied from a position on was there all the time: the look after a copy.
  @inline(__always)
  package func wasThere(_ position: Int) -> Bool {
    // acquiring (fence): no load of the copy may sink below the loads of tag and base. Pairs with
    // TAG-END and BASE.
    atomicMemoryFence(ordering: .acquiring)
    // relaxed (both): the fence above orders them.
    guard unsafe tagWord.pointee.load(ordering: .relaxed) == tag else { return false }
    // relaxed: as above.
    return unsafe baseWord.pointee.load(ordering: .relaxed) <= UInt64(position)
  }

  /// Copies what stands in a row from a position on, all looks included.
  /// - Parameter known: a frontier that the same task has seen.
  /// - Returns: how many bytes; 0 when there are none, or they went: whoever asks looks closer then.
  @inline(__always)
  @unsafe package func copy(
    from position: Int, into target: UnsafeMutableRawBufferPointer, below known: Int
  ) -> Int {
    // First, for a place far behind every blob's end plus a count may be no number.
    guard isCurrent, position < known, position >= base else { return 0 }
    let source = unsafe place(position, min(known, position + target.count))
    unsafe target.copyMemory(from: UnsafeRawBufferPointer(source))
    return wasThere(position) ? source.count : 0
  }

  /// The bytes from a position on that stand in a row, at most up to a limit.
  @inline(__always)
  @unsafe func place(_ position: Int, _ limit: Int) -> UnsafeMutableRawBufferPointer {
    let offset = shape.offset(of: position)
    let count = min(limit - position, shape.ringByteCount - offset)
    precondition(offset >= 0 && count >= 0)
    return unsafe UnsafeMutableRawBufferPointer(start: data + offset, count: count)
  }

  /// An address some way behind a position's, or behind the ring: for a hint.
  @inline(__always)
  @unsafe func ahead(of position: Int) -> UnsafeRawPointer {
    unsafe UnsafeRawPointer(data + shape.offset(of: position) + Self.prefetchDistance)
  }

  private static let prefetchDistance = 1024
}
