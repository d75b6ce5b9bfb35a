// Where the segments of a container stand, as arithmetic: there is no index.

import PatchbayTypes

/// The segments of one container.
package struct ContainerShape: Sendable, Hashable {
  /// Bytes of the blob in each segment but the last, which may have fewer.
  package let segmentByteCount: Int

  /// A shape that was checked.
  /// - Throws: `protocolViolation` unless it is a power of two from 4 KiB to 4 MiB.
  package init(segmentByteCount: Int) throws(PatchbayError) {
    guard ContainerLayout.segmentByteCounts.contains(segmentByteCount),
      segmentByteCount.nonzeroBitCount == 1
    else {
      throw PatchbayError(
        .protocolViolation,
        "Segments of \(segmentByteCount) bytes were asked for; their size is a power of two from "
          + "4096 to 4194304.")
    }
    self.segmentByteCount = segmentByteCount
  }

  /// Bytes of the file from one segment's beginning to the next one's.
  package var stride: Int { segmentByteCount + ContainerLayout.strideExtra }

  /// No container has more segments.
  package var segmentLimit: Int { ExtentPlan.positionLimit / segmentByteCount }

  /// Where in the file a segment stands; for `segmentLimit` where the last one ends.
  package func offset(ofSegment segment: Int) -> Int {
    precondition((0...segmentLimit).contains(segment))
    return ContainerLayout.areaByteCount + segment * stride
  }

  /// The segment that holds a position of the blob.
  package func segment(of position: Int) -> Int {
    precondition(position >= 0)
    return position / segmentByteCount
  }

  /// The positions of a segment, in a blob of this length; of unknown length (nil) it is a full one.
  /// Empty behind the blob's end.
  package func range(ofSegment segment: Int, byteCount: Int?) -> Range<Int> {
    precondition((0..<segmentLimit).contains(segment))
    let start = segment * segmentByteCount
    let end = start + segmentByteCount
    guard let byteCount else { return start..<end }
    return min(start, byteCount)..<min(end, byteCount)
  }

  /// How many segments a blob of this length has.
  package func segmentCount(byteCount: Int) -> Int {
    (byteCount + segmentByteCount - 1) / segmentByteCount
  }
}
