// Writing at the end: appends, batches, loans, and descriptors read straight into shared memory.
//
// Appends take turns under one lock. A loan takes the turn out of the lock: while it is out the
// cursor belongs to it and every other append is refused.

import Glibc
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// Where the next append goes, and what holds the cursor.
struct AppendState {
  var end = 0
  /// Where the bytes begin that a batch has copied and not yet covered; nil outside a batch.
  var batchStart: Int?
  var isLent = false
  /// Nothing is appended any more: a seal is under way, or the blob has ended.
  var refusal: PatchbayError?
}

extension Publisher {
  /// Where the next append will go.
  public var position: Int { appendEnd }

  var appendEnd: Int { appending.withLock { $0.end } }

  /// Refuses appends from now on.
  /// - Throws: `rangeOverlap` while a loan or a batch is out; nothing has changed then.
  func stopAppending(_ refusal: PatchbayError) throws(PatchbayError) {
    try appending.withLock { (state) throws(PatchbayError) in
      guard !state.isLent, state.batchStart == nil else {
        throw PatchbayError(
          .rangeOverlap,
          "A \(state.isLent ? "loan" : "batch") of the blob \(key) is out; end it first.")
      }
      state.refusal = refusal
    }
  }

  func resumeAppending() { appending.withLock { $0.refusal = nil } }

  /// Adds bytes at the end. They are readable on return, except within a batch.
  /// - Parameters:
  ///   - bytes: what to add.
  ///   - expected: the position the bytes must land on; nil: wherever the end is.
  /// - Throws: `rangeOverlap` or `rangeOutOfBounds` with `resumePosition`, the true end, when that
  ///   is before or behind `expected`; `rangeOutOfBounds` beyond the announced length (nothing is
  ///   written then); `noSpaceMemory` (the same), `closed`, `fenced`, `noBroker`.
  @available(*, noasync)
  public func append(
    _ bytes: Span<UInt8>, expecting expected: Int? = nil
  ) throws(PatchbayError) {
    try appending.withLock { (state) throws(PatchbayError) in
      try check(state, expected)
      let range = try checkedRange(at: state.end, bytes.count)
      guard !range.isEmpty else { return }
      if handle.grant.order == .any {
        try appendInto(map: bytes, range, isBatched: state.batchStart != nil)
        state.end = range.upperBound
      } else {
        try appendBelowFrontier(bytes, range, &state)
      }
    }
  }

  /// Adds an array at the end; as the other `append`.
  /// - Throws: as the other `append`.
  @available(*, noasync)
  public func append(
    _ bytes: [UInt8], expecting expected: Int? = nil
  ) throws(PatchbayError) {
    try append(bytes.span, expecting: expected)
  }

  /// Adds raw bytes at the end; as the other `append`.
  /// - Throws: as the other `append`.
  @available(*, noasync)
  public func append(
    _ bytes: RawSpan, expecting expected: Int? = nil
  ) throws(PatchbayError) {
    try unsafe bytes.withUnsafeBytes { (raw) throws(PatchbayError) in
      let typed = unsafe raw.bindMemory(to: UInt8.self)
      try unsafe append(typed.span, expecting: expected)
    }
  }

  private func check(_ state: AppendState, _ expected: Int?) throws(PatchbayError) {
    if let refusal = state.refusal { throw refusal }
    guard !state.isLent else {
      throw PatchbayError(
        .rangeOverlap, "The end of the blob \(key) is lent; commit or drop the loan first.")
    }
    guard let expected, expected != state.end else { return }
    throw PatchbayError(
      expected < state.end ? .rangeOverlap : .rangeOutOfBounds,
      "An append to the blob \(key) expected to land on \(expected), but its end is \(state.end).",
      resumePosition: state.end)
  }

  private func appendInto(
    map bytes: Span<UInt8>, _ range: Range<Int>, isBatched: Bool
  ) throws(PatchbayError) {
    guard isBatched else {
      try write(bytes, at: range.lowerBound)
      return
    }
    _ = try enter(range, skippingCovered: false)
    do throws(PatchbayError) {
      try copyOnly(bytes, range)
    } catch {
      inFlight.leave(range, coveredTo: range.lowerBound)
      throw error
    }
    // Stays in flight, as one range with what the batch has copied before, until it is covered.
    batchedRange.withLock { batched in
      batched = batched.map { inFlight.join($0, range) } ?? range
    }
  }

  private func copyOnly(_ bytes: Span<UInt8>, _ range: Range<Int>) throws(PatchbayError) {
    try forEachExtent(range) { (extent, part) throws(PatchbayError) in
      extent.copyIn(
        bytes.extracting(part.lowerBound - range.lowerBound..<part.upperBound - range.lowerBound),
        at: part.lowerBound)
    }
  }

  private func appendBelowFrontier(
    _ bytes: Span<UInt8>, _ range: Range<Int>, _ state: inout AppendState
  ) throws(PatchbayError) {
    // All extents are made before the first byte is covered: when memory is full nothing is appended.
    try forEachExtent(range) { (_, _) throws(PatchbayError) in }
    try forEachExtent(range) { (extent, part) throws(PatchbayError) in
      var at = part.lowerBound
      while at < part.upperBound {
        let end = min(part.upperBound, at + Self.step)
        extent.copyIn(
          bytes.extracting(at - range.lowerBound..<end - range.lowerBound), at: at)
        state.end = end
        if state.batchStart == nil {
          extent.coverPrefix(to: end)
          ring(at..<end)
        }
        at = end
      }
    }
  }

