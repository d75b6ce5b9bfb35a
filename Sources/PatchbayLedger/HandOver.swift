// New rings for a blob whose publisher was fenced while its process can still write. The order is what
// keeps what it writes from now on out of sight: the epoch is raised and recorded first; then the tag of
// each incomplete ring is taken away, so that no reader takes another byte from it; then its map is
// copied, and the bytes that the copy covers; and only then the fresh rings stand in the record, and the
// next publisher gets them. What a reader has taken before the tag went was marked before, so it is in the
// copy. Complete extents stay where they are: there is nothing left to be written in them.
//
// A broker that dies in between leaves the record of the fenced epoch with the old rings: the next one
// begins anew.

import PatchbayLayout
import PatchbayTypes
import PatchbayWire

extension Ledger {
  mutating func beginRefit(of generation: Generation) {
    guard let blob = blobs[generation] else { return }
    blobs[generation]?.production.phase = .surveying
    actions.append(
      .survey(generation, blob.extents, blob.origin.plan, byteCount: blob.byteCount))
  }

  /// Answer to `survey`: the indices of complete extents.
  mutating func surveyed(
    _ generation: Generation, _ result: Result<Set<Int>, PatchbayError>
  ) {
    guard let blob = blobs[generation], blob.production.phase == .surveying else { return }
    do throws(PatchbayError) {
      // What readers cannot read is not complete, whatever a fenced publisher has made of it since.
      let complete = try result.get().subtracting(blob.production.retracted)
      // Of complete ones the last marks may still be counted, in whatever blob they serve then.
      for extent in blob.extents where complete.contains(extent.index) {
        rings[extent.ring]?.isAbandoned = true
      }
      let partial = blob.extents.filter { !complete.contains($0.index) }
      guard !partial.isEmpty else { return endRefit(of: generation) }
      let needs = try roomForRefit(partial, blob)
      blobs[generation]?.production.phase = .refitting
      for need in needs { requestRing(for: generation, need, waiters: []) }
    } catch {
      failRefit(of: generation, error)
    }
  }

  private mutating func roomForRefit(
    _ extents: [ExtentRecord], _ blob: Blob
  ) throws(PatchbayError) -> [RingNeed] {
    var needs: [RingNeed] = []
    for extent in extents {
      let geometry = try RingGeometry(
        dataByteCount: extent.dataByteCount, hasMap: blob.origin.request.order == .any)
      needs.append(RingNeed(index: extent.index, geometry, blob.origin.access))
    }
    let byteCount = needs.reduce(0) { $0 + $1.byteCount }
    let what = "the hand-over of the blob \(blob.key)"
    try checkShare(of: blob.origin.access.uid, byteCount, for: what)
    try makeShare(of: blob.origin.access.uid, byteCount, for: what)
    return try findRoom(for: needs, what: what)
  }

  /// Whether a ring that was asked for is to take the place of another; else it is for an extent that is
  /// not there yet, which the publisher before had wanted.
  func isFresh(_ index: Int, of blob: Blob) -> Bool {
    blob.production.phase == .refitting && blob.extent(at: index) != nil
  }

  /// One of the rings is there.
  /// - Returns: false when it was asked for as an extent of its own.
  mutating func takesFresh(_ id: RingID, _ ring: Ring) -> Bool {
    let generation = ring.generation
    guard let blob = blobs[generation], isFresh(ring.index, of: blob) else { return false }
    blobs[generation]?.pendingExtents[ring.index] = nil
    blobs[generation]?.production.fresh.append(
      ExtentRecord(
        index: ring.index, ring: id, useNumber: ring.useNumber,
        dataByteCount: ring.kind.dataByteCount))
    let isLast = blobs[generation]?.pendingExtents.keys.allSatisfy { !isFresh($0, of: blob) }
    if isLast == true { beginCopying(generation) }
    return true
  }

