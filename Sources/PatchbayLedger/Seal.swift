// The end that a publisher wants. A seal verifies the length, then the coverage from a private copy
// of the maps, then flips the state, records it, wakes everybody, and answers: in that order. Whoever
// loses its publisher before the flip has failed, a seal under way or not. A confirmed seal ends the
// publisher's handle.

import PatchbayTypes
import PatchbayWire

extension Ledger {
  mutating func seal(
    _ session: SessionID, _ number: UInt64, _ request: SealRequest
  ) throws(PatchbayError) {
    if try isRepeatedSeal(session, request) {
      reply(session, number, .done)
      return
    }
    let blob = try published(request.blob, by: session, for: .seal)
    try checkLength(blob, request.byteCount)
    if let pending = blob.pendingSeal {
      try join(pending, blob, number, request)
    } else if request.byteCount == 0 {
      finishSeal(request.blob.generation, 0, answering: [number])
    } else {
      inspect(blob, number, request)
    }
  }

  /// Whether this session has sealed the blob already, so that the request is a repetition.
  private func isRepeatedSeal(
    _ session: SessionID, _ request: SealRequest
  ) throws(PatchbayError) -> Bool {
    guard let blob = blobs[request.blob.generation], blob.isBorn, blob.state == .sealed,
      request.blob.epoch == blob.epoch
    else { return false }
    guard blob.sealer == session else {
      throw .ended(blob, step: .seal, code: .closed)
    }
    guard let sealed = blob.byteCount, sealed == request.byteCount else {
      throw .lengthMismatch(
        blob.key, announced: blob.byteCount ?? 0, found: request.byteCount)
    }
    return true
  }

  private func checkLength(_ blob: Blob, _ byteCount: Int) throws(PatchbayError) {
    guard (0...ExtentPlan.positionLimit).contains(byteCount) else {
      throw .impossibleLength(blob.key, byteCount)
    }
    guard let announced = blob.byteCount, announced != byteCount else { return }
    throw .lengthMismatch(blob.key, announced: announced, found: byteCount)
  }

  private mutating func join(
    _ pending: PendingSeal, _ blob: Blob, _ number: UInt64, _ request: SealRequest
  ) throws(PatchbayError) {
    guard pending.byteCount == request.byteCount else {
      throw .otherSealPending(blob.key, pending.byteCount, request.byteCount)
    }
    guard pending.numbers.count < Self.waiterLimit else {
      throw .tooManyWaiters(blob, limit: Self.waiterLimit)
    }
    blobs[request.blob.generation]?.pendingSeal?.numbers.append(number)
  }

  private mutating func inspect(_ blob: Blob, _ number: UInt64, _ request: SealRequest) {
    lastInspection += 1
    let inspection = InspectionID(rawValue: lastInspection)
    let plan = blob.origin.plan
    inspections[inspection] = request.blob.generation
    blobs[request.blob.generation]?.pendingSeal = PendingSeal(
      inspection: inspection, byteCount: request.byteCount, numbers: [number])
    let touched = blob.extents.filter {
      plan.range(of: $0.index).lowerBound < request.byteCount
    }
    actions.append(
      .inspect(
        inspection, touched, plan, isWindow: blob.origin.window != nil,
        byteCount: request.byteCount))
  }

  mutating func inspected(
    _ inspection: InspectionID, _ result: Result<Coverage, PatchbayError>
  ) {
    guard let generation = inspections.removeValue(forKey: inspection),
      let blob = blobs[generation], let pending = blob.pendingSeal,
      pending.inspection == inspection
    else { return }
    blobs[generation]?.pendingSeal = nil
    switch result {
    case .success(let coverage) where Self.isComplete(coverage, pending.byteCount):
      finishSeal(generation, pending.byteCount, answering: pending.numbers)
    case .success(let coverage):
      refuseSeal(blob, pending, .incomplete(blob, coverage, byteCount: pending.byteCount))
    case .failure(let error):
      refuseSeal(blob, pending, error)
    }
  }

  private static func isComplete(_ coverage: Coverage, _ byteCount: Int) -> Bool {
    coverage.missing.isEmpty && coverage.coveredByteCount >= byteCount
  }

  /// The blob stays open: its publisher may fill the holes and try again.
  private mutating func refuseSeal(_ blob: Blob, _ pending: PendingSeal, _ error: PatchbayError) {
    guard let publisher = blob.publisher else { return }
    for number in pending.numbers { refuse(publisher, number, error) }
  }

  private mutating func finishSeal(
    _ generation: Generation, _ byteCount: Int, answering numbers: [UInt64]
  ) {
    guard let publisher = blobs[generation]?.publisher else { return }
    let orphans = orphanPendingRings(of: generation)
    endPublisherHandle(generation)
    openBlobCount -= 1
    blobs[generation]?.state = .sealed
    blobs[generation]?.byteCount = byteCount
    blobs[generation]?.sealer = publisher
    blobs[generation]?.modified = now.wall
    guard let blob = blobs[generation] else { return }
    changed(generation)
    record(generation)
    post(generation)
    ring(generation)
    for number in numbers { reply(publisher, number, .done) }
    for number in orphans {
      refuse(publisher, number, .ended(blob, step: .grow, code: .closed))
    }
    settle(generation)
  }

  /// Takes the publisher's handle away from its session and from the blob.
  mutating func endPublisherHandle(_ generation: Generation) {
    guard let publisher = blobs[generation]?.publisher else { return }
    blobs[generation]?.publisher = nil
    sessions[publisher]?.handles[generation]?.publishes = false
    sessions[publisher]?.handleCount -= 1
    if sessions[publisher]?.handles[generation]?.isEmpty == true {
      sessions[publisher]?.handles[generation] = nil
    }
  }

  /// Writes the blob's journal record; a removed blob has none.
  mutating func record(_ generation: Generation) {
    guard let blob = blobs[generation], blob.isNamed else { return }
    actions.append(
      .recordBlob(
        BlobRecord(
          info: blob.info, epoch: blob.epoch, plan: blob.origin.plan,
          segment: blob.origin.window?.segmentByteCount ?? 0, extents: blob.extents,
          inlineBytes: blob.inlineBytes, token: blob.origin.token, request: blob.origin.number)))
  }
}