  // MARK: Batches

  /// Makes everything appended by `body` readable at once, at its end, with one wake-up: for many
  /// small records. Also when `body` throws: what it appended stays appended.
  /// - Throws: what `body` throws; `rangeOverlap` inside another batch.
  @available(*, noasync)
  public func withBatch<Result>(_ body: () throws -> Result) throws -> Result {
    try appending.withLock { (state) throws(PatchbayError) in
      try check(state, nil)
      guard state.batchStart == nil else {
        throw PatchbayError(.rangeOverlap, "A batch of the blob \(key) is under way already.")
      }
      state.batchStart = state.end
    }
    defer { endBatch() }
    return try body()
  }

  /// Covers what a batch has copied; does nothing outside one.
  func endBatch() {
    appending.withLock { state in
      guard let start = state.batchStart else { return }
      state.batchStart = nil
      guard start < state.end else { return }
      if handle.grant.order == .any { coverBatchedRange() } else { coverPrefix(start..<state.end) }
      ring(start..<state.end)
    }
  }

  private func coverBatchedRange() {
    let batched = batchedRange.withLock { batched in
      defer { batched = nil }
      return batched
    }
    guard let batched else { return }
    forEachMappedExtent(batched) { $0.cover($1) }
    inFlight.leave(batched, coveredTo: batched.upperBound)
  }

  private func coverPrefix(_ range: Range<Int>) {
    forEachMappedExtent(range) { extent, part in extent.coverPrefix(to: part.upperBound) }
  }

  /// As `forEachExtent`, over extents that were mapped when the bytes were copied.
  private func forEachMappedExtent(_ range: Range<Int>, _ body: (Extent, Range<Int>) -> Void) {
    for extent in handle.mappedExtents(in: range) {
      body(extent, extent.range.clamped(to: range))
    }
  }

  // MARK: Loans

  /// Lends the place of the next bytes, to be filled without a copy: up to `byteCount` contiguous
  /// bytes at the end, fewer where an extent or the announced length ends. Other appends are
  /// refused until the loan is committed or dropped.
  /// - Throws: `rangeOutOfBounds` at the announced end, `rangeOverlap` while another loan or a
  ///   batch is out, `noSpaceMemory`, `closed`, `noBroker`.
  @available(*, noasync)
  public func loan(byteCount: Int) throws(PatchbayError) -> Loan {
    try appending.withLock { (state) throws(PatchbayError) in
      try check(state, nil)
      guard state.batchStart == nil else {
        throw PatchbayError(.rangeOverlap, "A batch of the blob \(key) is under way; end it first.")
      }
      let left = (self.byteCount ?? ExtentPlan.positionLimit) - state.end
      let wanted = max(1, min(byteCount, left))
      let range = try checkedRange(at: state.end, wanted)
      let extent = try handle.grownExtent(at: range.lowerBound)
      let lent = range.clamped(to: extent.range)
      if handle.grant.order == .any { _ = try enter(lent, skippingCovered: false) }
      extent.touch(lent)
      state.isLent = true
      return Loan(self, extent, lent)
    }
  }

  /// Ends a loan: its first bytes are appended, the rest stay uncovered.
  func endLoan(_ extent: Extent, _ lent: Range<Int>, committed count: Int) {
    appending.withLock { state in
      state.isLent = false
      let filled = lent.lowerBound..<lent.lowerBound + count
      if handle.grant.order == .any {
        extent.cover(filled)
        inFlight.leave(lent, coveredTo: filled.upperBound)
      } else if count > 0 {
        extent.coverPrefix(to: filled.upperBound)
      }
      state.end = filled.upperBound
      if count > 0 { ring(filled) }
    }
  }

  // MARK: From descriptors

  /// Appends everything a file descriptor still gives, read straight into shared memory, until its
  /// end. Blocks as the descriptor does. Each piece is readable at once.
  /// - Returns: how many bytes were appended.
  /// - Throws: `rangeOutOfBounds` when there are more than announced, `inputOutput`, else as `loan`.
  @available(*, noasync)
  @discardableResult
  public func append(from descriptor: Int32) throws(PatchbayError) -> Int {
    var total = 0
    while true {
      if let byteCount, appendEnd == byteCount {
        try expectEnd(of: descriptor, byteCount)
        return total
      }
      let loan = try loan(byteCount: Self.step)
      let count = try unsafe loan.fill { (place) throws(PatchbayError) in
        try unsafe Self.read(descriptor, into: place)
      }
      loan.commit(byteCount: count)
      guard count > 0 else { return total }
      total += count
    }
  }

  private func expectEnd(of descriptor: Int32, _ byteCount: Int) throws(PatchbayError) {
    var extra: UInt8 = 0
    let got = try unsafe withUnsafeMutableBytes(of: &extra) { (place) throws(PatchbayError) in
      try unsafe Self.read(descriptor, into: place)
    }
    guard got == 0 else {
      throw PatchbayError(
        .rangeOutOfBounds,
        "The source of the blob \(key) has more than the announced \(byteCount) bytes.")
    }
  }

  private static func read(
    _ descriptor: Int32, into place: UnsafeMutableRawBufferPointer
  ) throws(PatchbayError) -> Int {
    while true {
      let got = unsafe Glibc.read(descriptor, place.baseAddress, place.count)
      if got >= 0 { return got }
      guard errno == EINTR else { throw .system("Reading the source of a blob", errno: errno) }
    }
  }
}