  private mutating func beginCopying(_ generation: Generation) {
    guard let blob = blobs[generation] else { return }
    lastCopy += 1
    let copy = CopyID(rawValue: lastCopy)
    copies[copy] = generation
    blobs[generation]?.production.phase = .copying(copy)
    let pairs = blob.production.fresh.compactMap { fresh in
      blob.extent(at: fresh.index).map { ExtentCopy(source: $0, target: fresh) }
    }
    actions.append(.refit(copy, pairs))
  }

  /// Whether a reader finds nothing in an extent at the moment.
  func isBeingCopied(_ index: Int, of blob: Blob) -> Bool {
    if blob.production.retracted.contains(index) { return true }
    guard case .copying = blob.production.phase else { return false }
    return blob.production.fresh.contains { $0.index == index }
  }

  /// Answer to `refit`.
  mutating func refitted(_ generation: Generation, _ error: PatchbayError?) {
    guard let blob = blobs[generation] else { return }
    if let error {
      blobs[generation]?.production.retracted = Set(blob.production.fresh.map(\.index))
      return failRefit(of: generation, error)
    }
    for fresh in blob.production.fresh {
      guard let old = blob.extent(at: fresh.index) else { continue }
      blobs[generation]?.extents.removeAll { $0.index == fresh.index }
      blobs[generation]?.insert(fresh)
      changeResident(generation, by: -(rings[old.ring]?.byteCount ?? 0))
      // Whoever views it keeps its memory; its name is nobody's any more.
      dropRing(old.ring, exists: true)
    }
    blobs[generation]?.production.fresh = []
    blobs[generation]?.extentVersion &+= 1
    endRefit(of: generation)
  }

  /// Nothing that was fenced can be seen any more.
  private mutating func endRefit(of generation: Generation) {
    for session in blobs[generation]?.production.fenced ?? [] {
      dropHolders(of: session, generation)
    }
    blobs[generation]?.production.fenced = []
    blobs[generation]?.production.hindrance = nil
    blobs[generation]?.production.retracted = []
    blobs[generation]?.production.isTainted = false
    blobs[generation]?.production.phase = .vacant
    record(generation)
    post(generation)
    ring(generation)
    handOn(generation)
    giveUpIfDeserted(generation)
  }

  /// The blob cannot go on: its next publisher would write where the one before may. Of what is short there
  /// may be enough in a moment: then it is tried again, for as long as somebody is waited for.
  mutating func failRefit(of generation: Generation, _ error: PatchbayError) {
    guard ![.noSpaceMemory, .limitReached].contains(error.code) else {
      return postponeRefit(of: generation, error)
    }
    endRefit(of: generation, with: error)
  }

  private mutating func postponeRefit(of generation: Generation, _ error: PatchbayError) {
    // Nobody waits for any of them: whoever published the blob has been refused.
    _ = orphanPendingRings(of: generation)
    dropFresh(of: generation)
    blobs[generation]?.production.phase = .vacant
    blobs[generation]?.production.hindrance = error
    blobs[generation]?.production.retryMoment = now.monotonicNanoseconds.addingClamped(
      Production.refitPause.wholeNanoseconds)
    handOn(generation)
  }

  mutating func endRefit(of generation: Generation, with error: PatchbayError) {
    failBlob(
      generation, error.code == .noSpaceMemory ? .noSpaceMemory : .inputOutput,
      "its publisher was lost, and it could not be handed over: \(error.message)"
        .cut(toUTF8Count: WireLimit.cause), raisesEpoch: true)
  }

  /// The blob has ended in the middle of it.
  mutating func dropFresh(of generation: Generation) {
    for fresh in blobs[generation]?.production.fresh ?? [] {
      changeResident(generation, by: -(rings[fresh.ring]?.byteCount ?? 0))
      dropRing(fresh.ring, exists: true)
    }
    blobs[generation]?.production.fresh = []
    blobs[generation]?.production.phase = .steady
  }
}
