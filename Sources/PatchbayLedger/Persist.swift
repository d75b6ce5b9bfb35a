// Blobs that outlive their broker: those whose acknowledgement is `retained` or `durable`. When such a
// blob is about to be sealed, whatever of it stands in memory is copied into its container by a worker,
// which then writes the header that says that the blob is complete and gives the file the name under
// which the next broker finds it; for `durable` each step waits for the device. Only then the blob is
// sealed and the seal answered, so an answer never promises what is not there. Extents of such a blob
// leave memory later without being copied again.
//
// What a broker finds in its spool when it starts is told here, too: complete blobs, whole on disk.

import PatchbayTypes
import PatchbayWire

/// A complete blob as its container describes it: enough for another broker to serve it.
package struct StoredBlob: Sendable, Hashable {
  package var request: CreateRequest
  package var generation: Generation
  package var access: Access
  package var plan: ExtentPlan
  /// The blob's length; the request's is what was announced.
  package var byteCount: Int
  /// Nil unless it was asked for.
  package var digest: ContentDigest?
  package var segmentByteCount: Int
  package var created: WallTime
  package var modified: WallTime
  /// Bytes of disk that the container takes.
  package var containerByteCount: Int
  package var isPinned = false
  package var lifetime = LifetimeTerms()

  package init(
    request: CreateRequest, generation: Generation, access: Access, plan: ExtentPlan,
    byteCount: Int, digest: ContentDigest? = nil, segmentByteCount: Int, created: WallTime,
    modified: WallTime, containerByteCount: Int
  ) {
    self.digest = digest
    self.request = request
    self.generation = generation
    self.access = access
    self.plan = plan
    self.byteCount = byteCount
    self.segmentByteCount = segmentByteCount
    self.created = created
    self.modified = modified
    self.containerByteCount = containerByteCount
  }
}

/// A blob whose container is to be completed.
package struct PersistOrder: Sendable, Hashable {
  package var blob: StoredBlob
  /// Those that stand in memory; they are complete.
  package var extents: [ExtentRecord]
  /// Those in scratch files; they are complete, too.
  package var scratch: [ScratchRecord]
  package var compression: SpoolCompression
  /// Whether each step waits for the device.
  package var isDurable: Bool { blob.request.acknowledgement == .durable }

  /// The positions of an extent.
  package func range(of extent: ExtentRecord) -> Range<Int> {
    range(of: extent.index, extent.dataByteCount)
  }

  package func range(of index: Int, _ dataByteCount: Int) -> Range<Int> {
    let start = blob.plan.range(of: index).lowerBound
    return start..<min(start + dataByteCount, blob.byteCount)
  }
}

/// What became of it.
package enum PersistResult: Sendable, Hashable {
  case done(containerByteCount: Int)
  /// Nothing that stood on disk before was lost. nil: as many bytes as before, for all that is known.
  case failed(PatchbayError, containerByteCount: Int?)
  /// The container is gone, with what stood in it only.
  case lost(PatchbayError)
}

extension Ledger {
  // MARK: Making them

  /// The last step of a seal: the flip, or first the container.
  mutating func completeSeal(_ generation: Generation, _ pending: PendingSeal) {
    guard let blob = blobs[generation], blob.origin.outlivesBroker, blob.isWanted else {
      return finishSeal(generation, pending)
    }
    var pending = pending
    pending.isPersisting = true
    blobs[generation]?.pendingSeal = pending
    let order = persistOrder(blob, pending)
    let ranges =
      order.extents.map { order.range(of: $0) }
      + order.scratch.map { order.range(of: $0.index, $0.dataByteCount) }
    let reserve = ranges.reduce(0) {
      $0 + SpillOrder.reserve($1, segmentByteCount: order.blob.segmentByteCount)
    }
    guard let spool = limits.spool else { return refuseSeal(generation, .noSpool(blob.key)) }
    do throws(PatchbayError) {
      try makeRoomOnDisk(reserve, for: blob, spool)
    } catch {
      return refuseSeal(generation, error)
    }
    blobs[generation]?.hasContainer = true
    blobs[generation]?.persistReserve = reserve
    countPersists(of: blob, 1)
    setDisk(generation, blob.spoolByteCount + reserve)
    actions.append(.persist(order))
  }

