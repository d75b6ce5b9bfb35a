// Looking at what is written of a blob, for pictures: no reader, no bytes.

import PatchbayLayout
import PatchbayRing
import PatchbayTypes

/// Sees which ranges of a blob are written, as they are written.
public final class BlobObserver: Sendable {
  let handle: BlobHandle

  init(_ handle: BlobHandle) { self.handle = handle }

  deinit {
    handle.endReading()
  }

  /// Where the blob stands now.
  public var state: BlobState { handle.state }
  /// Bytes in all; nil while unknown.
  public var byteCount: Int? { handle.byteCount }

  /// Which life of the key it looks at.
  public var generation: Generation { handle.generation }

  /// The written ranges in order, apart from each other. Blocks only while an extent is mapped that
  /// has come since the last look.
  /// - Parameter limit: at most so many ranges, and at most 65536 of another user's blob; what lies
  ///   behind is left out.
  /// - Throws: `noBroker`, `timedOut`.
  @available(*, noasync)
  public func writtenRanges(limit: Int = .max) throws(PatchbayError) -> [Range<Int>] {
    try handle.writtenRanges(limit: limit)
  }
}

extension Subscriber {
  /// The written ranges in order, apart from each other. Blocks only while an extent is mapped that
  /// has come since the last look.
  /// - Parameter limit: at most so many ranges, and at most 65536 of another user's blob; what lies
  ///   behind is left out.
  /// - Throws: `closed`, `noBroker`, `timedOut`.
  @available(*, noasync)
  public func writtenRanges(limit: Int = .max) throws(PatchbayError) -> [Range<Int>] {
    try checkNotClosed()
    let written = try looking { () throws(PatchbayError) in
      try handle.writtenRanges(limit: limit)
    }
    // Closed meanwhile, its rings may be another blob's.
    try checkNotClosed()
    return written
  }
}

extension BlobHandle {
  func writtenRanges(limit: Int) throws(PatchbayError) -> [Range<Int>] {
    var walk = try WrittenWalk(self, limit: limit)
    while let index = walk.next { try walk.take(try attach(index, deadline: .standard)) }
    return walk.ranges
  }
}

/// The written ranges of a blob, collected extent by extent.
struct WrittenWalk {
  private let handle: BlobHandle
  private let limit: Int
  private var found: [Range<Int>] = []
  private var index = 0
  private var isOver = false

  /// Ranges of another user's blob that are collected at most: that user makes them.
  private static let foreignLimit = 65536

  init(_ handle: BlobHandle, limit: Int) throws(PatchbayError) {
    self.handle = handle
    self.limit = handle.grant.isForeign ? min(limit, Self.foreignLimit) : limit
    if let window = handle.foreignWindow {
      found = try window.writtenRanges(in: window.range, limit: 1)
      isOver = true
    }
    if let window = handle.window {
      let (base, frontier) = (window.base, window.frontier)
      found = base < frontier ? [base..<frontier] : []
      isOver = true
    }
    guard let inline = handle.grant.inlineBytes else { return }
    found = inline.isEmpty ? [] : [0..<inline.count]
    isOver = true
  }

  /// The extent that is to be looked at next; nil: all are done.
  var next: Int? {
    isOver || found.count > limit || handle.positions(ofExtent: index) == nil ? nil : index
  }

  /// Looks at the extent that was to be next.
  mutating func take(_ attachment: BlobHandle.Attachment) throws(PatchbayError) {
    guard let positions = handle.positions(ofExtent: index) else { return isOver = true }
    switch attachment {
    case .extent(let extent):
      let before = found
      collect(extent, positions)
      guard extent.isStillCurrent else {
        // It left memory meanwhile, and what was found may be another blob's.
        found = before
        return handle.noteEnded(extent)
      }
      index += 1
    case .spooled:
      add(positions)
      index += 1
    case .scratch(let part):
      for range in part.writtenRanges(in: positions) { add(range) }
      index += 1
    case .foreign(let ring):
      let more = max(0, limit - found.count) + 1
      let ranges = try ring.writtenRanges(in: positions, limit: more)
      guard try ring.isCurrent() else {
        return handle.noteEnded(ring)
      }
      for range in ranges { add(range) }
      index += 1
    case .missing(let next):
      // Extents come in any order: the broker knows whether there is one farther on.
      guard let next, next >= positions.upperBound else { return isOver = true }
      index = handle.plan.index(of: next)
    }
  }

  /// What was collected. One range more than asked for was looked for, so that the last is whole.
  var ranges: [Range<Int>] { Array(found.prefix(limit)) }

  private mutating func collect(_ extent: Extent, _ positions: Range<Int>) {
    var at = positions.lowerBound
    while at < positions.upperBound {
      let start = extent.uncoveredEnd(from: at, limit: positions.upperBound)
      let end = extent.coveredEnd(from: start, limit: positions.upperBound)
      guard start < end else { return }
      add(start..<end)
      at = end
    }
  }

  private mutating func add(_ range: Range<Int>) {
    if let last = found.last, last.upperBound == range.lowerBound {
      found[found.count - 1] = last.lowerBound..<range.upperBound
    } else {
      found.append(range)
    }
  }
}

extension BlobHandle {
  /// The positions of an extent below the blob's end; nil behind it.
  fileprivate func positions(ofExtent index: Int) -> Range<Int>? {
    let planned = plan.range(of: index)
    let end = min(planned.upperBound, byteCount ?? ExtentPlan.positionLimit)
    return planned.lowerBound < end ? planned.lowerBound..<end : nil
  }
}
