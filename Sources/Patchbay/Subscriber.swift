// A blob's reader. Bytes are copied straight out of shared memory; the broker is asked once per
// extent. This file holds looking and waiting; what is done with the bytes found is in others.

import PatchbayLayout
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

/// Reads one blob, complete or not. All methods may be called from any thread at once; reads at a
/// position do not disturb each other.
public final class Subscriber: Sendable {
  let handle: BlobHandle
  let patience = SpinPatience()
  private let isClosed = Atomic<Bool>(false)
  let waiterCount = Atomic<Int>(0)
  private let holds = Mutex(Holds())

  /// What keeps the broker's side of this handle alive.
  private struct Holds {
    var leaseCount = 0
    /// Calls that use the bytes in place, without a lease.
    var useCount = 0
    var isClosed = false

    /// Whether the broker can be told that this handle has ended.
    var isOver: Bool { isClosed && leaseCount == 0 && useCount == 0 }
  }

  init(_ handle: BlobHandle) { self.handle = handle }

  deinit { close() }

  /// The blob's key.
  public var key: BlobKey { handle.key }
  /// Which life of the key this subscriber reads. A blob created anew under the key is another.
  public var generation: Generation { handle.generation }
  /// Bytes in all: from the start when the length was announced, else once sealed; nil until then.
  public var byteCount: Int? { handle.byteCount }
  /// What becomes of its bytes when memory is short or readers are slow.
  package var policy: FlowPolicy { handle.grant.policy }
  /// Where the blob stands now.
  public var state: BlobState { handle.state }

  /// Ends this handle. Its own waiting calls throw `closed`; leases stay good until they end. Does
  /// nothing the second time.
  public func close() {
    // sequentially consistent (both): a waiter counts itself, then looks at the flag; this raises
    // the flag, then looks for waiters. CLOSE.
    guard !isClosed.exchange(true, ordering: .sequentiallyConsistent) else { return }
    // sequentially consistent: as above. CLOSE.
    if waiterCount.load(ordering: .sequentiallyConsistent) > 0 { handle.bell?.ringAll() }
    handle.dropExtents()
    let isLast = holds.withLock { holds in
      holds.isClosed = true
      return holds.isOver
    }
    if isLast { handle.endReading() }
  }

  /// One lease more.
  /// - Throws: `closed`, `limitReached`.
  func countLease() throws(PatchbayError) {
    try holds.withLock { (holds) throws(PatchbayError) in
      guard !holds.isClosed else { throw Self.closed }
      guard holds.leaseCount < Self.leaseLimit else {
        throw PatchbayError(
          .limitReached,
          "This subscriber of \(key) holds \(holds.leaseCount) leases, the most it can. End one "
            + "first.")
      }
      holds.leaseCount += 1
    }
  }

  /// One lease less; the last one of a closed handle ends it for the broker.
  func leaseEnded() {
    let isLast = holds.withLock { holds in
      holds.leaseCount -= 1
      return holds.isOver
    }
    if isLast { handle.endReading() }
  }

  /// Before bytes are used in place: until `endUse` their rings stay this blob's.
  /// - Throws: `closed`.
  func beginUse() throws(PatchbayError) {
    try holds.withLock { (holds) throws(PatchbayError) in
      guard !holds.isClosed else { throw Self.closed }
      holds.useCount += 1
    }
  }

  func endUse() {
    let isLast = holds.withLock { holds in
      holds.useCount -= 1
      return holds.isOver
    }
    if isLast { handle.endReading() }
  }

  /// Whether this handle has kept the rings its blob's all the time until now: the look after a
  /// copy. Once it has been closed they may serve another blob.
  var isHolding: Bool {
    // relaxed: the fence of the look at the tag, just before, orders it behind the copy. Whoever has
    // copied a byte of the next use comes after its beginning, and that after the closing. CLOSE.
    !isClosed.load(ordering: .relaxed)
  }

  /// Looks into the rings. What is found there, or goes wrong there, is this blob's only if this
  /// handle has kept the rings until now: closed, they may serve another blob, or none.
  /// - Throws: `closed`; else as `look`.
  func looking<Sight>(
    _ look: () throws(PatchbayError) -> Sight
  ) throws(PatchbayError) -> Sight {
    let sight: Sight
    do throws(PatchbayError) {
      sight = try look()
    } catch {
      try checkNotClosed()
      throw error
    }
    try checkNotClosed()
    return sight
  }

