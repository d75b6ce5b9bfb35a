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
  package var compression: SpoolCompression
  /// Whether each step waits for the device.
  package var isDurable: Bool { blob.request.acknowledgement == .durable }

  /// The positions of an extent.
  package func range(of extent: ExtentRecord) -> Range<Int> {
    let start = blob.plan.range(of: extent.index).lowerBound
    return start..<min(start + extent.dataByteCount, blob.byteCount)
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
    guard let blob = blobs[generation], blob.origin.outlivesBroker, blob.isNamed else {
      return finishSeal(generation, pending)
    }
    var pending = pending
    pending.isPersisting = true
    blobs[generation]?.pendingSeal = pending
    let order = persistOrder(blob, pending)
    let reserve = order.extents.reduce(0) {
      $0
        + SpillOrder.reserve(
          order.range(of: $1), segmentByteCount: order.blob.segmentByteCount)
    }
    guard let spool = limits.spool else { return refuseSeal(generation, .noSpool(blob.key)) }
    do throws(PatchbayError) {
      try makeRoomOnDisk(reserve, for: blob, spool)
    } catch {
      return refuseSeal(generation, error)
    }
    blobs[generation]?.hasContainer = true
    blobs[generation]?.persistReserve = reserve
    setDisk(generation, blob.spoolByteCount + reserve)
    actions.append(.persist(order))
  }

  private func persistOrder(_ blob: Blob, _ pending: PendingSeal) -> PersistOrder {
    let plan = blob.origin.plan
    let byteCount = pending.byteCount
    let extents = blob.extents.filter { plan.range(of: $0.index).lowerBound < byteCount }
    return PersistOrder(
      blob: StoredBlob(
        request: blob.origin.request, generation: blob.origin.generation,
        access: blob.origin.access, plan: plan, byteCount: byteCount,
        digest: pending.digest, segmentByteCount: blob.origin.containerSegment,
        created: blob.origin.created,
        modified: now.wall, containerByteCount: 0),
      extents: extents, compression: compression(of: blob.origin))
  }

  mutating func persisted(_ generation: Generation, _ result: PersistResult) {
    guard let blob = blobs[generation] else { return }
    blobs[generation]?.persistReserve = nil
    switch result {
    case .done(let byteCount):
      setDisk(generation, byteCount)
      standsOnDisk(blob)
    case .failed(let error, let byteCount):
      setDisk(generation, byteCount ?? blob.spoolByteCount - (blob.persistReserve ?? 0))
      refuseSeal(generation, error)
    case .lost(let error):
      setDisk(generation, 0)
      if !blob.spooled.isEmpty, blob.state.isLive {
        failBlob(
          generation, error.code, "its bytes on disk were lost: \(error.message)", raisesEpoch: true
        )
      }
      refuseSeal(generation, error)
    }
    offerToSpill(generation)
    settle(generation)
    spillMore()
  }

  /// The container is complete. If the blob is not, or its key is gone, no broker may find it.
  private mutating func standsOnDisk(_ blob: Blob) {
    let generation = blob.origin.generation
    guard let pending = blob.pendingSeal, pending.isPersisting else {
      return actions.append(.withdrawContainer(generation))
    }
    do throws(PatchbayError) {
      try checkUndisturbed(pending, blob)
      blobs[generation]?.pendingSeal = nil
      blobs[generation]?.isPersisted = blob.isNamed
      if !blob.isNamed { actions.append(.withdrawContainer(generation)) }
      finishSeal(generation, pending)
    } catch {
      actions.append(.withdrawContainer(generation))
      refuseSeal(generation, error)
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
  mutating func found(_ stored: [StoredBlob]) {
    for blob in stored.sorted(by: { ($0.modified, $0.generation) < ($1.modified, $1.generation) }) {
      lastGeneration = max(lastGeneration, blob.generation.rawValue)
      adopt(blob)
    }
  }

  private mutating func adopt(_ stored: StoredBlob) {
    let key = stored.request.key
    if let other = owners[key] {
      // Both were there when the power went: the later life counts.
      guard other < stored.generation else {
        return actions.append(.removeContainer(stored.generation))
      }
      unname(other)
    }
    let origin = BlobOrigin(
      request: stored.request,
      terms: .plain(digest: stored.digest.map { DigestWish($0.algorithm) }),
      generation: stored.generation, access: stored.access,
      plan: stored.plan, window: nil, created: stored.created,
      creator: RequestID(session: SessionID(rawValue: 0), number: 0), token: .none)
    var blob = Blob(origin: origin)
    blob.state = .sealed
    blob.isBorn = true
    blob.isPersisted = true
    blob.hasContainer = true
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
    changed(stored.generation)
    settle(stored.generation)
  }
}

extension BlobOrigin {
  /// Whether its seal is acknowledged only when the blob can be found by the next broker.
  var outlivesBroker: Bool { request.acknowledgement != .visible }
}

extension Blob {
  /// Whether it leaves by removal only.
  var isKept: Bool { state == .sealed && origin.outlivesBroker && !origin.request.isCache }
}

extension PatchbayError {
  static func noSpool(_ key: BlobKey) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "The blob \(key) was to outlive its broker, but this broker has no spool to keep it in. Start "
        + "it with --spool, or ask for the acknowledgement visible.")
  }
}
