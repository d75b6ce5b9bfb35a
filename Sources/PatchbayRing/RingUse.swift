// Beginning a use of a ring, by the broker: before it hands the ring to the first publisher, and
// through a descriptor, since a peer could cut short what it maps. So no two publishers have to agree
// on who begins, and a grant that is lost loses nothing.
//
// A ring that was used before is nobody's to write when its next use begins: every publisher of the
// last one has said that it is quiescent, or is dead. It may still be mapped by readers whose handle
// was closed while they copied: their look after the copy finds the tag gone.

import CPatchbayLayout
import PatchbayLayout
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// One use of a ring: the extent of a blob that it serves as.
package struct RingUse: Sendable, Hashable {
  /// Counts from 1, the first.
  package let number: UInt32
  /// The extent's index in its blob.
  package let index: Int

  package init(number: UInt32, index: Int) {
    self.number = number
    self.index = index
  }

  var tag: UInt64 { RingTag.value(useNumber: number, index: index) }

  /// Begins the first use of a fresh ring, whose bytes are all zero: its identity and its tag. Nobody
  /// else has the ring yet.
  package func beginFirst(
    _ ring: borrowing Descriptor, instance: UInt64, ringID: UInt64, _ geometry: RingGeometry
  ) throws(PatchbayError) {
    try SharedObject.write(
      ring, at: 0, ObjectHeader.ring(instance: instance, ringID: ringID, geometry, tag: tag))
  }

  /// Begins a further use: nothing is covered afterwards, and no mark is left.
  /// - Throws: `inputOutput`, `corrupt`; the ring is worth nothing then.
  package func begin(
    _ ring: borrowing Descriptor, _ geometry: RingGeometry
  ) throws(PatchbayError) {
    try Self.put(0, ring)
    // sequentially consistent (fence): the invalid tag is visible before anything is reset, and
    // before views are looked for. TAG-END.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    try Self.emptyHeader(ring)
    if geometry.hasMap { try Self.emptyMap(ring, geometry) }
    // releasing (fence): the reset, before the tag and whatever is told to anybody. TAG-BEGIN.
    atomicMemoryFence(ordering: .releasing)
    try Self.put(tag, ring)
  }

  /// Ends a use while readers may have the ring mapped: from now on none of them takes bytes from it.
  /// Whoever viewed it before is found in its client's table afterwards.
  package static func end(_ ring: borrowing Descriptor) throws(PatchbayError) {
    // Both halves of a tag in use are other than zero, so whatever order the bytes are written in, no
    // reader ever finds a tag that stands for another use.
    try put(0, ring)
    // sequentially consistent (fence): the invalid tag is visible before views are looked for.
    // TAG-END, pairs with VIEW.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }

  private static func put(_ tag: UInt64, _ ring: borrowing Descriptor) throws(PatchbayError) {
    let bytes = unsafe withUnsafeBytes(of: tag.littleEndian) { unsafe Array($0) }
    try SharedObject.write(ring, at: Int(PB_RING_TAG_AT), bytes)
  }

  /// Zeroes every word behind the tag that says what is readable: base, intent, frontier, hint, and
  /// how many marks there are.
  private static func emptyHeader(_ ring: borrowing Descriptor) throws(PatchbayError) {
    try zero(ring, Int(PB_RING_BASE_AT)..<Int(PB_RING_MARKS_AT))
  }

  /// Zeroes what publishers have set: of level 0 the touched pages, which are few where whole lines
  /// were written.
  private static func emptyMap(
    _ ring: borrowing Descriptor, _ geometry: RingGeometry
  ) throws(PatchbayError) {
    let touched = try touchedPages(ring, geometry)
    // A bit per byte of data.
    let pageOfBits = RingGeometry.page / 8
    for run in touched.ranges {
      let first = geometry.levelOffsets[0]
      try zero(ring, first + run.lowerBound * pageOfBits..<first + run.upperBound * pageOfBits)
    }
    try zero(ring, Int(PB_RING_HEADER_BYTES)..<geometry.levelOffsets[0])
  }

  private static func touchedPages(
    _ ring: borrowing Descriptor, _ geometry: RingGeometry
  ) throws(PatchbayError) -> RangeSet<Int> {
    let pageCount = geometry.dataByteCount / RingGeometry.page
    var plane = [UInt8](repeating: 0, count: (pageCount + 7) / 8)
    try SharedObject.read(ring, at: geometry.touchedOffset, into: &plane)
    var pages = RangeSet<Int>()
    for (index, bits) in plane.enumerated() where bits != 0 {
      for page in index * 8..<min(index * 8 + 8, pageCount) where bits >> UInt8(page & 7) & 1 == 1 {
        pages.insert(contentsOf: page..<page + 1)
      }
    }
    return pages
  }

  private static func zero(
    _ ring: borrowing Descriptor, _ offsets: Range<Int>
  ) throws(PatchbayError) {
    var at = offsets.lowerBound
    while at < offsets.upperBound {
      let count = min(zeros.count, offsets.upperBound - at)
      try SharedObject.write(ring, at: at, Array(zeros[..<count]))
      at += count
    }
  }

  private static let zeros = [UInt8](repeating: 0, count: 1 << 18)
}
