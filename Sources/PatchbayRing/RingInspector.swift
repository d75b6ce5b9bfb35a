// How the broker looks at rings: through their descriptor, into private copies. It never maps what
// a client can resize, and takes no geometry from the bytes; a ring that lies harms its own blob.

import CPatchbayLayout
import PatchbayLayout
import PatchbaySystem
import PatchbayTypes

package enum RingInspector {
  /// The frontier and the count of covered bytes that a ring's publishers tell: offsets, of a window
  /// positions.
  /// - Parameter limit: cuts both: a peer wrote them.
  package static func hints(
    _ descriptor: borrowing Descriptor, limit: Int
  ) throws(PatchbayError) -> (frontier: Int, coveredByteCount: Int) {
    var header = [UInt8](repeating: 0, count: Int(PB_RING_COVERED_BYTES_AT) + 8)
    try SharedObject.read(descriptor, at: 0, into: &header)
    func number(_ at: Int) -> Int {
      let word = header[at..<at + 8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      return Int(min(word, UInt64(limit)))
    }
    return (number(Int(PB_RING_FRONTIER_AT)), number(Int(PB_RING_COVERED_BYTES_AT)))
  }

  /// How many of the first `byteCount` bytes are covered, and the first uncovered ranges, as
  /// offsets: by the map where there is one, else by the frontier.
  package static func coverage(
    _ descriptor: borrowing Descriptor, _ geometry: RingGeometry, upTo byteCount: Int,
    missingLimit: Int
  ) throws(PatchbayError) -> (coveredByteCount: Int, missing: [Range<Int>]) {
    let byteCount = min(byteCount, geometry.dataByteCount)
    guard geometry.hasMap else {
      let frontier = try hints(descriptor, limit: byteCount).frontier
      return (frontier, frontier < byteCount ? [frontier..<byteCount] : [])
    }
    let copy = try MapCopy(descriptor, geometry, upTo: byteCount)
    var covered = 0
    var missing: [Range<Int>] = []
    var at = 0
    while at < byteCount {
      let end = copy.coveredEnd(from: at, limit: byteCount)
      covered += end - at
      guard end < byteCount else { break }
      at = copy.uncoveredEnd(from: end, limit: byteCount)
      if missing.count < missingLimit { missing.append(end..<at) }
    }
    return (covered, missing)
  }
}

/// A private copy of a written map: the upper levels whole, of level 0 the touched pages.
private struct MapCopy: WrittenMapWords {
  let geometry: RingGeometry
  private var levels: [[UInt64]]
  private var touched: [UInt64]
  /// Words of level 0 by page of data.
  private var pages: [Int: [UInt64]] = [:]

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
