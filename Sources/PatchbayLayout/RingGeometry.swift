// Where things stand inside a ring, as arithmetic over the layout header. Publisher, subscriber and
// broker compute it from the same two facts, so no size is ever taken from the shared bytes.

import CPatchbayLayout
import PatchbayTypes

/// The places of everything in a ring of this many data bytes.
package struct RingGeometry: Sendable, Hashable {
  /// Whole pages.
  package let dataByteCount: Int
  package let hasMap: Bool
  /// Byte offset of each level's first word, level 0 first; empty without a map.
  package let levelOffsets: [Int]
  /// Byte offset of the touched plane, 0 without a map.
  package let touchedOffset: Int
  package let dataOffset: Int

  package static let page = Int(PB_PAGE)
  package static let bitsPerWord = Int(PB_MAP_FANOUT)
  package static let bytesPerWord = MemoryLayout<UInt64>.size
  /// log2 of `bitsPerWord`: each level counts blocks of 2^(6 level) bytes.
  package static let levelShift = 6

  /// - Throws: `protocolViolation` unless the size is 1 page to 1 TiB, in whole pages.
  package init(dataByteCount: Int, hasMap: Bool) throws(PatchbayError) {
    guard dataByteCount >= Self.page, dataByteCount % Self.page == 0, dataByteCount <= 1 << 40
    else {
      throw PatchbayError(
        .protocolViolation,
        "A ring of \(dataByteCount) data bytes was named; rings have whole pages of "
          + "\(Self.page), from one page to 1 TiB.")
    }
    self.dataByteCount = dataByteCount
    self.hasMap = hasMap
    var next = Int(PB_RING_HEADER_BYTES)
    var offsets: [Int] = []
    var touched = 0
    if hasMap {
      let levelCount = Self.levelCount(of: dataByteCount)
      offsets = Array(repeating: 0, count: levelCount)
      for level in stride(from: levelCount - 1, through: 0, by: -1) {
        if level == 1 {
          touched = next
          next += Self.planeByteCount(bits: dataByteCount / Int(PB_TOUCHED_BYTES))
        }
        if level == 0 { next = Self.roundedToPage(next) }
        offsets[level] = next
        next += Self.planeByteCount(bits: Self.bitCount(level: level, of: dataByteCount))
      }
    }
    levelOffsets = offsets
    touchedOffset = touched
    dataOffset = Self.roundedToPage(next)
  }

  /// The size of the whole shared object.
  package var objectByteCount: Int { dataOffset + dataByteCount }

  /// How many words a level has.
  package func wordCount(level: Int) -> Int {
    Self.planeByteCount(bits: Self.bitCount(level: level, of: dataByteCount)) / Self.bytesPerWord
  }

  package static func roundedToPage(_ byteCount: Int) -> Int {
    (byteCount + page - 1) / page * page
  }

  private static func bitCount(level: Int, of dataByteCount: Int) -> Int {
    let shift = level * levelShift
    return (dataByteCount + (1 << shift) - 1) >> shift
  }

  private static func planeByteCount(bits: Int) -> Int {
    (bits + bitsPerWord - 1) / bitsPerWord * bytesPerWord
  }

  /// Levels until one word holds all; at least the byte and the line level.
  private static func levelCount(of dataByteCount: Int) -> Int {
    var level = 1
    while bitCount(level: level, of: dataByteCount) > bitsPerWord { level += 1 }
    return level + 1
  }
}
