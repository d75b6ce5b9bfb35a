// Reading without a copy. A lease announces its view before it checks the ring, so the ring is not
// reused while the lease lives; it holds its own mapping, so it outlives the subscriber's handle.

import PatchbayLayout
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

/// Covered bytes of a blob, in place. Ends when it is released.
@safe public final class Lease: Sendable {
  /// The positions of the bytes in the blob.
  public let range: Range<Int>
  private let subscriber: Subscriber
  private let bytes: Bytes

  private enum Bytes: Sendable {
    /// A copy, whose first byte has this position.
    case copy([UInt8], start: Int)
    case extent(Extent, view: Int)
  }

  init(
    _ subscriber: Subscriber, _ range: Range<Int>, copy: [UInt8], start: Int = 0
  ) {
    self.subscriber = subscriber
    self.range = range
    bytes = .copy(copy, start: start)
  }

  fileprivate init(_ subscriber: Subscriber, _ range: Range<Int>, _ extent: Extent, view: Int) {
    self.subscriber = subscriber
    self.range = range
    bytes = .extent(extent, view: view)
  }

  deinit {
    if case .extent(_, let view) = bytes { subscriber.handle.session.table.end(view) }
    subscriber.leaseEnded()
  }

  /// Gives the bytes, `range.count` of them. They do not change while the lease lives.
  public func withBytes<Result, Failure>(
    _ body: (Span<UInt8>) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    switch bytes {
    case .copy(let copy, let start):
      try body(copy.span.extracting(range.lowerBound - start..<range.upperBound - start))
    case .extent(let extent, _):
      try body(unsafe extent.bytes(range).bindMemory(to: UInt8.self).span)
    }
  }
}

extension Subscriber {
  /// The most leases of one subscriber at a time.
  public static let leaseLimit = 4

  /// Waits until a range is covered and gives it in place, without a copy. A range that crosses an
  /// extent's edge cannot be leased; `readFully` reads it, `withWholeBlob` maps all. Of a blob that
  /// keeps its last bytes only, or belongs to another user, the lease is a copy.
  /// - Throws: `limitReached` with 4 leases out, `rangeOutOfBounds` for a range across an edge or
  ///   behind the end; else as `read`.
  @available(*, noasync)
  public func lease(
    _ range: Range<Int>, deadline: Deadline = .never
  ) throws(PatchbayError) -> Lease {
    try countLease()
    do throws(PatchbayError) {
      var at = range.lowerBound
      while true {
        let found = try find(at: at, count: max(range.upperBound - at, 1), deadline: deadline)
        switch try takeLease(range, at: at, found) {
        case .lease(let lease): return lease
        case .goOn(let next): at = next
        case .copies:
          let bytes = try readFully(range, deadline: deadline)
          return Lease(self, range, copy: bytes, start: range.lowerBound)
        }
      }
    } catch {
      leaseEnded()
      throw error
    }
  }

  /// What one look brings a lease.
  enum LeaseStep {
    case lease(Lease)
    /// Everything before this position is covered.
    case goOn(at: Int)
    /// It is not in one place: it is to be read into a copy.
    case copies
  }

  /// Makes a lease of what was found at a position, when that is all of the range.
  func takeLease(
    _ range: Range<Int>, at position: Int, _ found: Found
  ) throws(PatchbayError) -> LeaseStep {
    switch found {
    case .endOfBlob:
      guard range.isEmpty else { throw outOfBounds(range) }
      return .lease(Lease(self, 0..<0, copy: []))
    case .inline(let bytes):
      guard range.upperBound <= bytes.count else { throw outOfBounds(range) }
      return .lease(Lease(self, range, copy: bytes))
    case .passing(let window, let end):
      guard range.count <= window.shape.ringByteCount else {
        throw beyondWindow(range, window.shape)
      }
      guard end >= range.upperBound else { return .goOn(at: end) }
      // No view holds a window up; what cannot be copied any more is found to be gone.
      return copyOut(window, range).map {
        .lease(Lease(self, range, copy: $0, start: range.lowerBound))
      } ?? .goOn(at: range.lowerBound)
    case .bytes(let extent, let end):
      guard range.upperBound <= extent.range.upperBound else {
        throw acrossEdge(range, extent.range.upperBound)
      }
      guard end >= range.upperBound else { return .goOn(at: end) }
      // A ring that was taken before the view stood is looked for anew.
      return try view(range, extent).map { .lease($0) } ?? .goOn(at: range.lowerBound)
    case .spooled(let segment, let end):
      let edge = handle.plan.range(of: handle.plan.index(of: range.lowerBound)).upperBound
      guard range.upperBound <= edge else { throw acrossEdge(range, edge) }
      guard segment.start <= range.lowerBound, end >= range.upperBound else { return .copies }
      return .lease(Lease(self, range, copy: segment.bytes, start: segment.start))
    case .foreign(let ring, let end):
      if let shape = ring.window, range.count > shape.ringByteCount {
        throw beyondWindow(range, shape)
      }
      guard range.upperBound <= ring.range.upperBound else {
        throw acrossEdge(range, ring.range.upperBound)
      }
      guard end >= range.upperBound else { return .goOn(at: end) }
      return try copyOut(ring, range).map {
        .lease(Lease(self, range, copy: $0, start: range.lowerBound))
      } ?? .goOn(at: range.lowerBound)
    }
  }

