// One ring in its role as part of a blob: the only way to its tag, frontier, map and data.
//
// Positions outside, offsets inside: every method takes positions of the blob, this file turns
// them into offsets of the ring. A publisher copies, then covers; a subscriber asks what is covered,
// copies, then asks whether the ring still is what it was (the tag); only then are the bytes its own.

import CPatchbayLayout
import PatchbayLayout
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// A mapped ring that holds the blob positions `range`.
@safe package final class Extent: Sendable {
  package let index: Int
  package let ringID: UInt64
  package let useNumber: UInt32
  /// The blob positions this ring can hold; the last one may be longer than the blob.
  package let range: Range<Int>
  package let geometry: RingGeometry

  private let words: SharedWords
  private let tag: RingTag
  private let map: WrittenMap?
  /// Nil for readers.
  private let firstTouch: FirstTouch?

  /// The extent in a mapped ring.
  package init(
    _ ring: MappedRing, index: Int, start: Int, ringID: UInt64, useNumber: UInt32
  ) {
    geometry = ring.geometry
    self.index = index
    self.ringID = ringID
    self.useNumber = useNumber
    range = start..<start + geometry.dataByteCount
    words = SharedWords(ring.mapping)
    tag = RingTag(words, useNumber: useNumber, index: index)
    map = geometry.hasMap ? WrittenMap(words, geometry) : nil
    firstTouch = ring.firstTouch
  }

  // MARK: Tag

  /// Whether the ring serves this use now: the look before a read.
  package var isCurrent: Bool { tag.isCurrent }

  /// Whether what was copied since `isCurrent` is this use's: the look after a read.
  package var isStillCurrent: Bool { tag.isStillCurrent }

  /// Where records begin, as the publisher has said: in the ring of a blob's first extent.
  package var marks: RingMarks { RingMarks(words) }

  // MARK: Asking

  /// End of the contiguous prefix, as a position of the blob; never beyond the ring.
  package var frontier: Int {
    // acquiring: the data below it. Pairs with DATA-FRONTIER.
    let shared = unsafe words.word64(Int(PB_RING_FRONTIER_AT)).pointee.load(ordering: .acquiring)
    // A peer wrote it: a number beyond the ring is cut, so it can never lead a copy outside.
    return range.lowerBound + Int(min(shared, UInt64(geometry.dataByteCount)))
  }

  /// Where the covered bytes that begin at `position` end; `position` when it is uncovered.
  package func coveredEnd(from position: Int, limit: Int) -> Int {
    let limit = min(limit, range.upperBound)
    let frontier = self.frontier
    let start = position < frontier ? frontier : position
    guard start < limit, let map else { return max(position, min(start, limit)) }
    return range.lowerBound
      + map.coveredEnd(from: start - range.lowerBound, limit: limit - range.lowerBound)
  }

  /// Where the next covered byte at or after `position` is, or `limit`.
  package func uncoveredEnd(from position: Int, limit: Int) -> Int {
    let limit = min(limit, range.upperBound)
    guard position >= frontier else { return position }
    guard let map else { return limit }
    return range.lowerBound
      + map.uncoveredEnd(from: position - range.lowerBound, limit: limit - range.lowerBound)
  }

  // MARK: Reading

  /// The covered bytes of a range. Valid while this object lives; whether they are still this
  /// use's is what `isStillCurrent` tells afterwards.
  @unsafe package func bytes(_ positions: Range<Int>) -> UnsafeRawBufferPointer {
    unsafe UnsafeRawBufferPointer(writableBytes(positions))
  }

  // MARK: Writing

  /// The place of a range of positions, to copy into. Uncovered until `cover` or `coverPrefix`.
  @unsafe package func writableBytes(_ positions: Range<Int>) -> UnsafeMutableRawBufferPointer {
    precondition(positions.lowerBound >= range.lowerBound)
    return unsafe words.bytes(
      geometry.dataOffset + positions.lowerBound - range.lowerBound, positions.count)
  }

  /// Copies bytes to their place; they are uncovered until they are covered.
  package func copyIn(_ bytes: Span<UInt8>, at position: Int) {
    touch(position..<position + bytes.count)
    let target = unsafe writableBytes(position..<position + bytes.count)
    unsafe bytes.withUnsafeBytes { unsafe target.copyMemory(from: $0) }
  }

  /// Gives a range that will be written its memory, in a fresh ring.
  package func touch(_ positions: Range<Int>) {
    guard let firstTouch, !positions.isEmpty else { return }
    let offsets = positions.lowerBound - range.lowerBound..<positions.upperBound - range.lowerBound
    if map == nil { firstTouch.beforeAppend(offsets) } else { firstTouch.beforeWrite(offsets) }
  }

  /// Covers a range that has been copied in, in a ring with a map. Any thread or process of the
  /// blob's publishers, for ranges that nobody else writes. The caller rings the doorbell, with its
  /// fence, afterwards.
  package func cover(_ positions: Range<Int>) {
    guard !positions.isEmpty else { return }
    precondition(
      positions.lowerBound >= range.lowerBound && positions.upperBound <= range.upperBound)
    guard let map else { preconditionFailure("a ring without a map is covered by its frontier") }
    let offsets = positions.lowerBound - range.lowerBound..<positions.upperBound - range.lowerBound
    map.mark(offsets)
    addToHint(positions.count)
    advanceFrontier(in: map)
  }

  /// Covers everything below a position, in a ring without a map. One thread at a time.
  package func coverPrefix(to position: Int) {
    precondition(map == nil && range.contains(position - 1) && position >= frontier)
    addToHint(position - frontier)
    // releasing: the data below it. DATA-FRONTIER. If the publisher dies before this line the
    // bytes are uncovered; after it they are covered for good.
    unsafe words.word64(Int(PB_RING_FRONTIER_AT)).pointee.store(
      UInt64(position - range.lowerBound), ordering: .releasing)
  }

  private func addToHint(_ byteCount: Int) {
    // relaxed: a hint for people; nothing is read on its account.
    unsafe words.word64(Int(PB_RING_COVERED_BYTES_AT)).pointee.wrappingAdd(
      UInt64(byteCount), ordering: .relaxed)
  }

  /// Moves the frontier over what is covered. Every writer fences and looks after its mark, wherever
  /// the frontier is, and again after a move: of two writers at least one sees the other's mark, so
  /// the frontier never stops short of covered bytes, and the next mark makes good what a writer
  /// left undone that died between its mark and its look.
  private func advanceFrontier(in map: WrittenMap) {
    let word = unsafe words.word64(Int(PB_RING_FRONTIER_AT))
    while true {
      // sequentially consistent (fence): this mark (or this move) before the loads below, against
      // the same fence of another writer. LOOK-AGAIN, pairs with LOOK-AGAIN.
      atomicMemoryFence(ordering: .sequentiallyConsistent)
      // acquiring: what the mover of the frontier saw. Pairs with DATA-FRONTIER.
      let seen = unsafe word.pointee.load(ordering: .acquiring)
      let now = Int(min(seen, UInt64(geometry.dataByteCount)))
      let end = map.coveredEnd(from: now, limit: geometry.dataByteCount)
      guard end > now else { return }
      raiseFrontier(to: UInt64(end))
    }
  }

  /// Moves the frontier to `end` unless another has moved it further: it never goes back.
  private func raiseFrontier(to end: UInt64) {
    // releasing: the data below it, which this writer has seen marked. DATA-FRONTIER.
    _ = unsafe words.word64(Int(PB_RING_FRONTIER_AT)).pointee.max(end, ordering: .releasing)
  }
}
