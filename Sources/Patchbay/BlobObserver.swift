// Looking at what is written of a blob, for pictures: no reader, no bytes.

import PatchbayLayout
import PatchbayRing
import PatchbayTypes

/// Sees which ranges of a blob are written, as they are written.
public final class BlobObserver: Sendable {
  private let handle: BlobHandle

  init(_ handle: BlobHandle) { self.handle = handle }

  deinit { if handle.entry != nil { handle.session.connection.post(.close(handle.grant.blob)) } }

  /// Where the blob stands now.
  public var state: BlobState { handle.state }
  /// Bytes in all; nil while unknown.
  public var byteCount: Int? { handle.byteCount }

  /// Which life of the key it looks at.
  public var generation: Generation { handle.generation }

  /// The written ranges in order, apart from each other. Blocks only while an extent is mapped that
  /// has come since the last look.
  /// - Parameter limit: at most so many ranges; what lies behind is left out.
  /// - Throws: `noBroker`, `timedOut`.
  @available(*, noasync)
  public func writtenRanges(limit: Int = .max) throws(PatchbayError) -> [Range<Int>] {
    try handle.writtenRanges(limit: limit)
  }
}

extension Subscriber {
  /// The written ranges in order, apart from each other. Blocks only while an extent is mapped that
  /// has come since the last look.
  /// - Parameter limit: at most so many ranges; what lies behind is left out.
  /// - Throws: `closed`, `noBroker`, `timedOut`.
  @available(*, noasync)
  public func writtenRanges(limit: Int = .max) throws(PatchbayError) -> [Range<Int>] {
    try checkNotClosed()
    return try handle.writtenRanges(limit: limit)
  }
}

extension BlobHandle {
  func writtenRanges(limit: Int) throws(PatchbayError) -> [Range<Int>] {
    if let inline = grant.inlineBytes { return inline.isEmpty ? [] : [0..<inline.count] }
    var ranges: [Range<Int>] = []
    var index = 0
    while let positions = positions(ofExtent: index), ranges.count <= limit {
      switch try attach(index, deadline: .standard) {
      case .extent(let extent):
        Self.collect(extent, positions, &ranges)
        index += 1
      case .missing(let next):
        // Extents come in any order: the broker knows whether there is one farther on.
        guard let next, next >= positions.upperBound else { return Array(ranges.prefix(limit)) }
        index = plan.index(of: next)
      }
    }
    // One more than asked for was looked for, so that the last one given is whole.
    return Array(ranges.prefix(limit))
  }

  /// The positions of an extent below the blob's end; nil behind it.
  private func positions(ofExtent index: Int) -> Range<Int>? {
    let planned = plan.range(of: index)
    let end = min(planned.upperBound, byteCount ?? ExtentPlan.positionLimit)
    return planned.lowerBound < end ? planned.lowerBound..<end : nil
  }

  private static func collect(
    _ extent: Extent, _ positions: Range<Int>, _ ranges: inout [Range<Int>]
  ) {
    var at = positions.lowerBound
    while at < positions.upperBound {
      let start = extent.uncoveredEnd(from: at, limit: positions.upperBound)
      let end = extent.coveredEnd(from: start, limit: positions.upperBound)
      guard start < end else { return }
      if let last = ranges.last, last.upperBound == start {
        ranges[ranges.count - 1] = last.lowerBound..<end
      } else {
        ranges.append(start..<end)
      }
      at = end
    }
  }
}
