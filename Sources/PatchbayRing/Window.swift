// The ring of a windowed blob: the only way to its base, frontier, marks and data.
//
// One thread of one process writes; everybody else copies and then asks whether what was copied was
// still there. Before the first byte of a segment is overwritten its owner says so:
//
//   publisher                                     reader
//   1 intent = next base                          1 frontier (acquire): is the byte there yet
//   2 fence; look at the subscribers once more    2 base: is it there still
//   3 base = intent                               3 copy
//   4 fence                                       4 fence (acquire)
//   5 overwrite                                   5 base: was it there all the time; else forget
//   6 frontier (release)                            the copy
//
// The fence in 4 stands between the base and the first overwritten byte, the reader's between its
// copy and its second look: who has copied a byte of the new lap finds the new base. BASE.
//
// Under `backpressure` a reader that has joined is never overtaken, for the publisher raises the
// base to no higher than the lowest position it has found in step 2. Who is just joining stores its
// position, makes itself known to the broker, fences, and looks at the intent: either it sees that it
// is too late, or the publisher's look in step 2 sees it. JOIN.

import CPatchbayLayout
import PatchbayLayout
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// A mapped ring that holds the last bytes of a blob.
@safe package final class Window: Sendable {
  package let ringID: UInt64
  package let useNumber: UInt32
  package let shape: WindowShape

  private let words: SharedWords
  /// What each read uses, without counting references: good as long as the window lives.
  package let sight: WindowSight
  private let firstTouch: FirstTouch?

  /// The window in a mapped ring of its size, which has no map.
  package init(_ ring: MappedRing, ringID: UInt64, useNumber: UInt32, shape: WindowShape) {
    precondition(ring.geometry.dataByteCount == shape.ringByteCount && !ring.geometry.hasMap)
    self.ringID = ringID
    self.useNumber = useNumber
    self.shape = shape
    words = SharedWords(ring.mapping)
    sight = WindowSight(
      words, dataOffset: ring.geometry.dataOffset, shape: shape,
      tag: RingTag(words, useNumber: useNumber, index: 0))
    firstTouch = ring.firstTouch
  }

  // MARK: Asking

  /// As of `WindowSight`.
  package var isCurrent: Bool { sight.isCurrent }
  /// As of `WindowSight`.
  package var frontier: Int { sight.frontier }
  /// As of `WindowSight`.
  package var base: Int { sight.base }
  /// As of `WindowSight`.
  package func wasThere(_ position: Int) -> Bool { sight.wasThere(position) }

  /// What the publisher is about to give up: who joins below it is too late.
  package var intent: Int {
    // sequentially consistent (fence): the position of who joins is visible before it looks.
    // JOIN, pairs with JOIN.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    // relaxed: the fence above orders it.
    let word = unsafe words.word64(Int(PB_RING_INTENT_AT)).pointee.load(ordering: .relaxed)
    return Int(min(word, UInt64(ExtentPlan.positionLimit)))
  }

  /// The bytes from a position on that stand in a row, at most up to a limit. Whether they are
  /// there is what the frontier says before, and `wasThere` after they are copied.
  @inline(__always)
  @unsafe package func bytes(from position: Int, limit: Int) -> UnsafeRawBufferPointer {
    unsafe UnsafeRawBufferPointer(sight.place(position, limit))
  }

  /// A copy of a range below the frontier; nil when some of it was gone before the copy was made.
  package func copyOut(_ range: Range<Int>) -> [UInt8]? {
    guard range.count <= shape.ringByteCount else { return nil }
    let copy = unsafe [UInt8](unsafeUninitializedCapacity: range.count) { target, count in
      while count < range.count {
        let piece = unsafe bytes(from: range.lowerBound + count, limit: range.upperBound)
        unsafe UnsafeMutableRawBufferPointer(
          rebasing: UnsafeMutableRawBufferPointer(target)[count...]
        )
        .copyMemory(from: piece)
        count += piece.count
      }
    }
    return wasThere(range.lowerBound) ? copy : nil
  }

  // MARK: Writing, by one thread at a time

  /// Says what is about to be given up. The caller looks at the subscribers afterwards.
  package func announceReclaim(to next: Int) {
    // relaxed: the fence below orders it.
    unsafe words.word64(Int(PB_RING_INTENT_AT)).pointee.store(UInt64(next), ordering: .relaxed)
    // sequentially consistent (fence): the intent is visible before the subscribers are looked at
    // for the last time. JOIN, pairs with JOIN.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }

  /// Gives everything below a position up; it may be overwritten on return.
  package func reclaim(to next: Int) {
    // relaxed: the fence below orders it.
    unsafe words.word64(Int(PB_RING_BASE_AT)).pointee.store(UInt64(next), ordering: .relaxed)
    // sequentially consistent (fence): the base is visible before the first byte that is overwritten.
    // A releasing store would order what comes before it, not what follows. BASE. If the publisher
    // dies here, bytes that are still there cannot be read any more.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }

  /// The place of bytes within one segment that has been reclaimed, to write into.
  @inline(__always)
  @unsafe package func writableBytes(_ positions: Range<Int>) -> UnsafeMutableRawBufferPointer {
    precondition(
      positions.isEmpty || positions.upperBound <= shape.segmentEnd(of: positions.lowerBound))
    if positions.upperBound <= shape.ringByteCount { firstTouch?.beforeAppend(positions) }
    return unsafe sight.place(positions.lowerBound, positions.upperBound)
  }

  /// Copies bytes into one segment that has been reclaimed and makes them readable. The caller rings
  /// the bell afterwards.
  package func append(_ bytes: Span<UInt8>, at position: Int) {
    unsafe Prefetch.forWriting(sight.ahead(of: position))
    copyIn(bytes, at: position)
    publish(to: position + bytes.count)
  }

  /// Copies bytes into one segment that has been reclaimed.
  @inline(__always)
  package func copyIn(_ bytes: Span<UInt8>, at position: Int) {
    let target = unsafe writableBytes(position..<position + bytes.count)
    unsafe bytes.withUnsafeBytes { unsafe target.copyMemory(from: $0) }
  }

  /// Makes everything below a position readable. The caller rings the bell afterwards.
  @inline(__always)
  package func publish(to position: Int) {
    // relaxed: a hint for people; nothing is read on its account.
    unsafe words.word64(Int(PB_RING_COVERED_BYTES_AT)).pointee.store(
      UInt64(position), ordering: .relaxed)
    // releasing: the data below it. DATA-FRONTIER. If the publisher dies before this line the
    // bytes are not there; after it they are.
    unsafe words.word64(Int(PB_RING_FRONTIER_AT)).pointee.store(
      UInt64(position), ordering: .releasing)
  }

  /// Where records begin, as the publisher has said.
  package var marks: RingMarks { RingMarks(words) }
}
