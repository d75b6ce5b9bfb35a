// The written map of a whole extent as it was at one moment, for keeping elsewhere: on disk while the
// extent is not in memory. By it the broker fills a ring again, and a reader knows what may be read.

import CPatchbayLayout
import PatchbayLayout
import PatchbaySystem
import PatchbayTypes

/// What was covered of a ring with a map, in offsets.
package struct MapSnapshot: Sendable {
  private let map: MapCopy

  package var geometry: RingGeometry { map.geometry }

  /// A private copy of a ring's map.
  /// - Throws: `inputOutput`.
  package init(
    _ ring: borrowing Descriptor, _ geometry: RingGeometry
  ) throws(PatchbayError) {
    map = try MapCopy(ring, geometry, 0..<geometry.dataByteCount)
  }

  /// A snapshot from its words.
  /// - Throws: `corrupt` when they are none of a ring of this size.
  package init(_ geometry: RingGeometry, words: [UInt64]) throws(PatchbayError) {
    map = try MapCopy(geometry, allWords: words)
  }

  /// All that there is to keep.
  package var words: [UInt64] { map.allWords }

  /// Words that a map of this size has at most, with a number for each page of data.
  package static func wordLimit(_ geometry: RingGeometry) -> Int {
    let upper = geometry.levelOffsets.indices.dropFirst()
    let pageCount = geometry.dataByteCount / RingGeometry.page
    return upper.reduce(0) { $0 + geometry.wordCount(level: $1) } + (pageCount + 63) / 64
      + pageCount * (RingGeometry.page / RingGeometry.bitsPerWord + 1)
  }

  /// Where the covered bytes that begin at an offset end; the offset itself when it is uncovered.
  package func coveredEnd(from offset: Int, limit: Int) -> Int {
    map.coveredEnd(from: offset, limit: limit)
  }

  /// Where the next covered byte is, or `limit`.
  package func uncoveredEnd(from offset: Int, limit: Int) -> Int {
    map.uncoveredEnd(from: offset, limit: limit)
  }

  /// The runs of covered bytes within some offsets, in order.
  package func runs(in offsets: Range<Int>) -> [Range<Int>] {
    var runs: [Range<Int>] = []
    var at = offsets.lowerBound
    while at < offsets.upperBound {
      let start = uncoveredEnd(from: at, limit: offsets.upperBound)
      at = coveredEnd(from: start, limit: offsets.upperBound)
      if start < at { runs.append(start..<at) }
    }
    return runs
  }

  /// How many of the first `byteCount` bytes are covered, and the first uncovered ranges.
  package func coverage(
    upTo byteCount: Int, missingLimit: Int
  ) -> (coveredByteCount: Int, missing: [Range<Int>]) {
    let byteCount = min(byteCount, geometry.dataByteCount)
    var covered = 0
    var missing: [Range<Int>] = []
    var at = 0
    while at < byteCount {
      let end = coveredEnd(from: at, limit: byteCount)
      covered += end - at
      guard end < byteCount else { break }
      at = uncoveredEnd(from: end, limit: byteCount)
      if missing.count < missingLimit { missing.append(end..<at) }
    }
    return (covered, missing)
  }

  /// Gives a ring that nobody was granted yet, and whose bytes are all in place, this map.
  /// - Throws: `inputOutput`; the ring is worth nothing then.
  package func put(into ring: borrowing Descriptor) throws(PatchbayError) {
    let found = coverage(upTo: geometry.dataByteCount, missingLimit: 1)
    try RingCopy.put(map, ring)
    try RingCopy.put(
      UInt64(found.missing.first?.lowerBound ?? geometry.dataByteCount), ring,
      at: Int(PB_RING_FRONTIER_AT))
    try RingCopy.put(UInt64(found.coveredByteCount), ring, at: Int(PB_RING_COVERED_BYTES_AT))
  }
}
