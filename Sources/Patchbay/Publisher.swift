// A blob's writer. Bytes are copied straight into shared memory and covered; nothing goes through
// the broker but the making of extents and the ending. This file holds the ends and the bounds; the
// ways to write are in files of their own.

import PatchbayLayout
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

/// Writes one blob. All methods may be called from any thread at once; appends take turns.
///
/// A publisher that goes without `seal` has failed its blob: its readers get what is covered, then
/// `abandoned`. A joinable blob may have several, in several processes; it goes on when one of them
/// goes, and waits for the next one when the last has gone by `leave`.
public final class Publisher: Sendable {
  let handle: BlobHandle
  let inFlight = WritesInFlight()
  /// Whose turn it is to give extents back and to ask for others.
  let fetching = WritesInFlight()
  /// Nil for the policy `keep`.
  let windowWriter: WindowWriter?
  let spacePatience = SpinPatience()
  /// How long a subscriber may hold this publisher.
  let slowestLimit: Duration
  let appending = Mutex(AppendState())
  /// Wakes who waits for its turn to append.
  let turns = LineSignal()
  /// What a batch has copied into a blob with a map and will cover at its end; in flight until then.
  let batchedRange = Mutex<Range<Int>?>(nil)
  /// Whether others may publish the blob, too: then every write needs a claim.
  let isShared: Bool
  let claims = ClaimList()
  /// Whether there may be bytes that this publisher has not written.
  let looksAround: Bool
  let lookedAt = Mutex<BlobHandle?>(nil)
  private let ending = Mutex(Ending.none)
  /// Whether the blob was failed or this handle closed, and nothing will be written any more but what
  /// is in flight.
  private let hasGivenUp = Atomic<Bool>(false)
  /// Whether the broker knows that nothing will be written any more.
  private let hasToldQuiescent = Atomic<Bool>(false)

  /// How far this publisher is on its way to its end.
  fileprivate enum Ending {
    case none
    case sealing
    /// The broker was asked to seal and did not answer: the blob may be sealed, so nothing may be
    /// written, and only a repeated seal, or a failure, tells.
    case unanswered
    case failing
    /// Closed by its owner; the broker is told when nothing is in flight any more.
    case closing
    case ended
  }

  /// What a creation with these options gives; a join, as one of a joinable blob.
  init(_ handle: BlobHandle, _ options: BlobOptions) {
    self.handle = handle
    isShared = options.isJoinable
    looksAround = options.isJoinable || options.resumes
    slowestLimit = options.slowestLimit
    windowWriter =
      if let window = handle.window, let entry = handle.entry, let bell = handle.bell {
        WindowWriter(handle, window, entry, bell)
      } else {
        nil
      }
    if isShared { handle.session.enroll(self) }
  }

  /// The broker has made another publisher of this blob for this client: this one is over, though
  /// its leave was never answered.
  func supersede() {
    // relaxed: as in `endQuiescent`.
    hasToldQuiescent.store(true, ordering: .relaxed)
    ending.withLock { $0 = .ended }
    refuseWrites()
  }

  deinit {
    // Nothing is in flight: whatever writes holds the publisher.
    tellQuiescent()
    if ending.withLock({ $0 != .ended }) { abandon() }
  }

  private func abandon() {
    handle.dropExtents()
    handle.session.connection.post(.abandon(handle.grant.blob))
  }

  /// Whether nothing is in flight and, writes and appends being refused, nothing will be.
  private var isQuiescent: Bool {
    inFlight.isIdle && appending.withLock { !$0.isTaken && !$0.isLent }
  }

  /// To be called when a write, an append or a loan has ended.
  func tellIfQuiescent() {
    // sequentially consistent: after the departure under its lock. Whoever gives up raises the flag,
    // then looks whether anything is in flight; whoever departs leaves, then looks at the flag. GIVE-UP.
    guard hasGivenUp.load(ordering: .sequentiallyConsistent), isQuiescent else { return }
    tellQuiescent()
  }

