// The rings of blobs, from the pool or fresh, and back. A ring goes to the pool when its blob is gone,
// nobody has it open, and whoever was given it to write has said that it is quiescent (no write is in
// flight, and none will begin) or is dead. A process that hung up and lives may write whatever it said:
// its rings wait for its end, and if the broker cannot wait so long they are never used again.

import PatchbayLayout
import PatchbayTypes
import PatchbayWire

/// A ring that is to be had: one of the pool, held for it, or nil: a fresh one.
struct RingNeed: Sendable {
  let index: Int
  let kind: RingKind
  let byteCount: Int
  var pooled: RingID?

  init(index: Int, _ geometry: RingGeometry, _ access: Access) {
    self.index = index
    kind = RingKind(
      access: access, dataByteCount: geometry.dataByteCount, hasMap: geometry.hasMap)
    byteCount = geometry.objectByteCount
  }
}

extension Ledger {
  // MARK: Having rings

  /// Makes room for rings and for some bytes besides: takes rings of their kinds out of the pool,
  /// then lets other rings of the pool go, then evicts blobs, whose rings may be of these kinds.
  /// - Returns: the needs, with the rings that the caller has to use.
  mutating func findRoom(
    for needs: [RingNeed], and extra: Int = 0, what: String
  ) throws(PatchbayError) -> [RingNeed] {
    let byteCount = needs.reduce(extra) { $0 + $1.byteCount }
    try checkRoom(byteCount, for: what, evicting: !canSpill(in: .broker))
    var needs = needs
    while true {
      takePooled(&needs)
      let missing = needs.reduce(extra) { $0 + ($1.pooled == nil ? $1.byteCount : 0) }
      if usedByteCount + missing <= limits.memoryByteCount { return needs }
      guard discardOldest() || !canSpill(in: .broker) && evictOne() else {
        for need in needs { if let pooled = need.pooled { rest(pooled) } }
        throw noRoom(byteCount, for: what)
      }
    }
  }

  private mutating func takePooled(_ needs: inout [RingNeed]) {
    for place in needs.indices where needs[place].pooled == nil {
      needs[place].pooled = pool.take(needs[place].kind)
    }
  }

  /// Asks for a ring that room was found for, also in the share of its owner, who is charged with it
  /// from now on, be it fresh or from the pool.
  mutating func requestRing(
    for generation: Generation, _ need: RingNeed, waiters: [RequestID]
  ) {
    let ring = need.pooled ?? freshRing(generation, need)
    pendingRingCount += 1
    charge(need.kind.access.uid, need.byteCount)
    rings[ring]?.generation = generation
    rings[ring]?.index = need.index
    rings[ring]?.waiters = waiters
    blobs[generation]?.pendingExtents[need.index] = ring
    changeResident(generation, by: need.byteCount)
    if let blob = blobs[generation] { notePressure(of: blob) }
    if need.pooled != nil, let useNumber = rings[ring]?.useNumber {
      reuseCount += 1
      rings[ring]?.useNumber = useNumber + 1
      actions.append(.reuseRing(ring, useNumber: useNumber + 1, index: need.index))
    } else {
      actions.append(
        .createRing(
          ring, index: need.index, dataByteCount: need.kind.dataByteCount, hasMap: need.kind.hasMap,
          need.kind.access))
    }
  }

  private mutating func freshRing(_ generation: Generation, _ need: RingNeed) -> RingID {
    lastRing += 1
    let ring = RingID(rawValue: lastRing)
    rings[ring] = Ring(
      generation: generation, index: need.index, kind: need.kind, byteCount: need.byteCount)
    ringByteCount += need.byteCount
    return ring
  }

  /// Gives up the rings that were asked for and have not come: each is unlinked when it does.
  /// - Returns: the requests that waited for them, in the order of their extents.
  mutating func orphanPendingRings(of generation: Generation) -> [RequestID] {
    guard let pending = blobs[generation]?.pendingExtents, !pending.isEmpty else { return [] }
    blobs[generation]?.pendingExtents = [:]
    var waiters: [RequestID] = []
    for (_, ring) in pending.sorted(by: { $0.key < $1.key }) {
      waiters += rings[ring]?.waiters ?? []
      changeResident(generation, by: -(rings[ring]?.byteCount ?? 0))
    }
    return waiters
  }

