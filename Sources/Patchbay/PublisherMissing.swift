// What is not written yet. A publisher that writes alone, from the beginning, knows it by itself; one
// that shares its blob, or resumes one, looks at all extents there are, through mappings of its own
// that are for reading only.

import PatchbayRing
import PatchbayTypes
import PatchbayWire
import Synchronization

extension Publisher {
  /// The ranges nobody has written yet, in order, cut into pieces; with an unknown length, those
  /// below the highest byte that is written. Other publishers of a joinable blob may be writing them
  /// at this moment. Blocks only when the blob is shared or resumed: for the broker's answers, where
  /// its extents are.
  /// - Parameter size: the most bytes of a piece; nil: uncut.
  /// - Throws: `noBroker`, `timedOut`, `closed`.
  @available(*, noasync)
  public func missing(inPiecesOf size: Int? = nil) throws(PatchbayError) -> [Range<Int>] {
    guard looksAround || handle.isLimited else { return cut(try checked(ownMissing), size) }
    return cut(gaps(in: try checked(try lookout().writtenRanges(limit: .max))), size)
  }

  /// What was looked up, if this publisher has not ended meanwhile: then its rings may be another
  /// blob's.
  func checked(_ ranges: [Range<Int>]) throws(PatchbayError) -> [Range<Int>] {
    guard !isEnded else { throw Self.closed }
    return ranges
  }

  /// Of a blob that keeps its last bytes only: what is there; nil for others.
  var windowRange: Range<Int>? {
    guard let window = windowWriter?.window else { return nil }
    let (base, frontier) = (window.base, window.frontier)
    return base..<max(base, frontier)
  }

  /// The written parts of a range, in order, whoever wrote them. Blocks as `missing` does. What lies
  /// under a claim of this publisher stays as it is until this publisher writes.
  /// - Throws: as `missing`.
  @available(*, noasync)
  public func writtenRanges(in range: Range<Int>) throws(PatchbayError) -> [Range<Int>] {
    let written =
      if let windowRange { [windowRange] } else { try lookout().writtenRanges(limit: .max) }
    return try checked(written).map { $0.clamped(to: range) }.filter { !$0.isEmpty }
  }

  /// What is missing where nobody else has written.
  var ownMissing: [Range<Int>] {
    guard handle.grant.order == .any else {
      let end = appendEnd
      return [end..<max(end, byteCount ?? end)]
    }
    return uncovered(in: 0..<(byteCount ?? inFlight.highestEnd))
  }

  /// What lies between written ranges, below the blob's end.
  func gaps(in written: [Range<Int>]) -> [Range<Int>] {
    let end = byteCount ?? written.last?.upperBound ?? 0
    var at = 0
    var gaps: [Range<Int>] = []
    for range in written {
      gaps.append(at..<range.lowerBound)
      at = range.upperBound
    }
    return gaps + [at..<max(at, end)]
  }

  func cut(_ ranges: [Range<Int>], _ size: Int?) -> [Range<Int>] {
    guard let size, size > 0 else { return ranges.filter { !$0.isEmpty } }
    return ranges.flatMap { range in
      stride(from: range.lowerBound, to: range.upperBound, by: size).map {
        $0..<min($0 + size, range.upperBound)
      }
    }
  }

  /// Where the written bytes end, whoever wrote them; nil when this publisher knows by itself.
  func writtenEnd() throws(PatchbayError) -> Int? {
    guard needsWrittenEnd else { return nil }
    return wholeEnd(try lookout().writtenRanges(limit: .max))
  }

  /// Where written ranges and what this publisher knows it has written end.
  func wholeEnd(_ written: [Range<Int>]) -> Int {
    max(written.last?.upperBound ?? 0, inFlight.highestEnd)
  }

  /// An announced length is the end, and a publisher that appends knows its own from then on.
  var needsWrittenEnd: Bool {
    guard looksAround else { return false }
    return handle.grant.order == .any ? byteCount == nil : appendEnd == 0
  }

  /// Sets the end for appending behind what was taken over.
  func appendsFrom(_ end: Int?) {
    guard handle.grant.order == .appendOnly, let end else { return }
    appending.withLock { $0.end = end }
  }

  /// The blob as a reader would see it: this publisher's own mappings are for writing.
  func lookout() throws(PatchbayError) -> BlobHandle {
    if let known = lookedAt.withLock({ $0 }) { return known }
    return keep(
      try BlobHandle(
        handle.session, key: key, grant: lookingGrant, Delivery(.pong, []),
        isWritable: false, deadline: .standard))
  }

  /// The grant of a handle that looks at the same blob, without an end of its own.
  private var lookingGrant: BlobGrant {
    var grant = handle.grant.reading
    grant.extent = nil
    return grant
  }

  /// As the blocking `lookout`.
  func lookout() async throws(PatchbayError) -> BlobHandle {
    if let known = lookedAt.withLock({ $0 }) { return known }
    return keep(
      try await BlobHandle.made(
        handle.session, key: key, grant: lookingGrant, Delivery(.pong, []),
        isWritable: false, deadline: .standard))
  }

  private func keep(_ fresh: BlobHandle) -> BlobHandle {
    lookedAt.withLock { known in
      if let known { return known }
      known = fresh
      return fresh
    }
  }
}
