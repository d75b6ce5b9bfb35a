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
    func number(_ at: Int) -> Int { Int(min(word(header[at..<at + 8]), UInt64(limit))) }
    return (number(Int(PB_RING_FRONTIER_AT)), number(Int(PB_RING_COVERED_BYTES_AT)))
  }

  /// The same of one use of the ring; nil when that has ended, and what was read may be another's.
  package static func hints(
    _ descriptor: borrowing Descriptor, limit: Int, of use: RingUse
  ) throws(PatchbayError) -> (frontier: Int, coveredByteCount: Int)? {
    let hints = try hints(descriptor, limit: limit)
    // Behind them: whoever ends a use takes its tag away before anything else changes.
    var tag = [UInt8](repeating: 0, count: 8)
    try SharedObject.read(descriptor, at: Int(PB_RING_TAG_AT), into: &tag)
    return word(tag[...]) == use.tag ? hints : nil
  }

  private static func word(_ bytes: ArraySlice<UInt8>) -> UInt64 {
    bytes.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
  }

  /// How many of the first `byteCount` bytes are covered, and the first uncovered ranges, as
  /// offsets: by the map where there is one, else by the frontier.
  package static func coverage(
    _ descriptor: borrowing Descriptor, _ geometry: RingGeometry, upTo byteCount: Int,
    missingLimit: Int
  ) throws(PatchbayError) -> (coveredByteCount: Int, missing: [Range<Int>]) {
    let byteCount = min(byteCount, geometry.dataByteCount)
    guard byteCount > 0 else { return (0, []) }
    guard geometry.hasMap else {
      let frontier = try hints(descriptor, limit: byteCount).frontier
      return (frontier, frontier < byteCount ? [frontier..<byteCount] : [])
    }
    let copy = try MapCopy(descriptor, geometry, 0..<byteCount)
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
