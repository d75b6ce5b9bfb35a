// What memory is charged with, and what leaves when it is short. The charge of a ring is its whole
// object, from the moment it is asked for until its name is gone and no session and no ghost can
// have it mapped. Blobs are evicted only when that makes enough room, least recently read first.

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
    let (needed, overflow) = (usedByteCount - idleByteCount).addingReportingOverflow(byteCount)
    guard overflow || needed > limits.memoryByteCount else { return }
    throw noRoom(byteCount, for: what)
  }

  /// Evicts until this much fits.
  mutating func makeRoom(_ byteCount: Int, for what: String) throws(PatchbayError) {
    try checkRoom(byteCount, for: what)
    while usedByteCount + byteCount > limits.memoryByteCount {
      guard evictOne() else { throw noRoom(byteCount, for: what) }
    }
  }

  private func noRoom(_ byteCount: Int, for what: String) -> PatchbayError {
    .noRoom(
      for: what, byteCount: byteCount, used: usedByteCount, limit: limits.memoryByteCount,
      held: ringByteCount + inlineByteCount - idleByteCount)
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
    if !blob.isUnlinked {
      for extent in blob.extents { actions.append(.unlinkRing(extent.ring)) }
      blobs[generation]?.isUnlinked = true
    }
    guard blob.ghostCount == 0 else { return }
    for extent in blob.extents { uncharge(extent.ring) }
    let inlineBytes = blob.inlineBytes?.count ?? 0
    inlineByteCount -= inlineBytes
    charge(blob.origin.access.uid, -inlineBytes)
    drop(blob)
  }

  private mutating func uncharge(_ ring: RingID) {
    guard let ring = rings.removeValue(forKey: ring) else { return }
    ringByteCount -= ring.byteCount
    charge(ring.owner, -ring.byteCount)
  }

  /// Asks for a ring, charged from now on. The caller has made room.
  mutating func requestRing(
    for generation: Generation, index: Int, geometry: RingGeometry, waiters: [RequestID]
  ) {
    guard let access = blobs[generation]?.origin.access else { return }
    lastRing += 1
    let ring = RingID(rawValue: lastRing)
    rings[ring] = Ring(
      generation: generation, index: index, owner: access.uid,
      dataByteCount: geometry.dataByteCount, byteCount: geometry.objectByteCount,
      waiters: waiters)
    pendingRingCount += 1
    ringByteCount += geometry.objectByteCount
    charge(access.uid, geometry.objectByteCount)
    blobs[generation]?.pendingExtents[index] = ring
    blobs[generation]?.residentByteCount += geometry.objectByteCount
    actions.append(
      .createRing(
        ring, dataByteCount: geometry.dataByteCount, hasMap: geometry.hasMap, access))
  }

  /// Gives up the rings that were asked for and have not come: each is unlinked when it does.
  /// - Returns: the requests that waited for them, in the order of their extents.
  mutating func orphanPendingRings(of generation: Generation) -> [RequestID] {
    guard let pending = blobs[generation]?.pendingExtents, !pending.isEmpty else { return [] }
    blobs[generation]?.pendingExtents = [:]
    var waiters: [RequestID] = []
    for (_, ring) in pending.sorted(by: { $0.key < $1.key }) {
      waiters += rings[ring]?.waiters ?? []
      blobs[generation]?.residentByteCount -= rings[ring]?.byteCount ?? 0
    }
    return waiters
  }

  /// Frees a ring that nobody was ever given, or that was refused.
  mutating func dropRing(_ ring: RingID, exists: Bool) {
    if exists { actions.append(.unlinkRing(ring)) }
    uncharge(ring)
  }
}