  // MARK: Looking

  /// What stands at a position.
  enum Found: Sendable {
    /// Covered bytes from the position to `end` in this extent.
    case bytes(Extent, end: Int)
    /// As `bytes`, in a window: they may go at any moment.
    case passing(Window, end: Int)
    /// As `bytes`, or as `passing`, in a ring of another user: to be copied through its descriptor.
    case foreign(ForeignRing, end: Int)
    case inline([UInt8])
    /// As `bytes`, read from disk.
    case spooled(SpooledSegment, end: Int)
    case endOfBlob
  }

  static let closed = PatchbayError(.closed, "This subscriber was closed.")

  func checkNotClosed() throws(PatchbayError) {
    // sequentially consistent: as in `close`. Pairs with CLOSE.
    guard !isClosed.load(ordering: .sequentiallyConsistent) else { throw Self.closed }
  }

  /// What a look without waiting has to say.
  enum Look: Sendable {
    case found(Found)
    case nothingYet
    /// The broker has to be asked for this extent first.
    case needsExtent(Int)
    /// It stands on disk and has to be read first.
    case needsSegment(SpooledBytes.Place)
  }

  /// What stands at a position. Asks nobody and never waits.
  /// - Parameters:
  ///   - asked: the position.
  ///   - count: how many bytes are of interest, at least 1.
  /// - Throws: the blob's failure when the bytes will never come; `closed`.
  func look(at asked: Int, count: Int) throws(PatchbayError) -> Look {
    try checkNotClosed()
    // No blob is longer than the highest position, so whatever is asked behind it is asked there.
    let position = min(asked, ExtentPlan.positionLimit)
    let limit = position + min(count, ExtentPlan.positionLimit)
    guard let entry = handle.entry else { return .found(lookInline(at: position)) }
    // What is covered is there in any state.
    let look = try covered(at: position, limit: limit)
    guard case .nothingYet = look else { return look }
    // The state is loaded before the map: what was covered before a failure or seal is found.
    let state = entry.status.state(of: generation) ?? .gone
    let lookAgain = try covered(at: position, limit: limit)
    guard case .nothingYet = lookAgain else { return lookAgain }
    return try standing(at: position, state)
  }

  /// What an uncovered position means in a state that was loaded before the map.
  private func standing(at position: Int, _ state: BlobState) throws(PatchbayError) -> Look {
    switch state {
    case .open, .suspended: return .nothingYet
    case .sealed:
      guard let byteCount = handle.byteCount, position < byteCount else {
        return .found(.endOfBlob)
      }
      throw PatchbayError(
        .corrupt,
        "Byte \(position) of the sealed blob \(key) (\(byteCount) bytes) is not covered.")
    case .failed: throw handle.failure()
    case .gone:
      throw PatchbayError(
        .removed, "The broker no longer holds generation \(generation) of the blob \(key).")
    }
  }

  @inline(__always)
  private func covered(at position: Int, limit: Int) throws(PatchbayError) -> Look {
    guard position < (handle.byteCount ?? ExtentPlan.positionLimit) else { return .nothingYet }
    if let window = handle.window {
      guard window.isCurrent, position < window.frontier else { return .nothingYet }
      guard position >= window.base else {
        throw try looking { handle.overrun(at: position, window) }
      }
      return .found(.passing(window, end: min(limit, window.frontier)))
    }
    if handle.grant.isForeign { return try coveredForeign(at: position, limit: limit) }
    guard let extent = handle.mappedExtent(at: position) else {
      return unattached(position, limit: limit)
    }
    guard extent.isCurrent else {
      handle.noteEnded(extent)
      return .needsExtent(extent.index)
    }
    let end = extent.coveredEnd(
      from: position, limit: min(limit, handle.byteCount ?? limit))
    if end > position { return .found(.bytes(extent, end: end)) }
    // Nothing may stand there because the ring has begun its next use.
    guard extent.isStillCurrent else {
      handle.noteEnded(extent)
      return .needsExtent(extent.index)
    }
    return .nothingYet
  }

  private func coveredForeign(at position: Int, limit: Int) throws(PatchbayError) -> Look {
    guard let ring = handle.foreignWindow ?? handle.foreignRing(at: position) else {
      return unattached(position, limit: limit)
    }
    let limit = min(limit, handle.byteCount ?? limit)
    let look = try looking { () throws(PatchbayError) in
      try ring.look(at: position, limit: limit)
    }
    switch look {
    case .nothing:
      guard try !looking(ring.isCurrent) else { return .nothingYet }
      return unattachedAgain(position, ring)
    case .covered(let end): return .found(.foreign(ring, end: end))
    case .gone:
      throw try looking { () throws(PatchbayError) in try handle.overrun(at: position, ring) }
    }
  }

