// Which bytes of a ring are covered, byte-exact, for blobs written in any order.
//
// Level 0 has a bit per byte, level k a bit per 64^k bytes; planes stand as the layout header draws
// them. A set bit on level k says that all its bytes are covered, whatever the levels below say.
// `mark` sets the largest whole blocks it can directly on their level and single bits only at
// ragged ends; when a word becomes full, the bit above it is set. `coveredEnd` asks the highest
// level first and falls through. So a writer that dies between two levels does no harm: its bytes
// are covered on the lower level, and the upper bit is only missing as a short cut.
//
// Every bit goes from 0 to 1 once within a use of the ring; there is no way back but the reset at
// the start of the next use, which the tag guards.

import CPatchbayLayout
import PatchbayLayout
import Synchronization

/// Where a query finds its words: shared memory, or a private copy.
protocol WrittenMapWords {
  var geometry: RingGeometry { get }
  func word(level: Int, _ index: Int) -> UInt64
  /// Bit i of the plane: some bit of level 0 has been set in page i.
  func touchedWord(_ index: Int) -> UInt64
}

extension WrittenMapWords {
  /// Where the covered bytes that begin at `offset` end; `offset` itself when it is uncovered. Not
  /// beyond `limit`, which is at most the ring's data bytes.
  func coveredEnd(from offset: Int, limit: Int) -> Int {
    var end = offset
    while end < limit {
      let next = endOfCoveredBlocks(at: end)
      guard next > end else { break }
      end = next
    }
    return min(end, limit)
  }

  /// Where the next covered byte is, or `limit`.
  func uncoveredEnd(from offset: Int, limit: Int) -> Int {
    var end = offset
    while end < limit {
      if endOfCoveredBlocks(at: end) > end { return end }
      end = endOfEmptyBlock(at: end)
    }
    return limit
  }

  /// The end of the run of covered blocks around an offset, on the highest level that has one.
  private func endOfCoveredBlocks(at offset: Int) -> Int {
    for level in stride(from: geometry.levelOffsets.count - 1, through: 1, by: -1) {
      let end = endOfRun(level: level, at: offset)
      if end > offset { return end }
    }
    guard isTouched(offset) else { return offset }
    return endOfRun(level: 0, at: offset)
  }

  /// The end of the ones that begin at the offset's bit in its word, in bytes; the offset if none.
  @inline(__always)
  private func endOfRun(level: Int, at offset: Int) -> Int {
    let shift = RingGeometry.levelShift * level
    let block = offset >> shift
    let ones = (~(word(level: level, block >> 6) >> UInt64(block & 63))).trailingZeroBitCount
    return ones == 0 ? offset : (block + min(ones, 64 - block & 63)) << shift
  }

  @inline(__always)
  private func isTouched(_ offset: Int) -> Bool {
    let page = offset / RingGeometry.page
    return touchedWord(page >> 6) >> UInt64(page & 63) & 1 == 1
  }

  /// For an uncovered offset: the end of the largest stretch that is known to be empty at once.
  private func endOfEmptyBlock(at offset: Int) -> Int {
    let page = offset / RingGeometry.page
    guard word(level: 1, page) == 0 && !isTouched(offset) else {
      return endOfEmptyLines(at: offset)
    }
    return (page + 1) * RingGeometry.page
  }

  /// Within a page that holds something: whole lines first, then single bytes.
  private func endOfEmptyLines(at offset: Int) -> Int {
    let line = offset >> 6
    if isTouched(offset) {
      let zeros = (word(level: 0, line) >> UInt64(offset & 63)).trailingZeroBitCount
      return offset + min(zeros, 64 - offset & 63)
    }
    let zeros = (word(level: 1, line >> 6) >> UInt64(line & 63)).trailingZeroBitCount
    // The line of the offset may have been filled since it was found empty.
    return max(offset, (line + min(zeros, 64 - line & 63)) << 6)
  }
}

/// The map of a ring that this process has mapped.
struct WrittenMap: WrittenMapWords, Sendable {
  let geometry: RingGeometry
  private let words: SharedWords

  init(_ words: SharedWords, _ geometry: RingGeometry) {
    self.words = words
    self.geometry = geometry
  }

  @inline(__always)
  func word(level: Int, _ index: Int) -> UInt64 {
    // acquiring: the data bytes stored before the bit was set. Pairs with DATA-MARK.
    unsafe words.word64(geometry.levelOffsets[level] + 8 * index).pointee.load(
      ordering: .acquiring)
  }

  @inline(__always)
  func touchedWord(_ index: Int) -> UInt64 {
    // acquiring: a clear bit may be stale, then the mark it announces is not visible either, and
    // the reader comes back through the doorbell. Pairs with TOUCHED.
    unsafe words.word64(geometry.touchedOffset + 8 * index).pointee.load(ordering: .acquiring)
  }

  /// Covers a range whose bytes have been stored. Any number of threads and processes may mark at
  /// once. If this process dies inside, each byte is either covered or not, and none wrongly.
  func mark(_ range: Range<Int>) {
    precondition(range.lowerBound >= 0 && range.upperBound <= geometry.dataByteCount)
    markBlocks(level: 0, range)
  }

  /// Marks blocks of one level: whole words go to the level above, ragged ends stay here.
  private func markBlocks(level: Int, _ blocks: Range<Int>) {
    let whole =
      (blocks.lowerBound + 63) >> 6..<max((blocks.lowerBound + 63) >> 6, blocks.upperBound >> 6)
    guard level + 1 < geometry.levelOffsets.count, !whole.isEmpty else {
      return setBits(level: level, blocks)
    }
    setBits(level: level, blocks.lowerBound..<whole.lowerBound << 6)
    setBits(level: level, whole.upperBound << 6..<blocks.upperBound)
    markBlocks(level: level + 1, whole)
  }

  /// Sets the bits of blocks on one level and carries each word that becomes full upward.
  private func setBits(level: Int, _ blocks: Range<Int>) {
    var next = blocks.lowerBound
    while next < blocks.upperBound {
      let index = next >> 6
      let end = min(blocks.upperBound, (index + 1) << 6)
      let ones = end - next == 64 ? UInt64.max : (1 << UInt64(end - next) - 1) << UInt64(next & 63)
      if level == 0 { touch(next) }
      setWord(level: level, index, ones)
      next = end
    }
  }

  private func setWord(level: Int, _ index: Int, _ ones: UInt64) {
    let word = unsafe words.word64(geometry.levelOffsets[level] + 8 * index)
    // releasing: the data bytes of these blocks. DATA-MARK. If the writer dies before this line
    // its bytes are uncovered; after it they are covered for good.
    unsafe word.pointee.bitwiseOr(ones, ordering: .releasing)
    // acquiring: where another writer filled the rest of the word, its data too, because the bit
    // above is set for both. Pairs with DATA-MARK.
    let now = unsafe word.pointee.load(ordering: .acquiring)
    guard now == .max, level + 1 < geometry.levelOffsets.count else { return }
    setBits(level: level + 1, index..<index + 1)
  }

  private func touch(_ offset: Int) {
    let page = offset / RingGeometry.page
    let word = unsafe words.word64(geometry.touchedOffset + 8 * (page >> 6))
    let bit = UInt64(1) << UInt64(page & 63)
    // relaxed: only spares the write below when this process can see the bit already.
    guard unsafe word.pointee.load(ordering: .relaxed) & bit == 0 else { return }
    // releasing: nothing travels with it; it must precede the level-0 bit, whose own release orders
    // it. TOUCHED.
    unsafe word.pointee.bitwiseOr(bit, ordering: .releasing)
  }
}
