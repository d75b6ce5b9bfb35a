// Filling a fresh ring with what another has covered, by the broker, through descriptors: it maps
// neither, since a peer could cut either short. First the map is copied, then the bytes that the copy
// says are covered, so whatever is written meanwhile is not taken over. The broker has begun the
// target's use and given it to nobody, so nothing here races with anybody. The marks of the source are not
// taken over: they belong to a publisher that is gone.

import CPatchbayLayout
import PatchbayLayout
import PatchbaySystem
import PatchbayTypes

package enum RingCopy {
  private static let chunk = 1 << 20

  /// Fills a ring of which nothing is covered; both have this geometry.
  /// - Throws: `inputOutput`; the target is worth nothing then.
  package static func fill(
    _ target: borrowing Descriptor, from source: borrowing Descriptor, _ geometry: RingGeometry
  ) throws(PatchbayError) {
    let (frontier, covered) =
      geometry.hasMap
      ? try fillByMap(target, source, geometry) : try fillByFrontier(target, source, geometry)
    try put(UInt64(frontier), target, at: Int(PB_RING_FRONTIER_AT))
    try put(UInt64(covered), target, at: Int(PB_RING_COVERED_BYTES_AT))
  }

  private static func fillByFrontier(
    _ target: borrowing Descriptor, _ source: borrowing Descriptor, _ geometry: RingGeometry
  ) throws(PatchbayError) -> (frontier: Int, covered: Int) {
    let frontier = try RingInspector.hints(
      source, limit: geometry.dataByteCount
    ).frontier
    try copyData(0..<frontier, target, source, geometry)
    return (frontier, frontier)
  }

  private static func fillByMap(
    _ target: borrowing Descriptor, _ source: borrowing Descriptor, _ geometry: RingGeometry
  ) throws(PatchbayError) -> (frontier: Int, covered: Int) {
    let map = try MapCopy(source, geometry, 0..<geometry.dataByteCount)
    var covered = 0
    var at = 0
    while at < geometry.dataByteCount {
      let start = map.uncoveredEnd(from: at, limit: geometry.dataByteCount)
      at = map.coveredEnd(from: start, limit: geometry.dataByteCount)
      try copyData(start..<at, target, source, geometry)
      covered += at - start
    }
    try put(map, target)
    return (map.coveredEnd(from: 0, limit: geometry.dataByteCount), covered)
  }

  /// Every bit of the copy: the bytes of all of them have been copied.
  static func put(
    _ map: MapCopy, _ target: borrowing Descriptor
  ) throws(PatchbayError) {
    let geometry = map.geometry
    let wordsPerPage = RingGeometry.page / RingGeometry.bitsPerWord
    for (page, words) in map.pages.sorted(by: { $0.key < $1.key }) {
      try put(
        words, target,
        at: geometry.levelOffsets[0] + page * wordsPerPage * RingGeometry.bytesPerWord)
    }
    try put(map.touched, target, at: geometry.touchedOffset)
    for level in geometry.levelOffsets.indices.dropFirst() {
      try put(map.levels[level], target, at: geometry.levelOffsets[level])
    }
  }

  private static func copyData(
    _ offsets: Range<Int>, _ target: borrowing Descriptor, _ source: borrowing Descriptor,
    _ geometry: RingGeometry
  ) throws(PatchbayError) {
    var at = offsets.lowerBound
    while at < offsets.upperBound {
      let count = min(chunk, offsets.upperBound - at)
      var bytes = [UInt8](repeating: 0, count: count)
      try SharedObject.read(source, at: geometry.dataOffset + at, into: &bytes)
      try SharedObject.write(target, at: geometry.dataOffset + at, bytes)
      at += count
    }
  }

  private static func put(
    _ words: [UInt64], _ target: borrowing Descriptor, at offset: Int
  ) throws(PatchbayError) {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(words.count * RingGeometry.bytesPerWord)
    for word in words {
      for shift in stride(from: 0, to: 64, by: 8) {
        bytes.append(UInt8(truncatingIfNeeded: word >> UInt64(shift)))
      }
    }
    try SharedObject.write(target, at: offset, bytes)
  }

  static func put(
    _ word: UInt64, _ target: borrowing Descriptor, at offset: Int
  ) throws(PatchbayError) {
    try put([word], target, at: offset)
  }
}
