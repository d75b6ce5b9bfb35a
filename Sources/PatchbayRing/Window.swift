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
  private let tag: RingTag
  private let dataOffset: Int
  private let firstTouch: FirstTouch?

  /// The window in a mapped ring of its size, which has no map.
  package init(_ ring: MappedRing, ringID: UInt64, useNumber: UInt32, shape: WindowShape) {
    precondition(ring.geometry.dataByteCount == shape.ringByteCount && !ring.geometry.hasMap)
    self.ringID = ringID
    self.useNumber = useNumber
    self.shape = shape
    dataOffset = ring.geometry.dataOffset
    words = SharedWords(ring.mapping)
    tag = RingTag(words, useNumber: useNumber, index: 0)
    firstTouch = ring.firstTouch
  }

  // MARK: Asking

  @inline(__always)
  package var isCurrent: Bool { tag.isCurrent }

  /// End of what has been written, as a position. A peer wrote it: never beyond the highest position.
  @inline(__always)
  package var frontier: Int {
    // acquiring: the data below it. Pairs with DATA-FRONTIER.
    let word = unsafe words.word64(Int(PB_RING_FRONTIER_AT)).pointee.load(ordering: .acquiring)
    return Int(min(word, UInt64(ExtentPlan.positionLimit)))
  }

  /// The lowest position that is still there: the look before a copy, and for people.
  @inline(__always)
  package var base: Int {
    // acquiring: of nothing that matters before a copy; with the tag after one, see `wasThere`.
    // Pairs with BASE.
    let word = unsafe words.word64(Int(PB_RING_BASE_AT)).pointee.load(ordering: .acquiring)
    return Int(min(word, UInt64(ExtentPlan.positionLimit)))
  }

  /// Whether what was copied from a position on was there all the time: the look after a copy.
  @inline(__always)
  package func wasThere(_ position: Int) -> Bool {
    guard tag.isStillCurrent else { return false }
    // relaxed: the fence of the line above orders it behind the copy. Pairs with BASE.
    let word = unsafe words.word64(Int(PB_RING_BASE_AT)).pointee.load(ordering: .relaxed)
    return UInt64(position) >= word
  }

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
    unsafe UnsafeRawBufferPointer(place(position, limit))
  }

  /// Copies what stands in a row from a position on, all looks included.
  /// - Returns: how many bytes; 0 when there are none, or they went: whoever asks looks closer then.
  @unsafe package func copy(from position: Int, into target: UnsafeMutableRawBufferPointer) -> Int {
    guard tag.isCurrent else { return 0 }
    let end = min(frontier, position + target.count)
    guard position < end, position >= base else { return 0 }
    let source = unsafe bytes(from: position, limit: end)
    unsafe target.copyMemory(from: source)
    return wasThere(position) ? source.count : 0
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

  @inline(__always)
  @unsafe private func place(_ position: Int, _ limit: Int) -> UnsafeMutableRawBufferPointer {
    let offset = shape.offset(of: position)
    let count = min(limit - position, shape.ringByteCount - offset)
    return unsafe words.bytes(dataOffset + offset, count)
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
    return unsafe place(positions.lowerBound, positions.upperBound)
  }

  /// Copies bytes into one segment that has been reclaimed and makes them readable. The caller rings
  /// the bell afterwards.
  package func append(_ bytes: Span<UInt8>, at position: Int) {
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
