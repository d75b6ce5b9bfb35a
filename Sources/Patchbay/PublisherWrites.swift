// Writing at any position.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

extension Publisher {
  /// Bytes that become readable together: long writes are covered in steps, so readers follow
  /// closely and find them in the cache.
  static let step = 256 * 1024

  /// Writes bytes at a position and covers them. They are readable on return. Several threads may
  /// write at once; one that overlaps another waits for it.
  /// - Parameters:
  ///   - bytes: what to write.
  ///   - position: where the first byte goes.
  ///   - skippingCovered: writes only what is uncovered, instead of refusing the whole write.
  /// - Returns: how many bytes were covered by this call.
  /// - Throws: `rangeOverlap` when a byte of the range is covered already, or claimed by another
  ///   publisher of a joinable blob (nothing is written then, but for a write over more extents than a
  ///   publisher may have of a blob longer than memory: `resumePosition` tells the first covered byte);
  ///   `rangeOutOfBounds`, `noSpaceMemory`, `closed`, `fenced`, `noBroker`.
  @available(*, noasync)
  @discardableResult
  public func write(
    _ bytes: Span<UInt8>, at position: Int, skippingCovered: Bool = false
  ) throws(PatchbayError) -> Int {
    let range = try writableRange(at: position, bytes.count)
    guard !range.isEmpty else { return 0 }
    try waitForReader()
    // Ended when the range has left, and not before: what is looked at under it stays as it was.
    var claim: RangeClaim?
    defer { claim?.end() }
    var (at, count) = (range.lowerBound, 0)
    while at < range.upperBound {
      let part = handle.stretch(of: at..<range.upperBound)
      let before = inFlight.now
      switch try startWriting(
        part, skippingCovered: skippingCovered, under: claim, { $0.addThread() })
      {
      case .begun(let write):
        count += try finishWriting(
          bytes.extracting(at - range.lowerBound..<part.upperBound - range.lowerBound), write)
        at = part.upperBound
      case .needsClaim: claim = try ownClaim(range)
      case .needsExtents: try obtain(part)
      case .waits: try inFlight.sleep(since: before, until: MonotonicTime(Deadline.standard))
      }
    }
    return count
  }

  /// Writes an array at a position; as the other `write`.
  /// - Throws: as the other `write`.
  @available(*, noasync)
  @discardableResult
  public func write(
    _ bytes: [UInt8], at position: Int, skippingCovered: Bool = false
  ) throws(PatchbayError) -> Int {
    try write(bytes.span, at: position, skippingCovered: skippingCovered)
  }

  /// Writes raw bytes at a position; as the other `write`.
  /// - Throws: as the other `write`.
  @available(*, noasync)
  @discardableResult
  public func write(
    _ bytes: RawSpan, at position: Int, skippingCovered: Bool = false
  ) throws(PatchbayError) -> Int {
    try unsafe bytes.withUnsafeBytes { (raw) throws(PatchbayError) in
      let typed = unsafe raw.bindMemory(to: UInt8.self)
      return try unsafe write(typed.span, at: position, skippingCovered: skippingCovered)
    }
  }

  // MARK: Steps that do not wait

  /// What becomes of a write that wants to begin.
  enum WriteStart {
    /// Its range is in flight.
    case begun(RangeWrite)
    /// Others write the blob, too, and no claim of this publisher holds the whole range.
    case needsClaim
    /// Extents of its range have to be mapped first.
    case needsExtents
    /// Another write overlaps it; the caller stands in line.
    case waits
  }

  /// A range in flight.
  struct RangeWrite {
    let range: Range<Int>
    /// What of it is to be written.
    let pieces: [Range<Int>]
    /// What keeps other publishers off it; nil for a blob that has one.
    let claim: RangeClaim?
  }

  /// A range of a blob that is written in any order.
  func writableRange(at position: Int, _ count: Int) throws(PatchbayError) -> Range<Int> {
    let range = try checkedRange(at: position, count)
    guard !isRepeating else { throw onlyAppended }
    guard handle.grant.order == .any else {
      throw PatchbayError(
        .rangeOutOfBounds,
        "The blob \(key) was created for appending only; create it with the order .any to write "
          + "at a position.")
    }
    return range
  }

