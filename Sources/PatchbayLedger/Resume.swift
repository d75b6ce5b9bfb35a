// Taking over what a failed blob had covered. The new generation gets rings of its own, into which
// a worker copies each of the old one's: first a private copy of the map, then the bytes that it
// covers, which never change. So a publisher of the old generation that still runs can write what it
// likes, and a reader of it sees nothing new. Until the copy is done the new blob is unborn and the
// old one stands as it was; if the copy fails it goes on standing, and can be resumed again.

import PatchbayLayout
import PatchbayTypes
import PatchbayWire

extension Ledger {
  /// The failed blob whose bytes a creation takes over; nil when there is nothing to take, or it is
  /// known to be wrong.
  func source(_ old: Generation?, _ terms: CreateTerms) -> Blob? {
    guard terms.resumes, let old, let blob = blobs[old], blob.isBorn, blob.state == .failed,
      !blob.extents.isEmpty || !blob.spooled.isEmpty || !blob.patchwork.scratch.isEmpty,
      blob.causeCode != .digestMismatch, blob.causeCode != .contentDiverged
    else { return nil }
    return blob
  }

  /// Whether bytes are taken over, or it is an error that they cannot be. A production begins afresh where
  /// there is nothing that it could go on with.
  func resumes(
    _ source: Blob, _ session: SessionID, _ request: CreateRequest, _ terms: CreateTerms
  ) -> Bool {
    guard terms.ownership == .produced else { return true }
    do throws(PatchbayError) {
      try checkResumable(source, session, request, makePlan(request, budget(of: session)))
      return true
    } catch {
      return false
    }
  }

  mutating func resume(
    _ source: Blob, _ session: SessionID, _ number: UInt64, _ request: CreateRequest,
    _ terms: CreateTerms
  ) throws(PatchbayError) {
    let plan = try makePlan(request, budget(of: session))
    try checkResumable(source, session, request, plan)
    if adopts(source, plan, request, budget(of: session)) {
      return try adopt(source, session, number, request, terms, plan)
    }
    var geometries: [(index: Int, geometry: RingGeometry)] = []
    for extent in source.extents {
      guard
        let geometry = try Self.geometry(
          of: extent.index, plan: plan, byteCount: request.byteCount, order: request.order)
      else { continue }
      geometries.append((extent.index, geometry))
    }
    hold(source.origin.generation, true)
    let needs: [RingNeed]
    do throws(PatchbayError) {
      needs = try makeRoomForBlob(geometries, session, request)
    } catch {
      hold(source.origin.generation, false)
      throw error
    }
    guard
      let generation = beginBlob(
        session, number, request, terms, plan: plan, source: source.origin.generation)
    else { return hold(source.origin.generation, false) }
    for need in needs { requestRing(for: generation, need, waiters: []) }
    bearIfReady(generation)
  }

  private func checkResumable(
    _ source: Blob, _ session: SessionID, _ request: CreateRequest, _ plan: ExtentPlan
  ) throws(PatchbayError) {
    let before = source.origin
    guard sessions[session]?.peer.uid == before.access.uid else { throw .foreignBlob(source) }
    // What is spilled is a step of the one worker, which takes over afterwards; a container that is being
    // completed has several steps.
    guard source.persistReserve == nil else { throw .stillWritten(source) }
    guard request.byteCount == before.request.byteCount else {
      throw .otherLength(source, request.byteCount)
    }
    guard request.order == before.request.order else {
      throw .notResumable(
        source, "its order was \(before.request.order), not \(request.order)")
    }
    guard source.spooled.isEmpty || source.isPatchwork else {
      throw .notResumable(source, "some of it has left memory for the disk")
    }
    guard before.window == nil else {
      throw .notResumable(source, "it was a window, of which nothing is kept")
    }
    guard plan == before.plan else {
      throw .notResumable(
        source,
        "its extents were \(before.plan.first) up to \(before.plan.limit) bytes, not "
          + "\(plan.first) up to \(plan.limit)")
    }
  }

  /// Keeps a blob from eviction, and its memory where it is, while it is being copied.
  mutating func hold(_ generation: Generation, _ isHeld: Bool) {
    blobs[generation]?.isSource = isHeld
    updateIdle(generation)
    offerToSpill(generation)
  }

  /// Has the bytes copied once all rings are there. True: they are.
  mutating func hasCopied(_ generation: Generation) -> Bool {
    guard let blob = blobs[generation], let source = blob.source else { return true }
    guard blob.pendingCopy == nil, let old = blobs[source] else { return false }
    lastCopy += 1
    let copy = CopyID(rawValue: lastCopy)
    blobs[generation]?.pendingCopy = copy
    copies[copy] = generation
    if blob.hasContainer {
      beginAdoption(generation, of: old, copy)
      return false
    }
    let pairs = blob.extents.compactMap { target in
      old.extent(at: target.index).map { ExtentCopy(source: $0, target: target) }
    }
    actions.append(.copy(copy, pairs))
    return false
  }

  mutating func copied(_ copy: CopyID, _ error: PatchbayError?) {
    guard let generation = copies.removeValue(forKey: copy), let blob = blobs[generation] else {
      return
    }
    if blob.production.phase == .copying(copy) { return refitted(generation, error) }
    guard blob.pendingCopy == copy else { return }
    guard error == nil else { return discardUnborn(generation, error) }
    blobs[generation]?.pendingCopy = nil
    if let source = blob.source {
      blobs[generation]?.source = nil
      unname(source)
      hold(source, false)
      settle(source)
    }
    bearIfReady(generation)
  }

  /// The new generation came to nothing: the key is the old one's again.
  mutating func giveBackSource(_ blob: Blob) {
    guard let source = blob.source else { return }
    owners[blob.key] = source
    hold(source, false)
    answerParked(blob.key)
  }
}
