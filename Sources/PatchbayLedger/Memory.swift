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

  /// Evicts the idle blob that goes first, of one user or of all; false if there is none.
  mutating func evictOne(of uid: UInt32? = nil) -> Bool {
    while let entry = popIdle(of: uid) {
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

  private mutating func popIdle(of uid: UInt32?) -> EvictionEntry? {
    if let uid { return accounts[uid]?.idleBlobs.pop() }
    let first = accounts.compactMap { uid, account in
      account.idleBlobs.first.map { (entry: $0, uid: uid) }
    }.min { $0.entry < $1.entry }
    return first.flatMap { accounts[$0.uid]?.idleBlobs.pop() }
  }

  private mutating func queueForEviction(_ generation: Generation) {
    guard let blob = blobs[generation], !blob.isQueued else { return }
    blobs[generation]?.isQueued = true
    let uid = blob.origin.access.uid
    accounts[uid]?.idleBlobs.push(
      EvictionEntry(
        isFailed: blob.state == .failed, stamp: blob.accessStamp, generation: generation))
    // Removed blobs leave their entries behind; they are swept when they are the majority.
    guard let account = accounts[uid], account.idleBlobs.count > 2 * account.blobCount + 64 else {
      return
    }
    let live = blobs
    accounts[uid]?.idleBlobs.keep { live[$0.generation]?.isQueued == true }
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
    let share = blob.residentByteCount + blob.origin.recordByteCount
    accounts[blob.origin.access.uid]?.idleByteCount += isIdle ? share : -share
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
    let inlineBytes = blob.inlineBytes?.count ?? 0
    inlineByteCount -= inlineBytes
    charge(blob.origin.access.uid, -inlineBytes)
    drop(blob)
  }
}