  /// Enters a range if it is claimed, its extents are mapped and no other write overlaps it.
  /// - Parameters:
  ///   - own: the claim that the caller got for this write alone.
  ///   - stand: puts the caller in line when it has to wait.
  func startWriting(
    _ range: Range<Int>, skippingCovered: Bool, under own: RangeClaim?,
    _ stand: (inout WaitingLine) -> Void
  ) throws(PatchbayError) -> WriteStart {
    // Claims and extents are had before the list's lock is taken: the broker may take its time.
    // Under the claim all that others have covered in the range can be seen, and nothing is added.
    let claim = own ?? claims.holding(range)
    guard claim != nil || !isShared else { return .needsClaim }
    guard handle.firstUnmapped(in: range) == nil else { return .needsExtents }
    let entered = try inFlight.tryEnter(range, stand) { () throws(PatchbayError) -> RangeWrite? in
      // What is in flight is not given back; until now it may have been.
      guard handle.firstUnmapped(in: range) == nil else { return nil }
      let pieces = uncovered(in: range)
      guard skippingCovered || pieces == [range] else {
        throw overlap(range, firstUncovered: pieces.first)
      }
      return RangeWrite(range: range, pieces: pieces, claim: claim)
    }
    guard let entered else { return .waits }
    guard let write = entered else {
      inFlight.leave(range, coveredTo: range.lowerBound)
      return .needsExtents
    }
    return .begun(write)
  }

  /// Writes the pieces of a range in flight, covers them, and takes the range out.
  func finishWriting(
    _ bytes: Span<UInt8>, _ write: RangeWrite
  ) throws(PatchbayError) -> Int {
    let range = write.range
    var coveredEnd = range.lowerBound
    defer {
      inFlight.leave(range, coveredTo: coveredEnd)
      // Only now may the claim end.
      withExtendedLifetime(write.claim) {}
      tellIfQuiescent()
    }
    for piece in write.pieces {
      try copyAndCover(
        bytes.extracting(
          piece.lowerBound - range.lowerBound..<piece.upperBound - range.lowerBound),
        at: piece.lowerBound)
      coveredEnd = piece.upperBound
    }
    return write.pieces.reduce(0) { $0 + $1.count }
  }

  private func overlap(_ range: Range<Int>, firstUncovered: Range<Int>?) -> PatchbayError {
    let first =
      firstUncovered?.lowerBound == range.lowerBound
      ? firstUncovered?.upperBound ?? range.lowerBound : range.lowerBound
    return PatchbayError(
      .rangeOverlap,
      "Writing \(range.count) bytes at \(range.lowerBound) of the blob \(key) touches byte "
        + "\(first), which is covered already; a covered byte never changes. Write the missing "
        + "ranges only, or skip what is covered.",
      resumePosition: first)
  }

  /// The uncovered pieces of a range, apart from each other. An extent that this publisher has not
  /// mapped holds nothing.
  func uncovered(in range: Range<Int>) -> [Range<Int>] {
    var pieces: [Range<Int>] = []
    func add(_ piece: Range<Int>) {
      guard !piece.isEmpty else { return }
      if let last = pieces.last, last.upperBound == piece.lowerBound {
        pieces[pieces.count - 1] = last.lowerBound..<piece.upperBound
      } else {
        pieces.append(piece)
      }
    }
    var at = range.lowerBound
    for (part, extent) in handle.writtenParts(of: range) {
      add(at..<part.lowerBound)
      at = part.lowerBound
      guard let extent else {
        at = part.upperBound
        continue
      }
      while at < part.upperBound {
        let start = extent.coveredEnd(from: at, limit: part.upperBound)
        at =
          start < part.upperBound ? extent.uncoveredEnd(from: start, limit: part.upperBound) : start
        add(start..<at)
      }
    }
    add(at..<range.upperBound)
    return pieces
  }

  private func copyAndCover(_ bytes: Span<UInt8>, at position: Int) throws(PatchbayError) {
    try forEachExtent(position..<position + bytes.count) { (extent, part) throws(PatchbayError) in
      var at = part.lowerBound
      while at < part.upperBound {
        let end = min(part.upperBound, at + Self.step)
        extent.copyIn(bytes.extracting(at - position..<end - position), at: at)
        extent.cover(at..<end)
        ring(at..<end)
        at = end
      }
    }
  }
}
