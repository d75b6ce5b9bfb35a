// Publishers that come and go. A joinable blob is open while somebody publishes it and suspended
// while nobody does: its bytes are kept for whoever joins next, until its idle limit. So the last
// publisher may leave, and if the blob was given an idle limit, it may even die; without one, a blob
// whose last publisher goes without a word has failed, as an exclusive one has.

import PatchbayTypes
import PatchbayWire

extension Ledger {
  /// How a publisher goes.
  enum Departure {
    /// It said that others, or nobody, will go on.
    case left
    case abandoned
    /// Its session ended.
    case ended
    case undelivered
  }

  mutating func join(
    _ session: SessionID, _ number: UInt64, _ request: JoinRequest
  ) throws(PatchbayError) {
    guard !isDraining else { throw .draining }
    guard let blob = visible(request.key, to: session) else { throw .noSuchKey(request.key) }
    let generation = blob.origin.generation
    if let wanted = request.generation, wanted != generation {
      throw .otherGeneration(request.key, wanted: wanted, found: generation)
    }
    switch LifeCycle.outcome(of: .join, in: blob.state) {
    case .refusedWithCause: throw blob.failure
    case .refused(let code): throw .ended(blob, step: .join, code: code)
    case .stays, .becomes, .begins: break
    }
    if blob.publishers.contains(BlobPublisher(session: session, number: number)) {
      // Asked again by who did not get the answer.
      confirm(session, generation)
      return grantJoin(session, number, generation)
    }
    try checkJoin(session, blob)
    changePublishers(of: generation) {
      $0.append(BlobPublisher(session: session, number: number))
    }
    sessions[session]?.handles[generation, default: Handle()].publishes = true
    sessions[session]?.handleCount += 1
    if blob.state == .suspended { reopen(generation) }
    updateIdle(generation)
    grantJoin(session, number, generation)
  }

  private func checkJoin(_ session: SessionID, _ blob: Blob) throws(PatchbayError) {
    guard blob.isJoinable else { throw .notJoinable(blob) }
    guard sessions[session]?.peer.uid == blob.origin.access.uid else { throw .foreignBlob(blob) }
    guard !blob.isPublished(by: session) else { throw .joinedAlready(blob) }
    guard blob.publishers.count < limits.publishersPerBlob else {
      throw .tooManyPublishers(blob, limit: limits.publishersPerBlob)
    }
    try checkHandles(session)
  }

  /// Tells a session that it publishes a blob.
  mutating func grantJoin(
    _ session: SessionID, _ number: UInt64, _ generation: Generation
  ) {
    guard let blob = blobs[generation] else { return }
    let (extent, descriptors) = grantFirst(of: blob, RequestID(session: session, number: number))
    reply(session, number, .joined(blob.grant(epoch: blob.epoch, extent: extent)), descriptors)
  }

  /// Somebody publishes a suspended blob from now on.
  mutating func reopen(_ generation: Generation) {
    blobs[generation]?.state = .open
    blobs[generation]?.suspensionEnd = nil
    openBlobCount += 1
    followDigest(generation)
    changed(generation)
    record(generation)
    post(generation)
    ring(generation)
  }

  mutating func leave(
    _ session: SessionID, _ number: UInt64, _ reference: BlobReference
  ) throws(PatchbayError) {
    if let blob = blobs[reference.generation], blob.isBorn, blob.isPublished(by: session),
      blob.epoch == reference.epoch
    {
      guard blob.isJoinable || blob.isProduced else { throw .notJoinable(blob) }
      depart(session, reference.generation, .left)
    }
    // Whoever leaves has ended its writes before.
    forgetWriter(session, reference)
    reply(session, number, .done)
  }

  /// Ends a publisher's handle of a blob that is open, and decides what becomes of the blob.
  /// - Parameter keepsClaims: the publisher may still be writing.
  mutating func depart(
    _ session: SessionID, _ generation: Generation, _ departure: Departure,
    keepsClaims: Bool = false
  ) {
    guard let before = blobs[generation], before.state == .open, before.isPublished(by: session)
    else { return }
    let cause = abandonedCause(session, departure)
    if before.isProduced, departure != .abandoned {
      return loseProducer(
        session, before, cause: cause, mayWrite: keepsClaims, waitsForExit: true)
    }
    guard before.isJoinable else {
      failBlob(generation, .abandoned, cause, raisesEpoch: true)
      return
    }
    let waiting = forgetWaiters(of: session, generation)
    endPublisher(session, generation)
    if !keepsClaims { dropClaims(of: session, generation) }
    if blobs[generation]?.publishers.isEmpty == true {
      loseLast(before, departure, cause)
    }
    for number in waiting { refuse(session, number, .departed(before)) }
    settle(generation)
  }