  /// Tells the broker, once, that this publisher will not write into the blob's rings any more, so
  /// that they can serve another blob.
  private func tellQuiescent() {
    // relaxed: as in `endQuiescent`.
    guard handle.entry != nil, !hasToldQuiescent.exchange(true, ordering: .relaxed) else { return }
    handle.session.connection.post(.quiesced(handle.grant.blob))
  }

  /// The blob's key.
  public var key: BlobKey { handle.key }
  /// Which life of the key this publisher writes.
  public var generation: Generation { handle.generation }
  /// The announced length, nil if none was.
  public var byteCount: Int? { handle.grant.byteCount }
  /// Whether the blob was sealed or failed, or this handle closed.
  public var isEnded: Bool { ending.withLock { $0 == .ended || $0 == .closing } }

  /// The same, or a call that does so is under way.
  var isEnding: Bool { ending.withLock { $0 != .none && $0 != .unanswered } }

  static let closed = PatchbayError(
    .closed, "This publisher has ended: it was sealed, failed or closed.")
  static let sealing = PatchbayError(
    .closed, "This publisher is sealing or leaving its blob; nothing can be written any more.")

  // MARK: Bounds

  /// A range of this many bytes at a position.
  /// - Throws: `rangeOutOfBounds` when it leaves the announced length or the highest position.
  func checkedRange(at position: Int, _ count: Int) throws(PatchbayError) -> Range<Int> {
    let limit = byteCount ?? ExtentPlan.positionLimit
    guard position >= 0, position <= limit, count <= limit - position else {
      throw PatchbayError(
        .rangeOutOfBounds,
        "Writing \(count) bytes at \(position) of the blob \(key) leaves its "
          + (byteCount == nil
            ? "highest possible position \(limit)." : "announced length of \(limit) bytes."))
    }
    return position..<position + count
  }

  /// Calls `body` with each extent a range touches and the part of the range in it. All of them are
  /// mapped: who is about to write has seen to that.
  /// - Throws: `closed` when this publisher has ended meanwhile and let them go.
  func forEachExtent(
    _ range: Range<Int>, _ body: (Extent, Range<Int>) throws(PatchbayError) -> Void
  ) throws(PatchbayError) {
    var at = range.lowerBound
    while at < range.upperBound {
      guard let extent = handle.mappedExtent(at: at) else { throw Self.closed }
      let end = min(range.upperBound, extent.range.upperBound)
      try body(extent, at..<end)
      at = end
    }
  }

  func ring(_ range: Range<Int>) {
    handle.bell?.ring(handle.grant.wakeClasses.mask(of: range))
  }

  // MARK: Endings

  /// Completes the blob: its length and bytes never change again, and readers that reach the end
  /// see it as the end. Blocks until writes under way have ended and the broker has looked at what
  /// is covered.
  ///
  /// A joinable blob is sealed for all its publishers. Where a digest was asked for, the broker hashes
  /// what it has not hashed yet before it answers.
  /// - Throws: `holesAtSeal` with the first missing ranges, `lengthMismatch` for an announced
  ///   length not reached, or `rangeOverlap` while another publisher of the blob holds a claim:
  ///   then the blob is open still and writing can go on. `digestMismatch` when the content is not what
  ///   was expected: the blob has failed. `closed`, also while
  ///   another thread seals; `fenced`; `timedOut` or `noBroker`: when the broker did not answer the
  ///   blob may be sealed or not, nothing can be written, and `seal` can be called again.
  @available(*, noasync)
  public func seal(
    deadline: Deadline = .standard
  ) throws(PatchbayError) {
    let seal = try beginSealing()
    do throws(PatchbayError) {
      try stopAppending(until: MonotonicTime(deadline))
      try inFlight.close(Self.sealing, until: MonotonicTime(deadline))
      if let shortfall = try shortfall() {
        try handle.session.perform(shortfall.request, deadline: deadline)
        endFailed()
        throw shortfall.error
      }
      try handle.session.perform(
        try seal.request(of: self, writtenEnd: try writtenEnd()), deadline: deadline)
    } catch {
      sealRefused(seal, error)
      throw error
    }
    endQuiescent()
  }