  private func persistOrder(_ blob: Blob, _ pending: PendingSeal) -> PersistOrder {
    let plan = blob.origin.plan
    let byteCount = pending.byteCount
    let extents = blob.extents.filter { plan.range(of: $0.index).lowerBound < byteCount }
    var stored = StoredBlob(
      request: blob.origin.request, generation: blob.origin.generation,
      access: blob.origin.access, plan: plan, byteCount: byteCount,
      digest: pending.digest, segmentByteCount: blob.origin.containerSegment,
      created: blob.origin.created,
      modified: now.wall, containerByteCount: 0)
    stored.lifetime = blob.origin.terms.lifetime
    return PersistOrder(
      blob: stored,
      extents: extents,
      scratch: blob.patchwork.scratchRecords.filter {
        plan.range(of: $0.index).lowerBound < byteCount
      }, compression: compression(of: blob.origin))
  }

  mutating func persisted(_ generation: Generation, _ result: PersistResult) {
    guard let blob = blobs[generation], let reserve = blob.persistReserve else { return }
    blobs[generation]?.persistReserve = nil
    countPersists(of: blob, -1)
    switch result {
    case .done(let byteCount): setDisk(generation, byteCount + blob.besidesContainer)
    case .failed(_, let byteCount):
      setDisk(
        generation,
        byteCount.map { $0 + blob.besidesContainer } ?? blob.spoolByteCount - reserve)
    case .lost(let error):
      setDisk(generation, blob.besidesContainer)
      if !blob.spooled.isEmpty, blob.state.isLive {
        failBlob(
          generation, .inputOutput, "its bytes on disk were lost: \(error.message)",
          raisesEpoch: true)
      }
    }
    conclude(generation, result)
    serveLateSeals(generation)
    offerToSpill(generation)
    settle(generation)
  }

  /// Ends the seal that waited for the container, if it still does. Of a blob without a key nobody will
  /// look for one.
  private mutating func conclude(_ generation: Generation, _ result: PersistResult) {
    guard let blob = blobs[generation], let pending = blob.pendingSeal, pending.isPersisting else {
      return
    }
    switch result {
    case .failed(let error, _) where blob.isWanted: return refuseSeal(generation, error)
    case .lost(let error) where blob.isWanted: return refuseSeal(generation, error)
    case .done, .failed, .lost: break
    }
    blobs[generation]?.pendingSeal = nil
    if case .done = result {
      blobs[generation]?.isPersisted = blob.isWanted
      if blob.isPinned { markContainer(of: generation) }
      containerHasScratch(generation, below: pending.byteCount)
    }
    finishSeal(generation, pending)
  }

  /// A seal comes while the container of one before, of which nobody waits any more, is being completed:
  /// its turn is next.
  mutating func postpones(_ asker: RequestID, _ request: SealRequest) throws(PatchbayError) -> Bool
  {
    let generation = request.blob.generation
    guard let blob = blobs[generation], blob.persistReserve != nil, blob.pendingSeal == nil else {
      return false
    }
    guard blob.lateSeals.count < Self.waiterLimit else {
      throw .tooManyWaiters(blob, limit: Self.waiterLimit)
    }
    blobs[generation]?.lateSeals.append(LateSeal(asker: asker, request: request))
    return true
  }

  private mutating func serveLateSeals(_ generation: Generation) {
    let late = blobs[generation]?.lateSeals ?? []
    blobs[generation]?.lateSeals = []
    for seal in late where sessions[seal.asker.session]?.phase == .talking {
      do throws(PatchbayError) {
        try self.seal(seal.asker.session, seal.asker.number, seal.request)
      } catch {
        refuse(seal.asker.session, seal.asker.number, error)
      }
    }
  }

  /// To be called when a blob has lost its key, or the seal that its container is being completed for,
  /// and before anybody is told: no broker may find it then, however far the worker is.
  mutating func withdrawContainer(of generation: Generation) {
    guard let blob = blobs[generation], blob.isPersisted || blob.persistReserve != nil else {
      return
    }
    actions.append(.withdrawContainer(generation))
  }