  /// The blob has no publisher any more.
  mutating func loseLast(_ blob: Blob, _ departure: Departure, _ cause: String) {
    let generation = blob.origin.generation
    let terms = blob.origin.terms
    let isKept = departure == .left || terms.ownership == .ownerless || terms.idleLimit != nil
    if isKept, blob.isNamed {
      suspend(generation)
    } else if departure == .left {
      failBlob(
        generation, .removed, "it was removed, and then its last publisher left",
        raisesEpoch: true)
    } else {
      failBlob(generation, .abandoned, cause, raisesEpoch: true)
    }
  }

  mutating func suspend(_ generation: Generation) {
    openBlobCount -= 1
    blobs[generation]?.state = .suspended
    blobs[generation]?.pendingSeal = nil
    withdrawContainer(of: generation)
    blobs[generation]?.modified = now.wall
    awaitPublisher(generation)
    changed(generation)
    record(generation)
    post(generation)
    ring(generation)
  }

  /// Takes the requests of one session that wait for something of a blob; their numbers.
  mutating func forgetWaiters(
    of session: SessionID, _ generation: Generation
  ) -> [UInt64] {
    guard let blob = blobs[generation] else { return [] }
    var numbers: [UInt64] = []
    for (_, ring) in blob.pendingExtents.sorted(by: { $0.key < $1.key }) {
      numbers += rings[ring]?.takeWaiters(of: session) ?? []
    }
    if var pending = blob.pendingSeal {
      numbers += pending.waiters.take(of: session)
      // A seal that nobody waits for is not to happen.
      blobs[generation]?.pendingSeal = pending.waiters.isEmpty ? nil : pending
      if pending.waiters.isEmpty { withdrawContainer(of: generation) }
    }
    return numbers
  }

  // MARK: Idle blobs

  /// From now on a suspended blob has its idle limit to find a publisher.
  mutating func awaitPublisher(_ generation: Generation) {
    guard let blob = blobs[generation] else { return }
    let limit = suspensionLimit(of: blob)
    let end = now.monotonicNanoseconds.addingClamped(limit.wholeNanoseconds)
    blobs[generation]?.suspensionEnd = end
    guard !blob.isAwaited else { return }
    blobs[generation]?.isAwaited = true
    suspensions.push(Suspension(end: end, generation: generation))
  }

  mutating func endLongSuspensions() {
    while let first = suspensions.first, first.end <= now.monotonicNanoseconds {
      _ = suspensions.pop()
      guard let blob = blobs[first.generation] else { continue }
      blobs[first.generation]?.isAwaited = false
      guard blob.state == .suspended, let end = blob.suspensionEnd else { continue }
      if blob.production.isUnderWay {
        awaitPublisher(first.generation)
      } else if end > now.monotonicNanoseconds {
        blobs[first.generation]?.isAwaited = true
        suspensions.push(Suspension(end: end, generation: first.generation))
      } else if let hindrance = blob.production.hindrance {
        endRefit(of: first.generation, with: hindrance)
      } else {
        let limit = suspensionLimit(of: blob)
        failBlob(
          first.generation, .abandoned,
          blob.isProduced
            ? "its publisher was lost, and nobody went on with it within \(limit)"
            : "nobody joined it within its idle limit of \(limit)",
          raisesEpoch: true)
      }
    }
  }

  private func suspensionLimit(of blob: Blob) -> Duration {
    blob.isProduced ? Production.candidatePatience : blob.origin.terms.idleLimit ?? limits.idle
  }
}

/// When a suspended blob is given up, unless somebody has joined meanwhile. A blob has at most one,
/// with the end it had when it was put there; ends only grow.
struct Suspension: Sendable, Hashable, Comparable {
  let end: Int64
  let generation: Generation
  static func < (left: Self, right: Self) -> Bool {
    (left.end, left.generation) < (right.end, right.generation)
  }
}

extension [RequestID] {
  /// Takes out those of one session; their numbers.
  mutating func take(of session: SessionID) -> [UInt64] {
    let numbers = filter { $0.session == session }.map(\.number)
    removeAll { $0.session == session }
    return numbers
  }
}

extension Ring {
  mutating func takeWaiters(of session: SessionID) -> [UInt64] { waiters.take(of: session) }
}