  /// Where an extent is not attached: it may be asked for, or is known not to be there.
  private func unattached(_ position: Int, limit: Int) -> Look {
    let index = handle.plan.index(of: position)
    let (kept, place) = handle.spooled.look(
      at: position, in: index, byteCount: handle.byteCount)
    if let kept { return .found(.spooled(kept, end: min(kept.range.upperBound, limit))) }
    if let place { return .needsSegment(place) }
    switch handle.knowledge(of: index) {
    case .unknown: return .needsExtent(index)
    case .known: return .nothingYet
    }
  }

  /// The ring of another user's blob serves another use, or none.
  private func unattachedAgain(_ position: Int, _ ring: ForeignRing) -> Look {
    guard ring.window == nil else { return .nothingYet }
    handle.noteEnded(ring)
    return .needsExtent(ring.index)
  }

  /// What was read from disk, at a position.
  func found(_ segment: SpooledSegment, count: Int, at position: Int) -> Found {
    .spooled(
      segment, end: min(segment.range.upperBound, position + min(count, segment.bytes.count)))
  }

  private func lookInline(at position: Int) -> Found {
    let bytes = handle.grant.inlineBytes ?? []
    return position < bytes.count ? .inline(bytes) : .endOfBlob
  }

  /// What stands at a position; nil while nothing does. Blocks only while the broker is asked for
  /// an extent.
  /// - Parameter deadline: when to give up asking the broker, but not within a second.
  /// - Throws: as the look that does not wait; `timedOut`, `noBroker`.
  func look(at position: Int, count: Int, deadline: Deadline) throws(PatchbayError) -> Found? {
    while true {
      switch try look(at: position, count: count) {
      case .found(let found): return found
      case .nothingYet: return nil
      case .needsExtent(let index):
        try handle.attach(index, deadline: deadline, onBound: checkNotClosed)
      case .needsSegment(let place):
        return found(try handle.spooled.load(place), count: count, at: position)
      }
    }
  }

  /// Waits until something stands at a position.
  /// - Throws: `timedOut`, `noBroker`, and as `look`.
  func find(at position: Int, count: Int, deadline: Deadline) throws(PatchbayError) -> Found {
    try checkPosition(position)
    func look() throws(PatchbayError) -> Found? {
      try self.look(at: position, count: count, deadline: deadline)
    }
    if let found = try look() { return found }
    guard let want = want(at: position, count: count) else {
      return try wait(at: position, deadline: deadline, look)
    }
    // What it waited for may be there before the rest that is fetched with it.
    defer { want.cancel() }
    return try wait(at: position, deadline: deadline) { () throws(PatchbayError) in
      if let found = try look() { return found }
      try want.check()
      return nil
    }
  }

  func checkPosition(_ position: Int) throws(PatchbayError) {
    guard position >= 0 else {
      throw PatchbayError(
        .rangeOutOfBounds, "A read at \(position) of the blob \(key): positions begin at 0.")
    }
  }

  /// Waits on the class of a position until `look` finds something.
  func wait<Result>(
    at position: Int, deadline: Deadline,
    _ look: () throws(PatchbayError) -> Result?
  ) throws(PatchbayError) -> Result {
    guard let bell = handle.bell else { throw Self.closed }
    // sequentially consistent (both): as in `close`. CLOSE.
    waiterCount.add(1, ordering: .sequentiallyConsistent)
    // sequentially consistent: as above. CLOSE.
    defer { waiterCount.subtract(1, ordering: .sequentiallyConsistent) }
    let found = try bell.wait(
      for: handle.grant.wakeClasses.bit(of: position), until: MonotonicTime(deadline),
      patience: patience,
      onBound: { () throws(PatchbayError) in
        try handle.session.connection.checkAlive()
      }, look)
    guard let found else { throw timedOut(position) }
    return found
  }

  func timedOut(_ position: Int) -> PatchbayError {
    PatchbayError(
      .timedOut,
      "Byte \(position) of the blob \(key) was not there before the deadline "
        + "(state: \(handle.state)).")
  }
}
