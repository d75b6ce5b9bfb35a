// Extents after the first, and the answers about rings of all kinds. A ring is charged when it is
// asked for; if its blob ends before the ring comes, the ring is unlinked on arrival.

import Glibc
import PatchbayLayout
import PatchbayTypes
import PatchbayWire

extension Ledger {
  /// The most requests that may wait for one ring or one inspection.
  static let waiterLimit = 64

  /// The blob that this session publishes under this epoch.
  /// - Throws: `fenced` when the epoch is past, else what the life cycle says.
  func published(
    _ reference: BlobReference, by session: SessionID, for step: LifeCycle.Step
  ) throws(PatchbayError) -> Blob {
    let generation = reference.generation
    guard let blob = blobs[generation], blob.isBorn, !blob.isGone else {
      throw .notPublished(generation, step: step)
    }
    // Epoch 0 is a reader's: it was never a publisher's to lose.
    if reference.epoch != 0, reference.epoch != blob.epoch { throw .fenced(blob, reference) }
    guard blob.state != .suspended else { throw .notPublished(generation, step: step) }
    if case .refused(let code) = LifeCycle.outcome(of: step, in: blob.state) {
      throw .ended(blob, step: step, code: code)
    }
    guard blob.isPublished(by: session), reference.epoch != 0 else {
      throw .notPublished(generation, step: step)
    }
    return blob
  }

  mutating func grow(
    _ session: SessionID, _ number: UInt64, _ request: GrowRequest
  ) throws(PatchbayError) {
    let blob = try published(request.blob, by: session, for: .grow)
    let generation = request.blob.generation
    let asker = RequestID(session: session, number: number)
    let geometry = try extentGeometry(blob, request.index)
    if let extent = blob.extent(at: request.index) {
      grantExtent(asker, extent, of: generation)
    } else if let pending = blob.pendingExtents[request.index] {
      guard rings[pending]?.waiters.count ?? 0 < Self.waiterLimit else {
        throw .tooManyWaiters(blob, limit: Self.waiterLimit)
      }
      rings[pending]?.waiters.append(asker)
    } else {
      guard !isJournalFull else { throw .journalFull(blob.key) }
      guard !blob.spooled.contains(request.index) else {
        throw .extentSpooled(blob, request.index)
      }
      let onDisk = blob.spooled.count + blob.patchwork.scratch.count
      let count = blob.extents.count + onDisk + blob.pendingExtents.count
      guard count < limits.extentsPerBlob else {
        throw .tooManyExtents(blob, limit: limits.extentsPerBlob)
      }
      let what = "extent \(request.index) of the blob \(blob.key)"
      let need = RingNeed(index: request.index, geometry, blob.origin.access)
      try checkShare(ofClient: blob.payer, need.byteCount, for: what)
      try checkShare(of: need.kind.access.uid, need.byteCount, for: what)
      try checkRoom(need.byteCount, for: what, evicting: !canSpill(in: .broker))
      try makeShare(of: need.kind.access.uid, need.byteCount, for: what)
      for need in try findRoom(for: [need], what: what) {
        requestRing(for: generation, need, waiters: [asker])
      }
    }
  }

  /// The size of an extent that lies within the blob.
  private func extentGeometry(
    _ blob: Blob, _ index: Int
  ) throws(PatchbayError) -> RingGeometry {
    let plan = blob.origin.plan
    let isWindow = blob.origin.window != nil
    let end = isWindow ? plan.first : blob.byteCount ?? ExtentPlan.positionLimit
    guard end > 0, index >= 0, index <= plan.index(of: end - 1),
      let geometry = try Self.geometry(
        of: index, plan: plan, byteCount: isWindow ? nil : blob.byteCount,
        order: blob.origin.request.order)
    else { throw .extentOutOfBounds(blob, index) }
    return geometry
  }

  /// Grants an extent for writing.
  private mutating func grantExtent(
    _ asker: RequestID, _ extent: ExtentRecord, of generation: Generation
  ) {
    noteWriter(asker, generation)
    noteHolder(asker, extent.index, generation)
    reply(
      asker.session, asker.number, .extent(extent.grant), [.ring(extent.ring, isWritable: true)])
  }

  /// The first extent, for a grant that brings it along to a publisher.
  mutating func grantFirst(
    of blob: Blob, _ asker: RequestID
  ) -> (ExtentGrant?, [DescriptorSource]) {
    guard let first = blob.extent(at: 0) else { return (nil, []) }
    noteWriter(asker, blob.origin.generation)
    noteHolder(asker, 0, blob.origin.generation)
    return (first.grant, [.ring(first.ring, isWritable: true)])
  }

  mutating func ringCreated(_ id: RingID) {
    guard let ring = rings[id], !isLive(id, ring) else { return }
    pendingRingCount -= 1
    guard let blob = blobs[ring.generation], blob.pendingExtents[ring.index] == id else {
      dropRing(id, exists: true)
      return
    }
    if let record = blob.patchwork.scratch[ring.index] { return beginRestore(id, ring, record) }
    ringFilled(id, ring)
  }

  /// A ring has all that it is to have when it is granted.
  mutating func ringFilled(_ id: RingID, _ ring: Ring) {
    guard let blob = blobs[ring.generation] else { return }
    let extent = ExtentRecord(
      index: ring.index, ring: id, useNumber: ring.useNumber,
      dataByteCount: ring.kind.dataByteCount)
    guard !takesFresh(id, ring) else { return }
    blobs[ring.generation]?.pendingExtents[ring.index] = nil
    blobs[ring.generation]?.insert(extent)
    restsNow(extent.index, ring.generation)
    rings[id]?.waiters = []
    if blob.isBorn {
      extentArrived(extent, of: ring.generation, waiters: ring.waiters)
    } else {
      bearIfReady(ring.generation)
    }
  }