  /// Frees a ring that nobody was ever given, or that was refused.
  mutating func dropRing(_ ring: RingID, exists: Bool) {
    if exists { actions.append(.unlinkRing(ring)) }
    relieveOwner(of: ring)
    forget(ring)
  }

  /// A ring has served its last blob, or this one.
  private mutating func relieveOwner(of ring: RingID) {
    guard let known = rings[ring] else { return }
    charge(known.owner, -known.byteCount)
  }

  private mutating func forget(_ ring: RingID) {
    ringByteCount -= rings.removeValue(forKey: ring)?.byteCount ?? 0
  }

  // MARK: Writers

  /// A session is given a ring to write. Nothing is sent to one that has ended.
  mutating func noteWriter(_ asker: RequestID, _ generation: Generation) {
    guard let phase = sessions[asker.session]?.phase, phase != .ghost, let blob = blobs[generation]
    else { return }
    let first = blob.writers[asker.session]?.number ?? asker.number
    blobs[generation]?.writers[asker.session] = BlobWriter(number: first, epoch: blob.epoch)
    sessions[asker.session]?.writes.insert(generation)
  }

  /// A publisher has no write in flight and will begin none.
  mutating func quiesced(_ session: SessionID, _ number: UInt64, _ reference: BlobReference) {
    if isLastWrite(session, reference) {
      forgetWriter(session, reference.generation)
      unfence(session, reference.generation)
    }
    reply(session, number, .done)
  }

  /// As `forgetWriter`, of who wrote under this epoch.
  mutating func forgetWriter(_ session: SessionID, _ reference: BlobReference) {
    if isLastWrite(session, reference) { forgetWriter(session, reference.generation) }
  }

  /// Whether a session was given nothing to write under a later epoch: one that stood by behind itself is
  /// the next publisher, too, and what it says of its writes before is not about those of now.
  private func isLastWrite(_ session: SessionID, _ reference: BlobReference) -> Bool {
    blobs[reference.generation]?.writers[session].map { $0.epoch == reference.epoch } ?? true
  }

  mutating func forgetWriter(_ session: SessionID, _ generation: Generation) {
    guard sessions[session]?.writes.remove(generation) != nil else { return }
    blobs[generation]?.writers[session] = nil
    dropHolders(of: session, generation)
    settle(generation)
  }

  /// All publishers of a blob are quiescent: it has been sealed.
  mutating func forgetWriters(of generation: Generation) {
    for session in (blobs[generation]?.writers ?? [:]).keys {
      sessions[session]?.writes.remove(generation)
    }
    blobs[generation]?.writers = [:]
    blobs[generation]?.patchwork.holders = [:]
  }

  // MARK: Giving rings back

  /// Takes a ring from a blob that is gone.
  mutating func retire(_ ring: RingID, isReusable: Bool) {
    guard isReusable, !isDraining, let known = rings[ring], !known.isAbandoned,
      known.useNumber < .max
    else {
      return dropRing(ring, exists: true)
    }
    relieveOwner(of: ring)
    rest(ring)
  }

  private mutating func rest(_ ring: RingID) {
    guard let known = rings[ring] else { return }
    pool.add(ring, known.kind, byteCount: known.byteCount, at: now.monotonicNanoseconds)
  }

  /// Lets the ring go that has been in the pool for the longest time; false if there is none.
  mutating func discardOldest() -> Bool {
    guard let ring = pool.takeOldest() else { return false }
    actions.append(.discardRing(ring))
    forget(ring)
    return true
  }

  /// When the pool is next to be looked at.
  var nextTrim: Int64? { pool.oldest?.addingClamped(limits.poolRest.wholeNanoseconds) }

  /// Gives back what nobody has taken for a while, so much in one turn; the rest is due at once.
  mutating func trimPool() {
    for _ in 0..<Self.trimCount {
      guard let due = nextTrim, due <= now.monotonicNanoseconds else { return }
      _ = discardOldest()
    }
  }

  private static let trimCount = 256
}
