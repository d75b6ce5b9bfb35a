// A written map as it was at one moment, in memory of the broker's own: what a peer writes later
// does not reach it.

import CPatchbayLayout
import PatchbayLayout
import PatchbaySystem
import PatchbayTypes

/// A private copy of a written map: the upper levels whole, of level 0 the touched pages.
struct MapCopy: WrittenMapWords {
  let geometry: RingGeometry
  private(set) var levels: [[UInt64]]
  private(set) var touched: [UInt64]
  /// Words of level 0 by page of data.
  private(set) var pages: [Int: [UInt64]] = [:]

  init(
    _ descriptor: borrowing Descriptor, _ geometry: RingGeometry, upTo byteCount: Int
  ) throws(PatchbayError) {
    self.geometry = geometry
    levels = [[]]
    for level in geometry.levelOffsets.indices.dropFirst() {
      levels.append(
        try Self.words(
          descriptor, at: geometry.levelOffsets[level], count: geometry.wordCount(level: level)))
    }
    let pageCount = geometry.dataByteCount / RingGeometry.page
    touched = try Self.words(
      descriptor, at: geometry.touchedOffset, count: (pageCount + 63) / 64)
    let wordsPerPage = RingGeometry.page / RingGeometry.bitsPerWord
    for page in 0..<pageCount where touched[page >> 6] >> UInt64(page & 63) & 1 == 1 {
      guard page * RingGeometry.page < byteCount, levels[1][page] != .max else { continue }
      pages[page] = try Self.words(
        descriptor, at: geometry.levelOffsets[0] + page * wordsPerPage * RingGeometry.bytesPerWord,
        count: wordsPerPage)
    }
  }

  private static func words(
    _ descriptor: borrowing Descriptor, at offset: Int, count: Int
  ) throws(PatchbayError) -> [UInt64] {
    var bytes = [UInt8](repeating: 0, count: count * RingGeometry.bytesPerWord)
    try SharedObject.read(descriptor, at: offset, into: &bytes)
    return unsafe bytes.withUnsafeBytes { unsafe Array($0.bindMemory(to: UInt64.self)) }
  }

  func word(level: Int, _ index: Int) -> UInt64 {
    guard level == 0 else { return levels[level][index] }
    let wordsPerPage = RingGeometry.page / RingGeometry.bitsPerWord
    return pages[index / wordsPerPage]?[index % wordsPerPage] ?? 0
  }

  func touchedWord(_ index: Int) -> UInt64 { touched[index] }
}