  private func view(_ range: Range<Int>, _ extent: Extent) throws(PatchbayError) -> Lease? {
    let table = handle.session.table
    let view = try table.announce(ringID: extent.ringID, useNumber: extent.useNumber)
    guard extent.isCurrent else {
      table.end(view)
      return nil
    }
    return Lease(self, range, extent, view: view)
  }

  private func beyondWindow(_ range: Range<Int>, _ shape: WindowShape) -> PatchbayError {
    PatchbayError(
      .rangeOutOfBounds,
      "The range \(range.lowerBound)..<\(range.upperBound) of the blob \(key) is longer than its "
        + "window of \(shape.ringByteCount) bytes; read it in pieces.")
  }

  private func acrossEdge(_ range: Range<Int>, _ edge: Int) -> PatchbayError {
    PatchbayError(
      .rangeOutOfBounds,
      "The range \(range.lowerBound)..<\(range.upperBound) of the blob \(key) crosses the edge of "
        + "an extent at \(edge); lease the two sides, or read them.",
      resumePosition: edge)
  }

  /// Waits as `waitUntilSealed` does and gives the whole blob as one contiguous range: in place if all of
  /// it is in memory and it is a blob of the own user, in 256 extents at most; else as a copy in memory of
  /// this process.
  /// - Throws: as `read`; `inputOutput` when it cannot be mapped.
  @available(*, noasync)
  public func withWholeBlob<Result>(
    deadline: Deadline = .never, _ body: (Span<UInt8>) throws -> Result
  ) throws -> Result {
    let byteCount = try waitUntilSealed(deadline: deadline)
    if isCopiedWhole {
      let bytes = try readFully(0..<byteCount, deadline: deadline)
      return try body(bytes.span)
    }
    guard let last = lastExtent(byteCount) else {
      return try lease(0..<byteCount, deadline: deadline).withBytes(body)
    }
    try beginUse()
    defer { endUse() }
    let mapping = try reserve(byteCount)
    let views = HeldViews(handle.session.table)
    defer { views.end() }
    for index in 0...last {
      let attachment = try handle.attach(index, deadline: deadline)
      guard hold(attachment, views) else {
        let bytes = try readFully(0..<byteCount, deadline: deadline)
        return try body(bytes.span)
      }
      let answer = try handle.session.connection.call(placeRequest(index), deadline: deadline)
      guard try place(index, in: mapping, answer) else {
        let bytes = try readFully(0..<byteCount, deadline: deadline)
        return try body(bytes.span)
      }
    }
    return try withBytes(of: mapping, byteCount, body)
  }

  /// Whether the whole blob can only be given as a copy: its rings are another user's.
  var isCopiedWhole: Bool { handle.grant.isForeign && handle.foreignWindow == nil }

  /// The last of several extents of a sealed blob; nil when one lease gives it all.
  func lastExtent(_ byteCount: Int) -> Int? {
    guard byteCount > 0, handle.entry != nil, handle.windowShape == nil else { return nil }
    let last = handle.plan.index(of: byteCount - 1)
    return last > 0 ? last : nil
  }

  func reserve(_ byteCount: Int) throws(PatchbayError) -> ContiguousMapping {
    try ContiguousMapping(byteCount: RingGeometry.roundedToPage(byteCount))
  }

  func placeRequest(_ index: Int) -> Request {
    .attachExtent(ExtentRequest(generation: generation, index: index))
  }

  /// Keeps an extent in memory; false when it is not there, or this client holds too much already.
  func hold(
    _ attachment: BlobHandle.Attachment, _ views: HeldViews
  ) -> Bool {
    guard case .extent(let extent) = attachment else { return false }
    return views.holdIfRoom(extent)
  }

  /// Maps the extent of an answer at its place; false when it has left memory.
  func place(
    _ index: Int, in mapping: ContiguousMapping, _ delivery: Delivery
  ) throws(PatchbayError) -> Bool {
    switch delivery.reply {
    case .spooled, .scratch: return false
    default: break
    }
    guard case .extent(let granted) = delivery.reply else {
      throw Session.unexpected(delivery.reply)
    }
    let geometry = try RingGeometry(
      dataByteCount: granted.dataByteCount, hasMap: handle.grant.order == .any)
    let start = handle.plan.range(of: index).lowerBound
    let piece = ContiguousMapping.Piece(
      try delivery.takeDescriptor(), offset: geometry.dataOffset,
      byteCount: min(geometry.dataByteCount, mapping.byteCount - start))
    try mapping.place(piece, at: start)
    return true
  }

  func withBytes<Result>(
    of mapping: ContiguousMapping, _ byteCount: Int, _ body: (Span<UInt8>) throws -> Result
  ) throws -> Result {
    try withExtendedLifetime(mapping) {
      let all = unsafe UnsafeRawBufferPointer(start: mapping.base, count: byteCount)
      return try body(unsafe all.bindMemory(to: UInt8.self).span)
    }
  }
}
