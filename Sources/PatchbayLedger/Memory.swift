// What memory is charged with, and what leaves when it is short. The charge of a ring is its whole
// object, from the moment it is asked for until its name is gone and no session and no ghost can
// have it mapped, and while it rests in the pool. The pool goes first; blobs are evicted only when
// that makes enough room, least recently read first.

import CPatchbayLayout
import PatchbayLayout
import PatchbayTypes
import PatchbayWire

extension Ledger {
  package var usedByteCount: Int {
    overheadByteCount + ringByteCount + inlineByteCount + reservedByteCount
  }

  /// Bytes of one board with its doorbells.
  var boardByteCount: Int {
    2 * Int(PB_BOARD_HEADER_BYTES)
      + limits.entriesPerBoard * (Int(PB_ENTRY_BYTES) + Int(PB_BELL_PAIR_BYTES))
  }

  /// - Throws: `noSpaceMemory` if not even eviction could make room. Nothing is evicted then.
  func checkRoom(_ byteCount: Int, for what: String) throws(PatchbayError) {
    let (needed, overflow) = (usedByteCount - idleByteCount - pool.byteCount)
      .addingReportingOverflow(byteCount)
    guard overflow || needed > limits.memoryByteCount else { return }
    throw noRoom(byteCount, for: what)
  }

  /// Empties the pool and evicts until this much fits.
  mutating func makeRoom(_ byteCount: Int, for what: String) throws(PatchbayError) {
    try checkRoom(byteCount, for: what)
    while usedByteCount + byteCount > limits.memoryByteCount {
      guard discardOldest() || evictOne() else { throw noRoom(byteCount, for: what) }
    }
  }

  func noRoom(_ byteCount: Int, for what: String) -> PatchbayError {
    .noRoom(
      for: what, byteCount: byteCount, used: usedByteCount, limit: limits.memoryByteCount,
      held: ringByteCount + inlineByteCount - idleByteCount - pool.byteCount)
  }

  /// Makes room for one more blob in the catalog.
  mutating func makeRoomInCatalog() throws(PatchbayError) {
    while blobs.count >= limits.blobCount {
      guard evictOne() else { throw .tooManyBlobs(limit: limits.blobCount) }
    }
  }

  /// Evicts the idle blob that goes first; false if there is none.
  mutating func evictOne() -> Bool {
    while let entry = idleBlobs.pop() {
      let generation = entry.generation
      blobs[generation]?.isQueued = false
      guard let blob = blobs[generation], blob.isIdle,
        LifeCycle.outcome(of: .memoryShort, in: blob.state) == .becomes(.gone)
      else { continue }
      guard blob.accessStamp == entry.stamp else {
        queueForEviction(generation)
        continue
      }
      evictionCount += 1
      unname(generation, as: .evicted)
      return true
    }
    return false
  }

  private mutating func queueForEviction(_ generation: Generation) {
    guard let blob = blobs[generation], !blob.isQueued else { return }
    blobs[generation]?.isQueued = true
    idleBlobs.push(
      EvictionEntry(
        isFailed: blob.state == .failed, stamp: blob.accessStamp, generation: generation))
    // Removed blobs leave their entries behind; they are swept when they are the majority.
    guard idleBlobs.count > 2 * blobs.count + 64 else { return }
    let live = blobs
    idleBlobs.keep { live[$0.generation]?.isQueued == true }
  }

  /// Brings the eviction queue up to date after anything that holds or frees a blob.
  mutating func updateIdle(_ generation: Generation) {
    guard let blob = blobs[generation] else { return }
    let isIdle =
      blob.isBorn && blob.isNamed && !blob.state.isLive && !blob.isHeld && blob.ghostCount == 0
      && blob.writers.isEmpty
    guard isIdle != blob.isIdle else { return }
    blobs[generation]?.isIdle = isIdle
    idleByteCount += isIdle ? blob.residentByteCount : -blob.residentByteCount
    if isIdle { queueForEviction(generation) }
  }

  mutating func touch(_ generation: Generation) {
    accessClock += 1
    blobs[generation]?.accessStamp = accessClock
  }

  /// Takes back everything a blob holds, as far as nobody can still be using it; called after
  /// whatever may have been the last use.
  mutating func settle(_ generation: Generation) {
    updateIdle(generation)
    guard let blob = blobs[generation], blob.isBorn, !blob.state.isLive, !blob.isHeld else {
      return
    }
    if let slot = blob.slot { clear(slot, of: generation) }
    if !blob.isNamed { bury(generation, blob) }
  }

  private mutating func bury(_ generation: Generation, _ blob: Blob) {
    guard blob.ghostCount == 0, blob.writers.isEmpty else { return }
    for extent in blob.extents { retire(extent.ring, isReusable: !blob.isAbandoned) }
    inlineByteCount -= blob.inlineBytes?.count ?? 0
    blobs[generation] = nil
  }

  mutating func uncharge(_ ring: RingID) {
    ringByteCount -= rings.removeValue(forKey: ring)?.byteCount ?? 0
  }
}
