// Taking over a failed blob that may be longer than memory. Its files get a second name, that of the new
// generation, and what is in memory of it is copied to disk under that name; so no memory is needed, and
// the old generation stands as it was until the new one is born. A name more costs no disk, but it is
// charged: the old generation's share is free again when its last reader has gone.

import PatchbayTypes
import PatchbayWire

/// A failed blob whose covered bytes are to stand on disk as another generation's.
package struct AdoptOrder: Sendable, Hashable {
  package var copy: CopyID
  package var source: Generation
  package var hasContainer: Bool
  /// Indices of extents in scratch files.
  package var scratch: [Int]
  /// What is in memory, as it is to be spilled by the new generation.
  package var rings: [SpillOrder]
  /// Its key and its generation.
  package var key: BlobKey
  package var target: Generation
}

/// What of an adopted blob stands where.
package struct Adoption: Sendable, Hashable {
  package var containerByteCount: Int
  /// Indices of extents that were in memory and are in the container now.
  package var whole: [Int]
  /// Those in scratch files now.
  package var scratch: [Int: ScratchStanding]
  package init(containerByteCount: Int, whole: [Int], scratch: [Int: ScratchStanding]) {
    self.containerByteCount = containerByteCount
    self.whole = whole
    self.scratch = scratch
  }
}

extension Ledger {
  /// Whether a failed blob is taken over on disk: it is there already, or fills much of memory.
  func adopts(
    _ source: Blob, _ plan: ExtentPlan, _ request: CreateRequest, _ budget: Int
  ) -> Bool {
    guard source.isPatchwork, request.order == .any, heldExtentLimit(plan, request, budget) > 0
    else { return false }
    let isOnDisk = !source.spooled.isEmpty || !source.patchwork.scratch.isEmpty
    return isOnDisk || source.residentByteCount > budget / 4
  }

  /// Begins the new generation of a blob that is taken over on disk.
  mutating func adopt(
    _ source: Blob, _ session: SessionID, _ number: UInt64, _ request: CreateRequest,
    _ terms: CreateTerms, _ plan: ExtentPlan
  ) throws(PatchbayError) {
    guard let spool = limits.spool else { return }
    // Its files become the new blob's, and whoever has them open sees what is written into them.
    guard request.mode == source.origin.access.mode,
      sessions[session]?.peer.gid == source.origin.access.gid
    else {
      throw .notResumable(
        source,
        "it is of \(source.origin.access.shown), and some of it stands on disk, where its files are "
          + "taken over")
    }
    let reserve = source.extents.reduce(0) { sum, extent in
      sum + self.reserve(range(of: extent, source), of: extent, source)
    }
    hold(source.origin.generation, true)
    do throws(PatchbayError) {
      _ = try makeRoomForBlob([], session, request)
      try makeRoomOnDisk(source.spoolByteCount + reserve, for: source, spool)
    } catch {
      hold(source.origin.generation, false)
      throw error
    }
    guard
      let generation = beginBlob(
        session, number, request, terms, plan: plan, source: source.origin.generation)
    else { return hold(source.origin.generation, false) }
    blobs[generation]?.hasContainer = true
    setDisk(generation, source.spoolByteCount + reserve)
    bearIfReady(generation)
  }

  /// Has a worker do it.
  mutating func beginAdoption(_ generation: Generation, of old: Blob, _ copy: CopyID) {
    guard let blob = blobs[generation] else { return }
    let rings = old.extents.map { extent in
      SpillOrder(
        key: blob.key, generation: generation, extent: extent, plan: blob.origin.plan,
        range: range(of: extent, old), segmentByteCount: blob.origin.containerSegment,
        byteCount: blob.byteCount, compression: compression(of: blob.origin),
        isDurable: blob.origin.request.acknowledgement == .durable, mayLeavePartly: true,
        goesToScratch: !old.isNearInContainer(extent.index))
    }
    actions.append(
      .adopt(
        AdoptOrder(
          copy: copy, source: old.origin.generation, hasContainer: !old.spooled.isEmpty,
          scratch: old.patchwork.scratch.keys.sorted(), rings: rings, key: blob.key,
          target: generation)))
  }

  /// Answer to `adopt`.
  mutating func adopted(_ copy: CopyID, _ result: Result<Adoption, PatchbayError>) {
    guard let generation = copies[copy] else { return }
    guard let blob = blobs[generation], blob.pendingCopy == copy,
      let old = blob.source.flatMap({ blobs[$0] })
    else {
      copies[copy] = nil
      return actions.append(.removeContainer(generation))
    }
    let adoption: Adoption
    switch result {
    case .success(let found): adoption = found
    case .failure(let error):
      copied(copy, error)
      return actions.append(.removeContainer(generation))
    }
    blobs[generation]?.spooled = old.spooled.union(adoption.whole)
    var records = old.patchwork.scratch
    for (index, standing) in adoption.scratch {
      guard let extent = old.extent(at: index) else { continue }
      records[index] = ScratchRecord(
        index: index, writer: generation, dataByteCount: extent.dataByteCount,
        standing: standing)
    }
    let scratchByteCount = records.values.reduce(0) { $0 + $1.standing.fileByteCount }
    blobs[generation]?.patchwork.scratch = records
    blobs[generation]?.patchwork.scratchByteCount = scratchByteCount
    setDisk(generation, adoption.containerByteCount + scratchByteCount)
    copied(copy, nil)
  }

  /// The positions of an extent that lie within its blob.
  private func range(of extent: ExtentRecord, _ blob: Blob) -> Range<Int> {
    let start = blob.origin.plan.range(of: extent.index).lowerBound
    return start..<min(start + extent.dataByteCount, blob.byteCount ?? .max)
  }
}