  /// The next broker finds a complete blob as it is: pinned or not.
  mutating func markContainer(of generation: Generation) {
    guard let blob = blobs[generation], blob.isPersisted else { return }
    actions.append(.markContainer(generation, isPinned: blob.isPinned))
  }

  /// What stood in scratch files below a blob's end stands in its container, too.
  private mutating func containerHasScratch(_ generation: Generation, below end: Int) {
    for record in blobs[generation]?.patchwork.scratchRecords ?? []
    where blobs[generation]?.origin.plan.range(of: record.index).lowerBound ?? end < end {
      blobs[generation]?.spooled.insert(record.index)
      forgetScratch(record.index, generation)
      blobs[generation]?.extentVersion &+= 1
    }
  }

  /// The blob stays open, if it still is: its publisher may try again.
  private mutating func refuseSeal(_ generation: Generation, _ error: PatchbayError) {
    guard let pending = blobs[generation]?.pendingSeal, pending.isPersisting else { return }
    blobs[generation]?.pendingSeal = nil
    for waiter in pending.waiters { refuse(waiter.session, waiter.number, error) }
  }

  // MARK: Finding them

  /// Takes in what a broker before this one has left complete, before anybody connects: the one that
  /// was written last is taken for the one that was read last.
  /// - Parameter last: No generation up to this one is given out again: files may bear its number.
  mutating func found(_ stored: [StoredBlob], last: Generation) {
    lastGeneration = max(lastGeneration, last.rawValue)
    for blob in stored.sorted(by: { ($0.modified, $0.generation) < ($1.modified, $1.generation) }) {
      adopt(blob)
    }
  }

  private mutating func adopt(_ stored: StoredBlob) {
    let key = stored.request.key
    guard owners[key] == nil, blobs[stored.generation] == nil,
      stored.generation.rawValue <= lastGeneration
    else { return }
    var terms = CreateTerms.plain(digest: stored.digest.map { DigestWish($0.algorithm) })
    terms.lifetime = stored.lifetime
    let origin = BlobOrigin(
      request: stored.request, terms: terms,
      generation: stored.generation, access: stored.access,
      plan: stored.plan, window: nil, created: stored.created,
      creator: RequestID(session: SessionID(rawValue: 0), number: 0), token: .none)
    var blob = Blob(origin: origin)
    blob.state = .sealed
    blob.isBorn = true
    blob.isPersisted = true
    blob.hasContainer = true
    blob.isPinned = stored.isPinned
    blob.byteCount = stored.byteCount
    blob.digest = stored.digest
    blob.modified = stored.modified
    if stored.byteCount > 0 {
      blob.spooled = Set(0...stored.plan.index(of: stored.byteCount - 1))
    }
    keep(blob)
    owners[key] = stored.generation
    catalog.insert(key)
    setDisk(stored.generation, stored.containerByteCount)
    touch(stored.generation)
    takeUpLifetime(found: stored.generation)
    changed(stored.generation)
    settle(stored.generation)
  }
}

extension BlobOrigin {
  /// Whether its seal is acknowledged only when the blob can be found by the next broker.
  var outlivesBroker: Bool { request.acknowledgement != .visible }
}

extension Blob {
  /// Bytes of disk that it takes, or may take in a moment, beside its container's.
  fileprivate var besidesContainer: Int {
    patchwork.scratchByteCount + (spillingIndex == nil ? 0 : spillReserve)
  }

  /// Whether it leaves by removal only.
  var isKept: Bool { state == .sealed && origin.outlivesBroker && !origin.request.isCache }
}

extension PatchbayError {
  static func noSpoolToCompress(_ key: BlobKey) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "It was said how the blob \(key) is to be kept on disk, but this broker has no spool. Start it "
        + "with --spool, or leave that out.")
  }

  static func noSpool(_ key: BlobKey) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "The blob \(key) was to outlive its broker, but this broker has no spool to keep it in. Start "
        + "it with --spool, or ask for the acknowledgement visible.")
  }
}
