// The ring of a windowed blob: its last so many bytes, in segments. A segment is what is given up at
// once when the ring wraps; position p stands at offset p mod ring.

/// How a windowed blob lies in its one ring.
package struct WindowShape: Sendable, Hashable {
  /// Data bytes of the ring: a whole number of segments, at least two.
  @usableFromInline package let ringByteCount: Int
  /// For rings whose size is a power of two, as the broker's choice is: one less than that; else -1.
  @usableFromInline package let offsetMask: Int
  /// A power of two, at least a page.
  package let segmentByteCount: Int

  package static let segmentRange = 4096...1 << 30
  package static let ringLimit = 1 << 40

  /// A shape that was checked.
  /// - Throws: `protocolViolation` for sizes that make no window.
  package init(ringByteCount: Int, segmentByteCount: Int) throws(PatchbayError) {
    guard Self.segmentRange.contains(segmentByteCount), segmentByteCount.nonzeroBitCount == 1,
      ringByteCount >= 2 * segmentByteCount, ringByteCount <= Self.ringLimit,
      ringByteCount % segmentByteCount == 0
    else {
      throw PatchbayError(
        .protocolViolation,
        "A window of \(ringByteCount) bytes in segments of \(segmentByteCount) was asked for; "
          + "segments are powers of two from 4096 to 2^30, and a window is 2 or more of them.")
    }
    self.ringByteCount = ringByteCount
    offsetMask = ringByteCount.nonzeroBitCount == 1 ? ringByteCount - 1 : -1
    self.segmentByteCount = segmentByteCount
  }

  package var segmentCount: Int { ringByteCount / segmentByteCount }
  package var segmentShift: Int { segmentByteCount.trailingZeroBitCount }

  /// Where a position's byte stands in the ring.
  @inlinable @inline(__always) package func offset(of position: Int) -> Int {
    offsetMask >= 0 ? position & offsetMask : position % ringByteCount
  }

  /// The end of the segment that a position lies in.
  package func segmentEnd(of position: Int) -> Int {
    (position >> segmentShift + 1) << segmentShift
  }

  /// The lowest position that can still be there once the segment of `position` is written.
  package func base(writing position: Int) -> Int {
    max(0, segmentEnd(of: position) - ringByteCount)
  }
}
