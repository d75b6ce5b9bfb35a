// The ends that nobody wants. A publisher says so itself, or goes without a seal; either way the
// blob has failed for good. A publisher that went may still write into rings it has mapped, so the
// epoch is raised with the same post that announces the failure: nothing it writes from then on
// counts, and whatever it asks under the old epoch is refused as fenced.

import PatchbayTypes
import PatchbayWire

extension Ledger {
  mutating func fail(
    _ session: SessionID, _ number: UInt64, _ request: FailRequest
  ) throws(PatchbayError) {
    _ = try published(request.blob, by: session, for: .fail)
    failBlob(
      request.blob.generation, request.code, request.cause.cut(toUTF8Count: WireLimit.cause),
      raisesEpoch: false)
    reply(session, number, .done)
  }

  mutating func abandon(
    _ session: SessionID, _ number: UInt64, _ reference: BlobReference
  ) throws(PatchbayError) {
    _ = try published(reference, by: session, for: .abandon)
    depart(session, reference.generation, .abandoned)
    reply(session, number, .done)
  }

  /// A publisher's session ended while the blob was open. Unless its process is gone, too, it may
  /// still write into rings that it has mapped.
  mutating func losePublisher(
    _ session: SessionID, _ generation: Generation, isProcessGone: Bool
  ) {
    guard let blob = blobs[generation], blob.isPublished(by: session) else { return }
    guard blob.isBorn else {
      discardUnborn(generation, nil)
      return
    }
    guard case .becomes(.failed) = LifeCycle.outcome(of: .publisherLost, in: blob.state) else {
      return
    }
    depart(
      session, generation, .ended, keepsClaims: !isProcessGone && !blob.extents.isEmpty)
  }

  func abandonedCause(_ session: SessionID, _ departure: Departure) -> String {
    guard let publisher = sessions[session] else {
      return "its publisher ended without sealing"
    }
    let name = publisher.name.isEmpty ? "" : " (\(publisher.name))"
    let who = "its publisher, process \(publisher.peer.process)\(name),"
    return switch departure {
    case .left: "\(who) left it"
    case .abandoned: "\(who) abandoned it without sealing"
    case .ended: "\(who) ended without sealing"
    case .undelivered: "\(who) could not be given its memory"
    }
  }

  /// Fails an open or suspended blob: posted and recorded before anybody is woken or answered.
  mutating func failBlob(
    _ generation: Generation, _ code: PatchbayError.Code, _ cause: String, raisesEpoch: Bool
  ) {
    guard let before = blobs[generation], before.state.isLive else { return }
    let orphans = orphanPendingRings(of: generation)
    dropFresh(of: generation)
    endWriting(generation)
    blobs[generation]?.state = .failed
    blobs[generation]?.causeCode = code
    blobs[generation]?.cause = cause
    blobs[generation]?.pendingSeal = nil
    dropDigest(generation)
    blobs[generation]?.modified = now.wall
    noteEnd(generation)
    if raisesEpoch { blobs[generation]?.epoch = before.nextEpoch }
    withdrawContainer(of: generation)
    guard let blob = blobs[generation] else { return }
    changed(generation)
    record(generation)
    post(generation)
    ring(generation)
    for waiter in (before.pendingSeal?.waiters ?? []) + orphans {
      refuse(waiter.session, waiter.number, blob.failure)
    }
    dismissCandidates(of: generation, blob.failure)
    forgetSuccessor(blob)
    dismissDemands(of: generation, blob.failure)
    settle(generation)
  }

  /// Takes away all that only an open or suspended blob has: publishers, claims, the idle limit.
  mutating func endWriting(_ generation: Generation) {
    guard let blob = blobs[generation] else { return }
    if blob.state == .open { openBlobCount -= 1 }
    for publisher in blob.publishers { endPublisher(publisher.session, generation) }
    blobs[generation]?.claims = []
    blobs[generation]?.isPaused = false
    blobs[generation]?.suspensionEnd = nil
  }

  /// Takes a publisher's handle away from its session and from the blob.
  mutating func endPublisher(_ session: SessionID, _ generation: Generation) {
    changePublishers(of: generation) { $0.removeAll { $0.session == session } }
    withdrawDemands(of: session, generation)
    sessions[session]?.handles[generation]?.publishes = false
    sessions[session]?.handleCount -= 1
    if sessions[session]?.handles[generation]?.isEmpty == true {
      sessions[session]?.handles[generation] = nil
    }
  }
}

extension BlobState {
  /// Whether it may still become complete.
  var isLive: Bool { self == .open || self == .suspended }
}

extension Blob {
  /// Epochs have 24 bits on the board, and 0 is a reader's.
  var nextEpoch: UInt32 {
    let next = (epoch &+ 1) & 0xff_ffff
    return next == 0 ? 1 : next
  }
}
