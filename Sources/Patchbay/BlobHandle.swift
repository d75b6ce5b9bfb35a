// What a publisher and a subscriber have in common: one generation of a key, its entry and bell,
// and the extents that this handle has mapped.

import PatchbayLayout
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

final class BlobHandle: Sendable {
  let session: Session
  let key: BlobKey
  let grant: BlobGrant
  /// Nil for a blob that came whole in a message.
  let entry: BoardEntry?
  let bell: Doorbell?
  private let isWritable: Bool
  private let extents: Mutex<Extents>
  /// Extents that are being asked for, to write into: one question each, whatever the number of
  /// threads that need it.
  private let growths = WritesInFlight()

  private struct Extents {
    var mapped: [Int: Extent] = [:]
    /// The one that was asked for last: nearly always the one that is asked for next.
    var latest: Extent?
    /// Extents that the broker said are not there, the board's extent version before it did, and
    /// where the next one starts.
    var missing: [Int: (version: UInt32, next: Int?)] = [:]
  }

  /// Takes over what a `created` or `opened` reply granted.
  init(
    _ session: Session, key: BlobKey, grant: BlobGrant, delivery: Delivery, isWritable: Bool,
    deadline: Deadline
  ) throws(PatchbayError) {
    self.session = session
    self.key = key
    self.grant = grant
    self.isWritable = isWritable
    extents = Mutex(Extents())
    guard grant.inlineBytes == nil else {
      entry = nil
      bell = nil
      return
    }
    let board = try session.board(grant.board, deadline: deadline)
    guard Int(grant.entry) < board.entryCount else {
      throw PatchbayError(
        .protocolViolation,
        "The broker named entry \(grant.entry) of a board with \(board.entryCount).")
    }
    entry = board.entry(Int(grant.entry))
    bell = board.bells.bell(Int(grant.entry))
    if let first = grant.extent { _ = try map(first, delivery.takeDescriptor()) }
  }

  var generation: Generation { grant.blob.generation }
  var plan: ExtentPlan { grant.plan }

  /// The blob's state; `gone` when the board's entry has passed to another blob.
  var state: BlobState {
    guard let entry else { return .sealed }
    return entry.status.state(of: generation) ?? .gone
  }

  /// Bytes in all; nil while unknown.
  var byteCount: Int? {
    if let inline = grant.inlineBytes { return inline.count }
    return grant.byteCount ?? entry?.byteCount
  }

  // MARK: Extents

  /// The extent with this index, if this handle has mapped it.
  private func mappedExtent(_ index: Int) -> Extent? { extents.withLock { $0.mapped[index] } }

  /// The extent that holds a position, if this handle has mapped it.
  private func mappedExtent(at position: Int) -> Extent? {
    extents.withLock { extents in
      if let latest = extents.latest, latest.range.contains(position) { return latest }
      guard let extent = extents.mapped[plan.index(of: position)] else { return nil }
      extents.latest = extent
      return extent
    }
  }

  /// The extents that this handle has mapped and the range touches, in order.
  func mappedExtents(in range: Range<Int>) -> [Extent] {
    extents.withLock { extents in
      if let latest = extents.latest, latest.range.clamped(to: range) == range { return [latest] }
      return extents.mapped.values.filter { $0.range.overlaps(range) }
        .sorted { $0.index < $1.index }
    }
  }

  /// What stands behind an extent's number.
  enum Attachment {
    case extent(Extent)
    /// The publisher has not begun it; where the next one starts that it has, if there is one.
    case missing(next: Int?)
  }

  /// How long the broker may take to tell where an extent is, even if the caller's deadline is
  /// sooner: the bytes may be there, and one look costs one question.
  private static let questionTime = Duration.seconds(1)

  /// The extent that holds a position, for reading; nil while the publisher has not begun it.
  func attachedExtent(
    at position: Int, deadline: Deadline, onBound: () throws(PatchbayError) -> Void
  ) throws(PatchbayError) -> Extent? {
    if let extent = mappedExtent(at: position) { return extent }
    let index = plan.index(of: position)
    guard case .extent(let extent) = try attach(index, deadline: deadline, onBound: onBound) else {
      return nil
    }
    return extent
  }

