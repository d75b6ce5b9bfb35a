// The end that a publisher wants. A seal verifies the length, then the coverage from a private copy
// of the maps, then the digest where one was asked for (Digest.swift), then flips the state, records
// it, wakes everybody, and answers: in that order. Whoever loses its publisher before the flip has
// failed, a seal under way or not. A confirmed seal ends the publisher's handle.

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
    try checkClaims(blob, except: session)
    let asker = RequestID(session: session, number: number)
    if try postpones(asker, request) { return }
    // Where nobody announced a length others may have written behind this one.
    let end =
      blob.byteCount == nil ? max(request.byteCount, blob.claimedEnd) : request.byteCount
    if let pending = blob.pendingSeal {
      try join(pending, blob, asker, request)
    } else if end == 0 {
      sealEmpty(blob, asker)
    } else {
      inspect(blob, asker, request, upTo: end)
    }
  }

  /// A blob is complete only when nobody may be writing it.
  private func checkClaims(_ blob: Blob, except session: SessionID) throws(PatchbayError) {
    guard let other = blob.claims.first(where: { $0.session != session }) else { return }
    throw .claimedAtSeal(blob, other, holder: holder(of: other))
  }

  /// Whether the blob was sealed so already: by this session, or by one of those that shared it.
  private func isRepeatedSeal(
    _ session: SessionID, _ request: SealRequest
  ) throws(PatchbayError) -> Bool {
    guard let blob = blobs[request.blob.generation], blob.isBorn,
      request.blob.epoch == blob.epoch
    else { return false }
    if blob.causeCode == .digestMismatch, isOwner(session, of: blob) { throw blob.failure }
    guard blob.state == .sealed else { return false }
    guard blob.sealer == session || blob.isJoinable else {
      throw .ended(blob, step: .seal, code: .closed)
    }
    guard let sealed = blob.byteCount, sealed == request.byteCount else {
      throw .lengthMismatch(
        blob.key, announced: blob.byteCount ?? 0, found: request.byteCount)
    }
    return true
  }

  private func isOwner(_ session: SessionID, of blob: Blob) -> Bool {
    sessions[session]?.peer.uid == blob.origin.access.uid
  }

  private func checkLength(_ blob: Blob, _ byteCount: Int) throws(PatchbayError) {
    guard (0...ExtentPlan.positionLimit).contains(byteCount) else {
      throw .impossibleLength(blob.key, byteCount)
    }
    if let announced = blob.byteCount {
      guard announced != byteCount else { return }
      throw .lengthMismatch(blob.key, announced: announced, found: byteCount)
    }
    // What stands on disk is there whole, with segments that are not cut.
    let end = blob.spooled.max().map { blob.origin.plan.range(of: $0).upperBound } ?? 0
    guard byteCount < end else { return }
    throw .lengthMismatch(blob.key, announced: end, found: byteCount)
  }

  private mutating func join(
    _ pending: PendingSeal, _ blob: Blob, _ asker: RequestID, _ request: SealRequest
  ) throws(PatchbayError) {
    guard pending.byteCount == request.byteCount else {
      throw .otherSealPending(blob.key, pending.byteCount, request.byteCount)
    }
    guard pending.waiters.count < Self.waiterLimit else {
      throw .tooManyWaiters(blob, limit: Self.waiterLimit)
    }
    blobs[request.blob.generation]?.pendingSeal?.waiters.append(asker)
  }

  private mutating func inspect(
    _ blob: Blob, _ asker: RequestID, _ request: SealRequest, upTo end: Int
  ) {
    lastInspection += 1
    let inspection = InspectionID(rawValue: lastInspection)
    let plan = blob.origin.plan
    inspections[inspection] = request.blob.generation
    blobs[request.blob.generation]?.pendingSeal = PendingSeal(
      inspection: inspection, byteCount: request.byteCount, inspectedEnd: end, waiters: [asker])
    let touched = blob.extents.filter { plan.range(of: $0.index).lowerBound < end }
    actions.append(
      .inspect(
        inspection, touched, onDisk: blob.onDisk, plan, isWindow: blob.origin.window != nil,
        byteCount: end))
  }

  mutating func inspected(
    _ inspection: InspectionID, _ result: Result<Coverage, PatchbayError>
  ) {
    guard let generation = inspections.removeValue(forKey: inspection),
      let blob = blobs[generation], let pending = blob.pendingSeal,
      pending.inspection == inspection
    else { return }
    do throws(PatchbayError) {
      try checkCoverage(result.get(), pending, blob)
      try checkUndisturbed(pending, blob)
    } catch {
      return refuseSeal(generation, pending, error)
    }
    if blob.origin.terms.digest == nil {
      blobs[generation]?.pendingSeal = nil
      completeSeal(generation, pending)
    } else {
      blobs[generation]?.pendingSeal?.isCovered = true
      digestMore(generation)
    }
  }

  /// Every byte below the length is covered, and none behind it.
  private func checkCoverage(
    _ coverage: Coverage, _ pending: PendingSeal, _ blob: Blob
  ) throws(PatchbayError) {
    let byteCount = pending.byteCount
    let firstMissing = coverage.missing.first?.lowerBound ?? pending.inspectedEnd
    guard firstMissing >= byteCount, coverage.coveredByteCount >= byteCount else {
      throw .incomplete(blob, coverage, byteCount: byteCount)
    }
    guard pending.inspectedEnd > byteCount else { return }
    guard firstMissing == byteCount, coverage.coveredByteCount == byteCount else {
      throw .coveredBehindEnd(blob, coverage, byteCount: byteCount)
    }
  }

  /// Nobody has begun to write meanwhile. Where a length was announced and all of it is covered, a
  /// claim that has come and gone wrote nothing.
  func checkUndisturbed(
    _ pending: PendingSeal, _ blob: Blob
  ) throws(PatchbayError) {
    let askers = Set(pending.waiters.map(\.session))
    if let other = blob.claims.first(where: { !askers.contains($0.session) }) {
      throw .claimedAtSeal(blob, other, holder: holder(of: other))
    }
    guard blob.byteCount == nil, pending.isDisturbed else { return }
    throw .disturbedSeal(blob)
  }

  /// The blob stays open: its publishers may fill the holes and try again.
  mutating func refuseSeal(
    _ generation: Generation, _ pending: PendingSeal, _ error: PatchbayError
  ) {
    blobs[generation]?.pendingSeal = nil
    for waiter in pending.waiters { refuse(waiter.session, waiter.number, error) }
  }

  mutating func finishSeal(
    _ generation: Generation, _ pending: PendingSeal
  ) {
    let orphans = orphanPendingRings(of: generation)
    let isSuccessor = blobs[generation]?.succeeds != nil
    // Before its own record: at no moment two blobs have the key.
    takeKey(generation)
    endWriting(generation)
    dropDigest(generation)
    forgetWriters(of: generation)
    blobs[generation]?.state = .sealed
    blobs[generation]?.digest = pending.digest
    blobs[generation]?.byteCount = pending.byteCount
    blobs[generation]?.sealer = pending.waiters.first?.session
    blobs[generation]?.modified = now.wall
    noteEnd(generation)
    forgetScratch(behind: pending.byteCount, of: generation)
    guard let blob = blobs[generation] else { return }
    changed(generation)
    record(generation)
    post(generation)
    ring(generation)
    for waiter in pending.waiters { reply(waiter.session, waiter.number, .done) }
    for waiter in orphans {
      refuse(waiter.session, waiter.number, .ended(blob, step: .grow, code: .closed))
    }
    dismissCandidates(of: generation, nil)
    if isSuccessor { answerParked(blob.key) }
    dismissDemands(of: generation, nil)
    offerToSpill(generation)
    settle(generation)
  }
}
