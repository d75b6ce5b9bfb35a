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

  /// - Throws: `noSpaceMemory` if not even eviction could make room, or eviction has to wait for what
  ///   can be spilled. Nothing is evicted then.
  mutating func checkRoom(
    _ byteCount: Int, for what: String, evicting: Bool
  ) throws(PatchbayError) {
    let evictable = evicting ? idleByteCount : 0
    let (needed, overflow) = (usedByteCount - evictable - pool.byteCount)
      .addingReportingOverflow(byteCount)
    guard overflow || needed > limits.memoryByteCount else { return }
    throw noRoom(byteCount, for: what)
  }

  /// Empties the pool and evicts until this much fits. What needs nothing fits also when more than all
  /// is used: the broker's own tables and journal grow without asking.
  mutating func makeRoom(_ byteCount: Int, for what: String) throws(PatchbayError) {
    guard byteCount > 0 else { return }
    try checkRoom(byteCount, for: what, evicting: true)
    while usedByteCount + byteCount > limits.memoryByteCount {
      guard discardOldest() || evictOne() else { throw noRoom(byteCount, for: what) }
    }
  }

  mutating func noRoom(_ byteCount: Int, for what: String) -> PatchbayError {
    if byteCount <= limits.memoryByteCount - overheadByteCount { shortage = .broker }
    return .noRoom(
      for: what, byteCount: byteCount, used: usedByteCount, limit: limits.memoryByteCount,
      held: ringByteCount + inlineByteCount - idleByteCount - pool.byteCount)
  }

  /// What eviction is to make room for.
  enum Shortage {
    /// What stands on disk only takes none.
    case memory
    case disk
    /// In the catalog, of which each blob has one.
    case place
  }

  /// Evicts the idle blob that goes first, of one user or of all; false if there is none.
  mutating func evictOne(
    of uid: UInt32? = nil, for shortage: Shortage = .memory, sparesFavoured: Bool = false
  ) -> Bool {
    // What is on its way to disk leaves memory anyway.
    var aside: [Generation] = []
    defer { for generation in aside { queueForEviction(generation) } }
    while let entry = popIdle(of: uid, shortage) {
      let generation = entry.generation
      guard let blob = blobs[generation], blob.isIdle,
        LifeCycle.outcome(of: .memoryShort, in: blob.state) == .becomes(.gone)
      else { continue }
      guard blob.accessStamp == entry.stamp else {
        queueForEviction(generation)
        continue
      }
      guard blob.spillingIndex == nil, blob.persistReserve == nil,
        !sparesFavoured || !blob.isFavoured
      else {
        aside.append(generation)
        continue
      }
      if shortage == .memory, blob.residentByteCount == 0, blob.hasContainer { continue }
      evictionCount += 1
      unname(generation, as: .evicted)
      return true
    }
    return false
  }

  private mutating func popIdle(of uid: UInt32?, _ shortage: Shortage) -> EvictionEntry? {
    let users = uid.map { [$0] } ?? Array(accounts.keys)
    var found: (entry: EvictionEntry, uid: UInt32, isOnDisk: Bool)?
    for uid in users {
      guard let account = accounts[uid] else { continue }
      for (isOnDisk, entry) in [(false, account.idleBlobs.first), (true, account.idleOnDisk.first)]
      {
        guard let entry, shortage == .place || isOnDisk == (shortage == .disk) else { continue }
        if found.map({ entry < $0.entry }) ?? true { found = (entry, uid, isOnDisk) }
      }
    }
    guard let found else { return nil }
    if found.isOnDisk {
      blobs[found.entry.generation]?.isQueuedOnDisk = false
      return accounts[found.uid]?.idleOnDisk.pop()
    }
    blobs[found.entry.generation]?.isQueued = false
    return accounts[found.uid]?.idleBlobs.pop()
  }

  mutating func queueForEviction(_ generation: Generation) {
    guard let blob = blobs[generation] else { return }
    let uid = blob.origin.access.uid
    let entry = EvictionEntry(
      isFailed: blob.state == .failed, stamp: blob.accessStamp, generation: generation)
    if !blob.isQueued, blob.residentByteCount > 0 || !blob.hasContainer {
      blobs[generation]?.isQueued = true
      accounts[uid]?.idleBlobs.push(entry)
    }
    if !blob.isQueuedOnDisk, blob.hasContainer {
      blobs[generation]?.isQueuedOnDisk = true
      accounts[uid]?.idleOnDisk.push(entry)
    }
    sweepEvictionQueues(of: uid)
  }

  /// Removed blobs leave their entries behind; they are swept when they are the majority.
  private mutating func sweepEvictionQueues(of uid: UInt32) {
    guard let account = accounts[uid] else { return }
    let live = blobs
    if account.idleBlobs.count > 2 * account.blobCount + 64 {
      accounts[uid]?.idleBlobs.keep { live[$0.generation]?.isQueued == true }
    }
    if account.idleOnDisk.count > 2 * account.blobCount + 64 {
      accounts[uid]?.idleOnDisk.keep { live[$0.generation]?.isQueuedOnDisk == true }
    }
  }

  /// Brings the eviction queue up to date after anything that holds or frees a blob.
  mutating func updateIdle(_ generation: Generation) {
    guard let blob = blobs[generation] else { return }
    let isIdle =
      blob.isBorn && blob.isNamed && !blob.state.isLive && !blob.isHeld && !blob.isKept
      && blob.ghostCount == 0 && blob.writers.isEmpty && !blob.isPinned && !blob.holdsFile
      && blob.persistReserve == nil
    guard isIdle != blob.isIdle else { return }
    blobs[generation]?.isIdle = isIdle
    idleByteCount += isIdle ? blob.residentByteCount : -blob.residentByteCount
    let share = blob.residentByteCount + blob.origin.recordByteCount
    accounts[blob.origin.access.uid]?.idleByteCount += isIdle ? share : -share
    chargeDisk(blob, 0, idle: isIdle ? blob.spoolByteCount : -blob.spoolByteCount)
    noteCached(generation, isIdle: isIdle)
    if isIdle { queueForEviction(generation) }
  }

  mutating func touch(_ generation: Generation) {
    accessClock += 1
    blobs[generation]?.accessStamp = accessClock
  }

  /// Takes back everything a blob holds, as far as nobody can still be using it; called after
  /// whatever may have been the last use.
  mutating func settle(_ generation: Generation) {
    updateReadership(generation)
    dropIfUnwanted(generation)
    updateIdle(generation)
    offerToSpill(generation)
    guard let blob = blobs[generation], blob.isBorn, !blob.state.isLive, !blob.isHeld else {
      return
    }
    if let slot = blob.slot { clear(slot, of: generation) }
    if !blob.isNamed { bury(generation, blob) }
  }

  private mutating func bury(_ generation: Generation, _ blob: Blob) {
    guard blob.ghostCount == 0, blob.writers.isEmpty, blob.spillingIndex == nil,
      blob.persistReserve == nil
    else { return }
    erase(generation)
    if blob.hasContainer {
      chargeDisk(blob, -blob.spoolByteCount, idle: 0)
      actions.append(.removeContainer(generation))
    }
    releaseFile(generation)
    for extent in blob.extents { retire(extent.ring, isReusable: !blob.isAbandoned) }
    let inlineBytes = blob.inlineBytes?.count ?? 0
    inlineByteCount -= inlineBytes
    charge(blob.origin.access.uid, -inlineBytes)
    drop(blob)
  }
}
