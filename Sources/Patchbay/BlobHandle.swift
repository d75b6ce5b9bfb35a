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
  /// The request that opened it, by which a reader is ended; 0 for one that only looks.
  private let opened: UInt64
  /// Nil for a blob that came whole in a message.
  let entry: BoardEntry?
  let bell: Doorbell?
  /// On which a publisher that waits for its subscribers is woken.
  let spaceBell: Doorbell?
  /// The one ring of a blob that keeps its last bytes only; nil for the policy `keep`.
  let window: Window?
  /// The same of another user's blob, which is not mapped.
  let foreignWindow: ForeignRing?
  private let isWritable: Bool
  private let extents: Mutex<Extents>
  /// What has left memory; for reading.
  let spooled = SpooledBytes()
  /// Extents that are being asked for, to write into: one question each, however many
  /// callers need it.
  private let growths = WritesInFlight()

  private struct Extents {
    var mapped: [Int: Extent] = [:]
    /// The one that was asked for last: nearly always the one that is asked for next.
    var latest: Extent?
    /// Extents that the broker said are not there, the board's extent version before it did, and
    /// where the next one starts.
    var missing: [Int: (version: UInt32, next: Int?)] = [:]
    /// Extents whose rings have ended, and how many were known to when each did: none of them serves
    /// this blob again, so a grant that says so was sent before, or is a lie.
    var ended: [Int: Ended] = [:]
    var endedCount = 0
    /// When each was last wanted for writing, for a publisher that may hold some only.
    var stamps: [Int: UInt64] = [:]
    var clock: UInt64 = 0
    /// Those that are full and have left memory for good: nothing can be written there.
    var full: Set<Int> = []

    mutating func stamp(_ index: Int) {
      clock += 1
      stamps[index] = clock
    }
  }

  /// One use of a ring.
  private struct RingLife: Hashable {
    let ringID: UInt64
    let useNumber: UInt32
  }

  private struct Ended {
    let ring: RingLife
    let count: Int
  }

  /// Takes over what a `created` or `opened` reply granted.
  /// - Parameter board: the board that the grant names; nil for a blob that came whole.
  init(
    _ session: Session, key: BlobKey, grant: BlobGrant, _ board: Board?, _ delivery: Delivery,
    isWritable: Bool
  ) throws(PatchbayError) {
    self.session = session
    self.key = key
    self.grant = grant
    opened = delivery.number
    self.isWritable = isWritable
    extents = Mutex(Extents())
    guard let board else {
      entry = nil
      bell = nil
      spaceBell = nil
      window = nil
      foreignWindow = nil
      return
    }
    guard Int(grant.entry) < board.entryCount else {
      throw PatchbayError(
        .protocolViolation,
        "The broker named entry \(grant.entry) of a board with \(board.entryCount).")
    }
    entry = board.entry(Int(grant.entry))
    bell = board.bell(Int(grant.entry))
    spaceBell = board.spaceBell(Int(grant.entry))
    guard grant.policy == .keep else {
      let (ring, shape) = try Self.windowRing(grant)
      window =
        grant.isForeign
        ? nil : try Self.mapWindow(session, ring, shape, delivery, isWritable: isWritable)
      foreignWindow =
        grant.isForeign
        ? ForeignRing(
          try delivery.takeDescriptor(), index: 0, start: 0, useNumber: ring.useNumber,
          geometry: try RingGeometry(dataByteCount: shape.ringByteCount, hasMap: false),
          window: shape)
        : nil
      return
    }
    window = nil
    foreignWindow = nil
    if let first = grant.extent { _ = try attachment(first, delivery.takeDescriptor()) }
  }

  private static func windowRing(
    _ grant: BlobGrant
  ) throws(PatchbayError) -> (ExtentGrant, WindowShape) {
    guard let ring = grant.extent, ring.index == 0, ring.dataByteCount == grant.plan.first else {
      throw PatchbayError(.protocolViolation, "The broker granted a window without its ring.")
    }
    let shape = try WindowShape(
      ringByteCount: ring.dataByteCount, segmentByteCount: grant.segment)
    return (ring, shape)
  }

  private static func mapWindow(
    _ session: Session, _ ring: ExtentGrant, _ shape: WindowShape, _ delivery: Delivery,
    isWritable: Bool
  ) throws(PatchbayError) -> Window {
    let geometry = try RingGeometry(dataByteCount: shape.ringByteCount, hasMap: false)
    return Window(
      try session.mappings.ring(
        delivery.takeDescriptor(), ring.ringID, geometry, isWritable: isWritable),
      ringID: ring.ringID, useNumber: ring.useNumber, shape: shape)
  }

  /// As `init`, with the board looked up; blocks when it is not mapped yet.
  convenience init(
    _ session: Session, key: BlobKey, grant: BlobGrant, _ delivery: Delivery, isWritable: Bool,
    deadline: Deadline
  ) throws(PatchbayError) {
    let board =
      grant.inlineBytes == nil ? try session.board(grant.board, deadline: deadline) : nil
    try self.init(session, key: key, grant: grant, board, delivery, isWritable: isWritable)
  }

  /// As the blocking `init`.
  static func made(
    _ session: Session, key: BlobKey, grant: BlobGrant, _ delivery: Delivery, isWritable: Bool,
    deadline: Deadline
  ) async throws(PatchbayError) -> BlobHandle {
    let board =
      grant.inlineBytes == nil ? try await session.board(grant.board, deadline: deadline) : nil
    return try BlobHandle(
      session, key: key, grant: grant, board, delivery, isWritable: isWritable)
  }

  /// The request that opened a reader, by which others can name it.
  var readerNumber: UInt64? { entry == nil || opened == 0 || isWritable ? nil : opened }

  /// The broker is told that a reader or an observer has ended.
  func endReading() {
    guard entry != nil, opened != 0 else { return }
    session.connection.post(.close(CloseRequest(blob: grant.blob, opened: opened)))
  }

  var generation: Generation { grant.blob.generation }
  var plan: ExtentPlan { grant.plan }
  /// How a window lies in its ring, whoever's it is; nil for the policy `keep`.
  var windowShape: WindowShape? { window?.shape ?? foreignWindow?.window }

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
  func mappedExtent(at position: Int) -> Extent? {
    extents.withLock { extents in
      if let latest = extents.latest, latest.range.contains(position) { return latest }
      guard let extent = extents.mapped[plan.index(of: position)] else { return nil }
      if isLimited { extents.stamp(extent.index) }
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

  /// The first extent that the range touches and this handle has not mapped; nil: all are mapped.
  func firstUnmapped(in range: Range<Int>) -> Int? {
    guard !range.isEmpty else { return nil }
    return extents.withLock { extents in
      if let latest = extents.latest, latest.range.clamped(to: range) == range { return nil }
      let touched = plan.index(of: range.lowerBound)...plan.index(of: range.upperBound - 1)
      return touched.first { extents.mapped[$0] == nil && !extents.full.contains($0) }
    }
  }

  // MARK: Extents that are held for writing

  /// Whether this handle may have some extents only for writing, and gives back what it needs no more.
  var isLimited: Bool { isWritable && grant.heldExtentLimit > 0 && grant.order == .any }

  /// The beginning of a range that can be written at once: it touches no more extents than a publisher
  /// may have.
  func stretch(of range: Range<Int>) -> Range<Int> {
    guard isWritable, grant.heldExtentLimit > 0, !range.isEmpty else { return range }
    let last = plan.index(of: range.lowerBound) + grant.heldExtentLimit - 1
    return range.clamped(to: range.lowerBound..<plan.range(of: last).upperBound)
  }

  /// Extents that this handle has and a range does not touch, the one first that was not wanted for the
  /// longest time; none while it may have more.
  func surplus(besides range: Range<Int>, all: Bool = false) -> [Extent] {
    extents.withLock { extents in
      guard all || extents.mapped.count >= grant.heldExtentLimit else { return [] }
      return extents.mapped.values.filter { !$0.range.overlaps(range) }.sorted {
        (extents.stamps[$0.index] ?? 0, $0.index) < (extents.stamps[$1.index] ?? 0, $1.index)
      }
    }
  }

  /// Whether the broker has said that all of an extent is covered.
  func isFull(_ index: Int) -> Bool { extents.withLock { $0.full.contains(index) } }

  /// Takes in that an extent is full and stands on disk.
  func noteFull(_ index: Int) { extents.withLock { _ = $0.full.insert(index) } }

  /// The parts of a range in which something may be covered, in order: those of extents that this
  /// handle has, and of full ones (nil).
  func writtenParts(of range: Range<Int>) -> [(part: Range<Int>, extent: Extent?)] {
    let full = extents.withLock { extents in
      extents.full.filter { plan.range(of: $0).overlaps(range) }
    }
    var parts: [(part: Range<Int>, extent: Extent?)] = mappedExtents(in: range).map {
      ($0.range.clamped(to: range), $0)
    }
    guard !full.isEmpty else { return parts }
    parts += full.map { (plan.range(of: $0).clamped(to: range), nil) }
    return parts.sorted { $0.part.lowerBound < $1.part.lowerBound }
  }

  // MARK: Extents to read

  /// The ring of another user's extent, if it is kept.
  private func foreignRing(_ index: Int) -> ForeignRing? {
    grant.isForeign ? session.foreignRings.ring(generation, index) : nil
  }

  /// The ring of another user's extent that holds a position, if it is kept.
  func foreignRing(at position: Int) -> ForeignRing? { foreignRing(plan.index(of: position)) }

  /// What stands behind an extent's number.
  enum Attachment {
    case extent(Extent)
    /// Of another user's blob.
    case foreign(ForeignRing)
    /// The publisher has not begun it; where the next one starts that it has, if there is one.
    case missing(next: Int?)
    /// It stands on disk.
    case spooled
    /// What is covered of it does.
    case scratch(ScratchPart)
  }

  /// What this handle knows of an extent.
  enum Knowledge {
    case known(Attachment)
    /// The broker has to be asked.
    case unknown(ExtentQuestion)
  }

  /// A question to the broker, where an extent is.
  struct ExtentQuestion {
    let index: Int
    /// Read before the question is sent, so a grant in between changes it and is asked for.
    let version: UInt32
    let request: Request
    /// How many extents were known to have left memory.
    let endedCount: Int

    /// How long the broker may take to tell where an extent is, even if the caller's deadline is
    /// sooner: the bytes may be there, and one look costs one question.
    static let leastTime = Duration.seconds(1)
  }

  /// What this handle knows of the extent with this index, for reading.
  func knowledge(of index: Int) -> Knowledge {
    if let extent = mappedExtent(index) { return .known(.extent(extent)) }
    if let ring = foreignRing(index) { return .known(.foreign(ring)) }
    if spooled.holds(index) { return .known(.spooled) }
    let version = entry?.extentVersion ?? 0
    if let part = spooled.part(index, version: version) { return .known(.scratch(part)) }
    guard index < Int(UInt32.max) else { return .known(.missing(next: nil)) }
    let (known, endedCount) = extents.withLock { ($0.missing[index], $0.endedCount) }
    if let known, known.version == version { return .known(.missing(next: known.next)) }
    return .unknown(
      ExtentQuestion(
        index: index, version: version,
        request: .attachExtent(ExtentRequest(generation: generation, index: index)),
        endedCount: endedCount))
  }

  /// Takes over the broker's answer; nil: it was out of date when it came, ask again.
  func take(
    _ answer: Result<Delivery, PatchbayError>, to question: ExtentQuestion
  ) throws(PatchbayError) -> Attachment? {
    switch answer {
    case .success(let delivery):
      if case .spooled(let grant) = delivery.reply {
        guard grant.index == question.index else { throw Session.unexpected(delivery.reply) }
        try spooled.take(grant, delivery.takeDescriptor())
        return .spooled
      }
      if case .scratch(let grant) = delivery.reply {
        return .scratch(try scratchPart(grant, delivery, question))
      }
      if case .imported(let grant) = delivery.reply {
        try takeFile(grant, delivery.takeDescriptor(), for: question)
        return .spooled
      }
      let granted = try Self.extent(of: delivery, index: question.index)
      guard try isInMemory(granted, question) else { return nil }
      return try attachment(granted, delivery.takeDescriptor())
    case .failure(let error) where error.code == .rangeOutOfBounds:
      extents.withLock { $0.missing[question.index] = (question.version, error.resumePosition) }
      return .missing(next: error.resumePosition)
    case .failure(let error): throw error
    }
  }

  private func scratchPart(
    _ grant: ScratchGrant, _ delivery: Delivery, _ question: ExtentQuestion
  ) throws(PatchbayError) -> ScratchPart {
    let planned = plan.range(of: question.index)
    guard grant.index == question.index, grant.dataByteCount <= planned.count else {
      throw Session.unexpected(delivery.reply)
    }
    let part = try ScratchPart(
      grant, start: planned.lowerBound, delivery.takeDescriptor())
    spooled.take(part, version: question.version)
    return part
  }

  private func takeFile(
    _ grant: ImportGrant, _ descriptor: consuming Descriptor, for question: ExtentQuestion
  ) throws(PatchbayError) {
    guard question.index == 0, grant.stamp.byteCount == byteCount else {
      throw PatchbayError(
        .protocolViolation,
        "A file of \(grant.stamp.byteCount) bytes came for extent \(question.index) of the blob "
          + "\(key), which has \(byteCount.map { "\($0)" } ?? "an unknown number").")
    }
    spooled.take(ImportedFile(descriptor, stamp: grant.stamp, key: key), extent: 0)
  }

  /// Finds the extent with this index, for reading. Blocks for the broker's answer.
  /// - Parameter onBound: called now and then while the broker does not answer; may throw.
  @discardableResult
  func attach(
    _ index: Int, deadline: Deadline, onBound: () throws(PatchbayError) -> Void = {}
  ) throws(PatchbayError) -> Attachment {
    while true {
      switch knowledge(of: index) {
      case .known(let attachment): return attachment
      case .unknown(let question):
        let answer = Result { () throws(PatchbayError) in
          try session.connection.call(
            question.request, deadline: deadline.atLeast(ExtentQuestion.leastTime),
            onBound: onBound)
        }
        if let attachment = try take(answer, to: question) { return attachment }
      }
    }
  }

  /// As the blocking `attach`.
  /// - Parameter check: asked now and then while the broker does not answer; may throw.
  @discardableResult
  func attach(
    _ index: Int, deadline: Deadline,
    check: @escaping @Sendable () throws(PatchbayError) -> Void = {}
  ) async throws(PatchbayError) -> Attachment {
    while true {
      switch knowledge(of: index) {
      case .known(let attachment): return attachment
      case .unknown(let question):
        let answer: Result<Delivery, PatchbayError>
        do throws(PatchbayError) {
          answer = .success(
            try await session.connection.call(
              question.request, deadline: deadline.atLeast(ExtentQuestion.leastTime),
              check: check))
        } catch {
          answer = .failure(error)
        }
        if let attachment = try take(answer, to: question) { return attachment }
      }
    }
  }

  // MARK: Extents to write

  /// Maps all extents that the range touches, for writing; the broker makes those that are not
  /// there. Blocks for its answers.
  func grow(_ range: Range<Int>) throws(PatchbayError) {
    while let index = firstUnmapped(in: range) {
      try checkIndex(index)
      let question = index..<index + 1
      try growths.enter(question, until: MonotonicTime(Deadline.standard)) {}
      defer { growths.leave(question, coveredTo: index) }
      // Another caller may have asked meanwhile.
      guard mappedExtent(index) == nil else { continue }
      _ = try adopt(
        try session.connection.call(growRequest(index), deadline: .standard), index: index)
    }
  }

  /// As the blocking `grow`.
  func grow(_ range: Range<Int>) async throws(PatchbayError) {
    while let index = firstUnmapped(in: range) {
      try checkIndex(index)
      let question = index..<index + 1
      try await growths.enter(question, deadline: .standard) {}
      defer { growths.leave(question, coveredTo: index) }
      // Another caller may have asked meanwhile.
      guard mappedExtent(index) == nil else { continue }
      let delivery = try await session.connection.call(growRequest(index), deadline: .standard)
      _ = try adopt(delivery, index: index)
    }
  }

  private func growRequest(_ index: Int) -> Request {
    .grow(GrowRequest(blob: grant.blob, index: index))
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
    try map(try Self.extent(of: delivery, index: index), delivery.takeDescriptor())
  }

  /// The extent that was asked for.
  private static func extent(
    of delivery: Delivery, index: Int
  ) throws(PatchbayError) -> ExtentGrant {
    guard case .extent(let granted) = delivery.reply else {
      throw Session.unexpected(delivery.reply)
    }
    guard granted.index == index else {
      throw PatchbayError(
        .protocolViolation, "Extent \(index) was asked for and \(granted.index) came.")
    }
    return granted
  }

  /// Where an extent stands that was granted.
  private func place(
    of granted: ExtentGrant
  ) throws(PatchbayError) -> (start: Int, geometry: RingGeometry) {
    let geometry = try RingGeometry(
      dataByteCount: granted.dataByteCount, hasMap: grant.order == .any)
    let planned = plan.range(of: granted.index)
    guard granted.dataByteCount <= planned.count else {
      throw PatchbayError(
        .protocolViolation,
        "Extent \(granted.index) has \(granted.dataByteCount) bytes; its plan allows "
          + "\(planned.count).")
    }
    return (planned.lowerBound, geometry)
  }

  /// Takes an extent over: maps it, or keeps its descriptor when it is another user's.
  private func attachment(
    _ granted: ExtentGrant, _ descriptor: consuming Descriptor
  ) throws(PatchbayError) -> Attachment {
    guard grant.isForeign else { return .extent(try map(granted, descriptor)) }
    let (start, geometry) = try place(of: granted)
    let ring = ForeignRing(
      descriptor, index: granted.index, start: start, ringID: granted.ringID,
      useNumber: granted.useNumber, geometry: geometry, window: nil)
    return .foreign(session.foreignRings.keep(ring, generation))
  }

  private func map(
    _ granted: ExtentGrant, _ descriptor: borrowing Descriptor
  ) throws(PatchbayError) -> Extent {
    let (start, geometry) = try place(of: granted)
    let ring = try session.mappings.ring(
      descriptor, granted.ringID, geometry, isWritable: isWritable)
    let extent = Extent(
      ring, index: granted.index, start: start, ringID: granted.ringID,
      useNumber: granted.useNumber)
    let (kept, isNew) = extents.withLock { extents in
      // Two readers may have asked at once: one extent serves both.
      if let first = extents.mapped[granted.index] { return (first, false) }
      extents.mapped[granted.index] = extent
      if isLimited { extents.stamp(granted.index) }
      return (extent, true)
    }
    // A publisher needs to know all that it has written; its extents are as many as its blob's.
    if isNew, !isWritable { session.mappings.hold(granted.index, of: self) }
    return kept
  }

  /// Takes in that the ring of an extent serves another use, or none: the broker tells where the bytes
  /// are now.
  func noteEnded(_ extent: Extent) {
    noteEnded(extent.index, RingLife(ringID: extent.ringID, useNumber: extent.useNumber))
    dropExtent(extent.index, extent)
  }

  /// The same of another user's ring.
  func noteEnded(_ ring: ForeignRing) {
    session.foreignRings.drop(ring, of: generation)
    noteEnded(ring.index, RingLife(ringID: ring.ringID, useNumber: ring.useNumber))
  }

  private func noteEnded(_ index: Int, _ ring: RingLife) {
    extents.withLock { extents in
      guard extents.ended[index]?.ring != ring else { return }
      extents.endedCount += 1
      extents.ended[index] = Ended(ring: ring, count: extents.endedCount)
    }
  }

  /// Whether a ring that was granted can be the extent's: not when it was known to have ended before
  /// the broker was asked.
  private func isInMemory(
    _ granted: ExtentGrant, _ question: ExtentQuestion
  ) throws(PatchbayError) -> Bool {
    guard let ended = extents.withLock({ $0.ended[question.index] }),
      ended.ring == RingLife(ringID: granted.ringID, useNumber: granted.useNumber)
    else { return true }
    guard ended.count <= question.endedCount else { return false }
    throw PatchbayError(
      .corrupt,
      "The ring of extent \(question.index) of the blob \(key) does not say that it serves this blob: "
        + "a process of its publisher's user has written over its header.")
  }

  /// Lets an extent go that is asked for again when it is needed.
  /// - Parameter extent: only this one; nil: whatever is mapped.
  func dropExtent(_ index: Int, _ extent: Extent? = nil) {
    let dropped = extents.withLock { extents -> Extent? in
      if let extent, extents.mapped[index] !== extent { return nil }
      if extents.latest?.index == index { extents.latest = nil }
      return extents.mapped.removeValue(forKey: index)
    }
    // Unmapped here, outside of the lock.
    _ = consume dropped
  }

  /// Unmaps everything; views and pieces of reads that are under way keep theirs.
  func dropExtents() {
    extents.withLock { $0 = Extents() }
    if grant.isForeign { session.foreignRings.drop(generation) }
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
    case .corrupt:
      return PatchbayError(
        .corrupt, "\(what) has other bytes than it had. Publish it again.", cause: cause.text)
    default:
      return PatchbayError(
        cause.code, "\(what) failed before it was complete.", cause: cause.text)
    }
  }
}