  private func isLive(_ id: RingID, _ ring: Ring) -> Bool {
    blobs[ring.generation]?.extent(at: ring.index)?.ring == id
  }

  private mutating func extentArrived(
    _ extent: ExtentRecord, of generation: Generation, waiters: [RequestID]
  ) {
    blobs[generation]?.extentVersion &+= 1
    blobs[generation]?.modified = now.wall
    record(generation)
    // Posted before it is granted: whoever knows that an extent was granted, and asks the board what
    // there is, finds that there is more.
    post(generation)
    for waiter in waiters { grantExtent(waiter, extent, of: generation) }
    ring(generation)
    digestMore(generation)
    blobs[generation]?.spillLimit = .max
    offerToSpill(generation)
  }

  mutating func ringRefused(_ id: RingID, _ errno: Int32) {
    guard let ring = rings[id], !isLive(id, ring) else { return }
    pendingRingCount -= 1
    dropRing(id, exists: ring.useNumber > 1)
    guard let blob = blobs[ring.generation], blob.pendingExtents[ring.index] == id else { return }
    blobs[ring.generation]?.pendingExtents[ring.index] = nil
    changeResident(ring.generation, by: -ring.byteCount)
    if ring.useNumber > 1, errno != EAGAIN { return replace(ring, of: blob) }
    // The system has less than was hoped for; what rests in the pool is memory, too.
    if [ENOSPC, ENOMEM].contains(errno), pool.byteCount > 0 {
      while discardOldest() {}
      return replace(ring, of: blob)
    }
    let what = "\(ring.byteCount) bytes of shared memory for the blob \(blob.key)"
    let error: PatchbayError =
      errno == EAGAIN
      ? .tooManyJobs(limit: limits.jobCount, for: what) : .systemRefused(what, errno: errno)
    guard blob.isBorn else {
      discardUnborn(ring.generation, error)
      return
    }
    if isFresh(ring.index, of: blob) { return failRefit(of: ring.generation, error) }
    for waiter in ring.waiters { refuse(waiter.session, waiter.number, error) }
  }

  /// A ring could not be had: one of the pool because somebody has meddled with it, or a fresh one for
  /// want of memory that the pool had. Another fresh one takes its place, and its room.
  private mutating func replace(_ ring: Ring, of blob: Blob) {
    guard
      let geometry = try? RingGeometry(
        dataByteCount: ring.kind.dataByteCount, hasMap: ring.kind.hasMap)
    else { return }
    requestRing(
      for: ring.generation, RingNeed(index: ring.index, geometry, ring.kind.access),
      waiters: ring.waiters)
  }

  /// Gives a reader the descriptor of an extent of a blob that it has open.
  mutating func attachExtent(
    _ session: SessionID, _ number: UInt64, _ request: ExtentRequest
  ) throws(PatchbayError) {
    guard sessions[session]?.handles[request.generation] != nil,
      let blob = blobs[request.generation], blob.isBorn
    else { throw .notOpen(request.generation) }
    if blob.origin.file != nil { return try attachFile(session, number, request, blob) }
    guard !isBeingCopied(request.index, of: blob) else {
      throw .noExtentYet(blob, request.index)
    }
    guard let extent = blob.extent(at: request.index) else {
      if let record = blob.patchwork.scratch[request.index] {
        let grant = ScratchGrant(
          index: record.index, writer: record.writer, dataByteCount: record.dataByteCount)
        return reply(
          session, number, .scratch(grant),
          [.scratch(request.generation, index: request.index)])
      }
      guard blob.spooled.contains(request.index) else {
        throw .noExtentYet(blob, request.index)
      }
      let grant = SpoolGrant(
        index: request.index, segmentByteCount: blob.origin.containerSegment)
      return reply(session, number, .spooled(grant), [.container(request.generation)])
    }
    reply(
      session, number, .extent(extent.grant),
      [.ring(extent.ring, isWritable: false)])
  }

  /// A reply did not reach its client: what it granted is taken back.
  mutating func undelivered(_ session: SessionID, _ number: UInt64) {
    guard !forgetWatch(session, number), let handles = sessions[session]?.handles else { return }
    takeBackExtents(session, number)
    for (generation, handle) in handles.sorted(by: { $0.key < $1.key }) {
      let isOpen = handle.readers.contains(number) || handle.observers.contains(number)
      if isOpen { endOpen(session, generation, number) }
      guard handle.publishes, let blob = blobs[generation], blob.isBorn,
        blob.publishers.contains(BlobPublisher(session: session, number: number))
      else {
        if isOpen { return }
        continue
      }
      depart(session, generation, .undelivered)
      // Unless it was given one before, it has no ring.
      if blob.writers[session]?.number == number {
        forgetWriter(session, BlobReference(generation: generation, epoch: blob.epoch))
      }
      return
    }
  }
}

extension PatchbayError {
  /// The system could not create something; its error number tells which limit it was.
  static func systemRefused(_ what: String, errno: Int32) -> PatchbayError {
    switch errno {
    case ENOSPC, ENOMEM:
      PatchbayError(
        .noSpaceMemory,
        "The system has no room for \(what). Make /dev/shm larger, or the broker's memory limit "
          + "smaller than what is free there.", systemErrno: errno)
    case EMFILE, ENFILE:
      PatchbayError(
        .limitReached,
        "The broker has no file descriptor left for \(what). Raise its limit on open files, or "
          + "remove blobs.", systemErrno: errno)
    default:
      PatchbayError(
        .inputOutput, "The system refused \(what) with error number \(errno).",
        systemErrno: errno)
    }
  }
}
