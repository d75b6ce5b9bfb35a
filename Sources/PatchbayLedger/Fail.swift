// The ends that nobody wants. A publisher says so itself, or goes without a seal; either way the
// blob has failed for good. A publisher that went may still write into rings it has mapped, so the
// epoch is raised with the same post that announces the failure: nothing it writes from then on
// counts, and whatever it asks under the old epoch is refused as fenced.

import PatchbayTypes
import PatchbayWire

extension Ledger {
  /// How a publisher went, as its blob's cause tells it.
  enum Departure { case abandoned, ended, undelivered }

  mutating func fail(
    _ session: SessionID, _ number: UInt64, _ request: FailRequest
  ) throws(PatchbayError) {
    _ = try published(request.blob, by: session, for: .fail)
    failBlob(
      request.blob.generation, .blobFailed, request.cause.cut(toUTF8Count: WireLimit.cause),
      raisesEpoch: false)
    reply(session, number, .done)
  }

  mutating func abandon(
    _ session: SessionID, _ number: UInt64, _ reference: BlobReference
  ) throws(PatchbayError) {
    let blob = try published(reference, by: session, for: .abandon)
    failBlob(
      reference.generation, .abandoned, abandonedCause(blob, .abandoned), raisesEpoch: true)
    reply(session, number, .done)
  }

  /// The publisher's session ended while the blob was open.
  mutating func losePublisher(_ session: SessionID, _ generation: Generation) {
    guard let blob = blobs[generation], blob.publisher == session else { return }
    guard blob.isBorn else {
      discardUnborn(generation, nil)
      return
    }
    guard case .becomes(.failed) = LifeCycle.outcome(of: .publisherLost, in: blob.state) else {
      return
    }
    failBlob(generation, .abandoned, abandonedCause(blob, .ended), raisesEpoch: true)
  }

  func abandonedCause(_ blob: Blob, _ departure: Departure) -> String {
    guard let session = blob.publisher, let publisher = sessions[session] else {
      return "its publisher ended without sealing"
    }
    let name = publisher.name.isEmpty ? "" : " (\(publisher.name))"
    let who = "its publisher, process \(publisher.peer.process)\(name),"
    return switch departure {
    case .abandoned: "\(who) abandoned it without sealing"
    case .ended: "\(who) ended without sealing"
    case .undelivered: "\(who) could not be given its memory"
    }
  }

  /// Fails an open blob: posted and recorded before anybody is woken or answered.
  mutating func failBlob(
    _ generation: Generation, _ code: PatchbayError.Code, _ cause: String, raisesEpoch: Bool
  ) {
    guard let before = blobs[generation], before.state == .open, let publisher = before.publisher
    else { return }
    let orphans = orphanPendingRings(of: generation)
    endPublisherHandle(generation)
    openBlobCount -= 1
    blobs[generation]?.state = .failed
    blobs[generation]?.causeCode = code
    blobs[generation]?.cause = cause
    blobs[generation]?.pendingSeal = nil
    blobs[generation]?.modified = now.wall
    if raisesEpoch { blobs[generation]?.epoch = before.nextEpoch }
    guard let blob = blobs[generation] else { return }
    changed(generation)
    record(generation)
    post(generation)
    ring(generation)
    for number in (before.pendingSeal?.numbers ?? []) + orphans {
      refuse(publisher, number, blob.failure)
    }
    settle(generation)
  }
}

extension Blob {
  /// Epochs have 24 bits on the board, and 0 is a reader's.
  var nextEpoch: UInt32 {
    let next = (epoch &+ 1) & 0xff_ffff
    return next == 0 ? 1 : next
  }
}