  /// Goes from a joinable blob without ending it: other publishers go on, or the blob waits for one
  /// to join, until its idle limit. Blocks until writes under way have ended, and for the broker's
  /// answer. Claims of this publisher have ended then.
  /// - Throws: `notPermitted` for a blob that only its creator writes, `closed`, `timedOut`,
  ///   `noBroker`.
  @available(*, noasync)
  public func leave(deadline: Deadline = .standard) throws(PatchbayError) {
    let seal = try beginSealing()
    do throws(PatchbayError) {
      try stopAppending(until: MonotonicTime(deadline))
      try inFlight.close(Self.sealing, until: MonotonicTime(deadline))
      try handle.session.perform(seal.leaveRequest(of: self), deadline: deadline)
    } catch {
      sealRefused(seal, error)
      throw error
    }
    endQuiescent()
  }

  /// A seal, or a leave, under way.
  final class Seal {
    /// How far the publisher was before.
    fileprivate let before: Ending
    /// Whether the broker was asked: then only its answer tells what became of the blob.
    fileprivate var isAsked = false

    fileprivate init(_ before: Ending) { self.before = before }

    /// The message, when all writes have ended.
    /// - Parameter writtenEnd: where the written bytes end, as `Publisher.writtenEnd` says.
    func request(of publisher: Publisher, writtenEnd: Int?) throws(PatchbayError) -> Request {
      let length = if let writtenEnd { writtenEnd } else { try publisher.finalLength() }
      isAsked = true
      return .seal(SealRequest(blob: publisher.handle.grant.blob, byteCount: length))
    }

    func leaveRequest(of publisher: Publisher) -> Request {
      isAsked = true
      return .leave(publisher.handle.grant.blob)
    }
  }

  /// Enters the seal.
  func beginSealing() throws(PatchbayError) -> Seal {
    try ending.withLock { (ending) throws(PatchbayError) in
      switch ending {
      case .none, .unanswered: break
      case .sealing: throw Self.sealing
      case .failing, .closing, .ended: throw Self.closed
      }
      defer { ending = .sealing }
      return Seal(ending)
    }
  }

  /// Goes back to writing after a seal that was refused, unless the blob failed meanwhile, or by that.
  func sealRefused(_ seal: Seal, _ error: PatchbayError) {
    if seal.isAsked, error.code == .digestMismatch { return endFailed() }
    let isUnanswered = [.timedOut, .noBroker, .cancelled].contains(error.code)
    let next = seal.isAsked ? (isUnanswered ? Ending.unanswered : .none) : seal.before
    ending.withLock { ending in
      guard ending == .sealing else { return }
      ending = next
      guard next == .none else { return }
      inFlight.reopen()
      resumeAppending()
    }
  }

  private func finalLength() throws(PatchbayError) -> Int {
    guard handle.grant.order == .appendOnly else { return byteCount ?? inFlight.highestEnd }
    let end = appendEnd
    guard let byteCount, byteCount != end else { return end }
    throw PatchbayError(
      .lengthMismatch,
      "The blob \(key) was announced with \(byteCount) bytes, but only \(end) were appended. "
        + "Append the rest, or fail it.")
  }

  /// Ends the blob as failed. Readers get what is covered, then `blobFailed` with this cause.
  /// Blocks for the broker's answer; not for writes and loans under way, whose bytes may still be
  /// covered.
  /// - Parameters:
  ///   - cause: for people; at most 1024 bytes are kept.
  ///   - deadline: when to give up.
  /// - Throws: `closed`, `noBroker`, `timedOut`.
  @available(*, noasync)
  public func fail(
    _ cause: String, deadline: Deadline = .standard
  ) throws(PatchbayError) {
    try handle.session.perform(try beginFailing(cause), deadline: deadline)
    endFailed()
  }