  /// Finds the extent with this index, for reading.
  /// - Parameter onBound: called now and then while the broker does not answer; may throw.
  func attach(
    _ index: Int, deadline: Deadline, onBound: () throws(PatchbayError) -> Void = {}
  ) throws(PatchbayError) -> Attachment {
    if let extent = mappedExtent(index) { return .extent(extent) }
    // The version is read before the question, so a grant in between changes it and is asked for.
    let version = entry?.extentVersion ?? 0
    guard index < Int(UInt32.max) else { return .missing(next: nil) }
    let known = extents.withLock { $0.missing[index] }
    if let known, known.version == version { return .missing(next: known.next) }
    do throws(PatchbayError) {
      let delivery = try session.connection.call(
        .attachExtent(ExtentRequest(generation: generation, index: index)),
        deadline: deadline.atLeast(Self.questionTime), onBound: onBound)
      return .extent(try adopt(delivery, index: index))
    } catch  where error.code == .rangeOutOfBounds {
      extents.withLock { $0.missing[index] = (version, error.resumePosition) }
      return .missing(next: error.resumePosition)
    }
  }

  /// The extent that holds a position, for writing; the broker makes it if it is not there.
  func grownExtent(at position: Int) throws(PatchbayError) -> Extent {
    if let extent = mappedExtent(at: position) { return extent }
    let index = plan.index(of: position)
    try checkIndex(index)
    let question = index..<index + 1
    try growths.enter(question, until: MonotonicTime(Deadline.standard)) {}
    defer { growths.leave(question, coveredTo: index) }
    if let extent = mappedExtent(index) { return extent }
    let delivery = try session.connection.call(
      .grow(GrowRequest(blob: grant.blob, index: index)), deadline: .standard)
    return try adopt(delivery, index: index)
  }

  /// Extents are numbered by 32 bits on the wire.
  private func checkIndex(_ index: Int) throws(PatchbayError) {
    guard index < Int(UInt32.max) else {
      throw PatchbayError(
        .rangeOutOfBounds,
        "The blob \(key) would need an extent \(index); create it with larger extents.")
    }
  }

  private func adopt(_ delivery: Delivery, index: Int) throws(PatchbayError) -> Extent {
    guard case .extent(let granted) = delivery.reply else {
      throw Session.unexpected(delivery.reply)
    }
    guard granted.index == index else {
      throw PatchbayError(
        .protocolViolation, "Extent \(index) was asked for and \(granted.index) came.")
    }
    return try map(granted, delivery.takeDescriptor())
  }

  private func map(
    _ granted: ExtentGrant, _ descriptor: borrowing Descriptor
  ) throws(PatchbayError) -> Extent {
    let geometry = try RingGeometry(
      dataByteCount: granted.dataByteCount, hasMap: grant.order == .any)
    let planned = plan.range(of: granted.index)
    guard granted.dataByteCount <= planned.count else {
      throw PatchbayError(
        .protocolViolation,
        "Extent \(granted.index) has \(granted.dataByteCount) bytes; its plan allows "
          + "\(planned.count).")
    }
    let extent = try Extent(
      descriptor, index: granted.index, start: planned.lowerBound, ringID: granted.ringID,
      useNumber: granted.useNumber, geometry: geometry, isWritable: isWritable)
    return extents.withLock { extents in
      // Two readers may have asked at once: one mapping serves both.
      if let first = extents.mapped[granted.index] { return first }
      // The grant that was to begin a fresh ring's use may have been lost: its answer came late, or
      // the ring could not be mapped. To begin it is one store, which does no harm twice.
      let isFresh = granted.useNumber == 1
      if granted.beginsUse || isWritable && isFresh { extent.beginUse(isFresh: isFresh) }
      extents.mapped[granted.index] = extent
      return extent
    }
  }

  /// Unmaps everything; views and pieces of reads that are under way keep theirs.
  func dropExtents() {
    extents.withLock { $0 = Extents() }
  }

  // MARK: Endings

  /// The error that a reader gets for bytes that will never come.
  func failure() -> PatchbayError {
    let cause = entry?.cause ?? (code: .blobFailed, text: "")
    let what = "The blob \(key) (generation \(generation))"
    switch cause.code {
    case .abandoned:
      return PatchbayError(
        .abandoned, "\(what) was abandoned before it was complete.", cause: cause.text)
    case .removed: return PatchbayError(.removed, "\(what) was removed.", cause: cause.text)
    case .evicted: return PatchbayError(.evicted, "\(what) was evicted.", cause: cause.text)
    default:
      return PatchbayError(
        cause.code, "\(what) failed before it was complete.", cause: cause.text)
    }
  }
}