  /// As `seal`, without holding a thread.
  /// - Throws: as the blocking `seal`. `cancelled`: as when the broker did not answer.
  public func seal(deadline: Deadline = .standard) async throws(PatchbayError) {
    let seal = try beginSealing()
    do throws(PatchbayError) {
      try await stopAppending(deadline: deadline)
      try await inFlight.close(Self.sealing, deadline: deadline)
      if let shortfall = try shortfall() {
        try await handle.session.perform(shortfall.request, deadline: deadline)
        endFailed()
        throw shortfall.error
      }
      try await handle.session.perform(
        try seal.request(of: self, writtenEnd: try await writtenEnd()), deadline: deadline)
    } catch {
      sealRefused(seal, error)
      throw error
    }
    endQuiescent()
  }

  /// As the blocking `fail`.
  /// - Throws: as the blocking `fail`; `cancelled`: the blob fails all the same, as soon as the
  ///   broker hears of it.
  public func fail(
    _ cause: String, deadline: Deadline = .standard
  ) async throws(PatchbayError) {
    let request = try beginFailing(cause)
    guard !Task.isCancelled else {
      handle.session.connection.post(request)
      endFailed()
      throw PatchbayError(
        .cancelled, "The task was cancelled; the broker has been told that the blob \(key) failed.")
    }
    try await handle.session.perform(request, deadline: deadline)
    endFailed()
  }

  /// Lets nothing new be written; the message that says why.
  func beginFailing(
    _ cause: String, _ code: PatchbayError.Code = .blobFailed
  ) throws(PatchbayError) -> Request {
    try ending.withLock { (ending) throws(PatchbayError) in
      guard ending != .ended, ending != .closing else { throw Self.closed }
      ending = .failing
    }
    refuseWrites()
    return .fail(
      FailRequest(
        blob: handle.grant.blob, code: code, cause: cause.cut(toUTF8Count: WireLimit.cause)))
  }

  /// Ends this handle. A blob that is not sealed has failed as abandoned, unless others publish it or
  /// it was created to wait for them. Does nothing the second time.
  public func close() {
    let wasOpen = ending.withLock { ending in
      guard ending != .ended, ending != .closing else { return false }
      ending = .closing
      return true
    }
    guard wasOpen else { return }
    refuseWrites()
    // The claims of a shared blob must outlive what is being written; then `deinit` ends them.
    guard !isShared || inFlight.isIdle else { return }
    ending.withLock { $0 = .ended }
    // sequentially consistent: before the look in `tellIfQuiescent`. GIVE-UP.
    hasGivenUp.store(true, ordering: .sequentiallyConsistent)
    tellIfQuiescent()
    abandon()
  }

  /// Lets nothing new be written. What is in flight is not waited for: it may be a loan of this very
  /// thread, and a byte that is covered after the failure is a right one.
  private func refuseWrites() {
    refuseAppends(Self.closed)
    // An append that waits for subscribers finds the refusal.
    handle.spaceBell?.ringAll()
    endBatch()
    inFlight.refuse(Self.closed)
  }

  /// After the broker has confirmed a seal or a leave, before which all writes had ended.
  func endQuiescent() {
    // relaxed: it decides nothing but whether a message is sent.
    hasToldQuiescent.store(true, ordering: .relaxed)
    end()
  }

  /// After the broker has confirmed a failure.
  func endFailed() {
    // sequentially consistent: before the look in `tellIfQuiescent`. GIVE-UP.
    hasGivenUp.store(true, ordering: .sequentiallyConsistent)
    tellIfQuiescent()
    end()
  }

  /// Another process publishes the blob now. What is in flight lands where nobody looks.
  func endTakenOver() {
    refuseWrites()
    // sequentially consistent: before the look in `tellIfQuiescent`. GIVE-UP.
    hasGivenUp.store(true, ordering: .sequentiallyConsistent)
    tellIfQuiescent()
    end()
  }

  private func end() {
    ending.withLock { $0 = .ended }
    refuseAppends(Self.closed)
    handle.dropExtents()
  }
}
