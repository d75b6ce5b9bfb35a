// Blobs that are written in any order and may be longer than memory. An extent of such a blob may leave
// memory when nobody has it for writing: its publishers hold a bounded number each and give back what
// they need no more. What is covered throughout goes into the container, for good; what is not waits in
// a scratch file, and comes back into a ring when somebody wants to write there. Readers read scratch
// files as they read containers, by themselves, so nothing comes back on their account.
//
// Who has hung up and lives may write whatever it gave back: nothing of a blob that a ghost haunts leaves.

import PatchbayLayout
import PatchbayTypes
import PatchbayWire

/// What stands in a scratch file.
package struct ScratchStanding: Sendable, Hashable {
  /// Bytes of disk that the file takes.
  package var fileByteCount: Int
  package var coveredByteCount: Int
  /// End of the contiguous prefix, as an offset in the extent.
  package var frontier: Int
  package init(fileByteCount: Int, coveredByteCount: Int, frontier: Int) {
    self.fileByteCount = fileByteCount
    self.coveredByteCount = coveredByteCount
    self.frontier = frontier
  }
}

/// An extent that stands in a scratch file.
package struct ScratchRecord: Sendable, Hashable {
  package var index: Int
  /// As whose the file was written: a blob that was taken over has the files of the one before.
  package var writer: Generation
  /// Data bytes of the ring that it was in.
  package var dataByteCount: Int
  package var standing: ScratchStanding
  package init(
    index: Int, writer: Generation, dataByteCount: Int, standing: ScratchStanding
  ) {
    self.index = index
    self.writer = writer
    self.dataByteCount = dataByteCount
    self.standing = standing
  }
}

extension ScratchRecord {
  /// Whether all of the extent is covered.
  package var isFull: Bool { standing.coveredByteCount == dataByteCount }
}

/// What of a blob is not in memory.
package struct ExtentsOnDisk: Sendable, Hashable {
  package var generation: Generation
  /// Indices of those in the container.
  package var whole: [Int]
  package var scratch: [ScratchRecord]
  package init(generation: Generation, whole: [Int], scratch: [ScratchRecord]) {
    self.generation = generation
    self.whole = whole
    self.scratch = scratch
  }
}

/// A ring to fill with what a scratch file holds.
package struct RestoreOrder: Sendable, Hashable {
  package var generation: Generation
  package var index: Int
  /// As whose the file was written.
  package var writer: Generation
  package var ring: RingID
  package init(generation: Generation, index: Int, writer: Generation, ring: RingID) {
    self.generation = generation
    self.index = index
    self.writer = writer
    self.ring = ring
  }
}

/// In whose hands the extents of a blob are, and which stand in scratch files.
struct Patchwork: Sendable {
  /// An extent in memory that nobody has for writing.
  struct Rest: Sendable {
    /// The give-back clock when it was given back, or came.
    var stamp: UInt64
    /// Whether it is full, as a publisher said: a hint.
    var isFull = false
  }

  /// The sessions that have an extent for writing, by the requests that were granted first.
  var holders: [Int: [SessionID: UInt64]] = [:]
  var rests: [Int: Rest] = [:]
  var scratch: [Int: ScratchRecord] = [:]
  /// Bytes of disk of the scratch files.
  var scratchByteCount = 0

  func isHeld(_ index: Int) -> Bool { holders[index] != nil }

  mutating func drop(_ session: SessionID, _ index: Int) {
    holders[index]?[session] = nil
    if holders[index]?.isEmpty == true { holders[index] = nil }
  }

  /// All that a session has.
  func held(by session: SessionID) -> [Int] {
    holders.filter { $0.value[session] != nil }.keys.sorted()
  }

  var scratchRecords: [ScratchRecord] { scratch.values.sorted { $0.index < $1.index } }
}

extension Ledger {
  // MARK: Limits

  /// The most extents that one publisher of such a blob may have for writing: an eighth of memory's
  /// worth, so that four publishers leave half of it to what comes and goes. 0: any number, for then
  /// not even two of two publishers' fit, or nothing can leave.
  /// - Parameter budget: the memory that its publisher may use.
  func heldExtentLimit(
    _ plan: ExtentPlan, _ request: CreateRequest, _ budget: Int
  ) -> Int {
    guard limits.spool != nil, request.policy == .keep,
      let largest = try? RingGeometry(
        dataByteCount: plan.limit, hasMap: request.order == .any),
      largest.objectByteCount <= min(limits.memoryByteCount - overheadByteCount, budget) / 4
    else { return 0 }
    return max(2, budget / 8 / largest.objectByteCount)
  }

  /// Whether a blob may be longer than memory: some of it can leave while the rest is written.
  func canStream(_ plan: ExtentPlan, _ request: CreateRequest, _ budget: Int) -> Bool {
    guard limits.spool != nil else { return false }
    return request.order == .appendOnly || heldExtentLimit(plan, request, budget) > 0
  }

  /// A length that memory and disk together could never hold is refused at once.
  func checkStreamable(
    _ request: CreateRequest, _ byteCount: Int
  ) throws(PatchbayError) {
    guard let spool = limits.spool, request.order == .any else { return }
    let ratio = spool.compression == .none ? 1 : Self.bestRatio
    let (most, overflow) = spool.byteCount.multipliedReportingOverflow(by: ratio)
    guard !overflow, byteCount - limits.memoryByteCount > most else { return }
    throw .neverFitsSpool(request.key, byteCount: byteCount, limits.memoryByteCount, spool)
  }

  /// No LZ4 block shrinks further.
  private static let bestRatio = 255

  // MARK: Holding

  /// A session is given an extent to write.
  mutating func noteHolder(_ asker: RequestID, _ index: Int, _ generation: Generation) {
    guard let phase = sessions[asker.session]?.phase, phase != .ghost,
      blobs[generation]?.isPatchwork == true
    else { return }
    // Granted twice, one grant that does not arrive says nothing: no request has the number 0.
    let isFirst = blobs[generation]?.patchwork.holders[index]?[asker.session] == nil
    blobs[generation]?.patchwork.holders[index, default: [:]][asker.session] =
      isFirst ? asker.number : 0
    if blobs[generation]?.spillingIndex == index { blobs[generation]?.isSpillOutdated = true }
  }

  /// A publisher will not write into an extent before it is granted again.
  mutating func giveBack(_ session: SessionID, _ number: UInt64, _ request: GiveBackRequest) {
    let generation = request.blob.generation
    if blobs[generation]?.patchwork.holders[request.index]?[session] != nil {
      if request.isFull { blobs[generation]?.patchwork.rests[request.index]?.isFull = true }
      dropHolder(session, request.index, generation)
    }
    reply(session, number, .done)
  }

  /// The grant under this number did not reach its client.
  mutating func takeBackExtents(_ session: SessionID, _ number: UInt64) {
    for (generation, blob) in blobs where blob.patchwork.holders.count > 0 {
      for index in blob.patchwork.held(by: session)
      where blob.patchwork.holders[index]?[session] == number {
        dropHolder(session, index, generation)
      }
    }
  }

  private mutating func dropHolder(
    _ session: SessionID, _ index: Int, _ generation: Generation
  ) {
    blobs[generation]?.patchwork.drop(session, index)
    restsNow(index, generation)
    offerToSpill(generation)
  }

  /// A session has no write in flight in any extent of a blob, and will begin none.
  mutating func dropHolders(of session: SessionID, _ generation: Generation) {
    for index in blobs[generation]?.patchwork.held(by: session) ?? [] {
      blobs[generation]?.patchwork.drop(session, index)
      restsNow(index, generation)
    }
  }

  /// From now on an extent is the last to leave.
  mutating func restsNow(_ index: Int, _ generation: Generation) {
    guard blobs[generation]?.isPatchwork == true else { return }
    spilling.restClock += 1
    let isFull = blobs[generation]?.patchwork.rests[index]?.isFull ?? false
    blobs[generation]?.patchwork.rests[index] = Patchwork.Rest(
      stamp: spilling.restClock, isFull: isFull)
  }

  // MARK: Leaving for a scratch file

  /// A worker has written a scratch file.
  mutating func scratched(
    _ index: Int, _ generation: Generation, _ standing: ScratchStanding
  ) {
    guard let blob = blobs[generation], let extent = blob.extent(at: index),
      blob.state.isLive, blob.mayLeaveMemory, !blob.patchwork.isHeld(index), !blob.isSpillOutdated
    else {
      // Somebody writes there again, or has since it was copied, or its blob has ended: it is copied
      // again, later.
      actions.append(.dropScratch(generation, index: index))
      return
    }
    spilling.count += 1
    blobs[generation]?.patchwork.scratch[index] = ScratchRecord(
      index: index, writer: generation, dataByteCount: extent.dataByteCount, standing: standing)
    blobs[generation]?.patchwork.scratchByteCount += standing.fileByteCount
    setDisk(generation, blob.spoolByteCount + standing.fileByteCount)
    vacate(index, generation)
  }

  /// Nothing is covered in it, and nobody has it: as if it had never been asked for.
  mutating func foundEmpty(_ index: Int, _ generation: Generation) {
    guard let blob = blobs[generation], blob.state.isLive, blob.mayLeaveMemory,
      !blob.patchwork.isHeld(index), !blob.isSpillOutdated
    else { return }
    vacate(index, generation)
  }

  /// What a scratch file held is in memory, or in the container.
  mutating func forgetScratch(_ index: Int, _ generation: Generation) {
    guard let blob = blobs[generation],
      let record = blobs[generation]?.patchwork.scratch.removeValue(forKey: index)
    else { return }
    blobs[generation]?.patchwork.scratchByteCount -= record.standing.fileByteCount
    setDisk(generation, blob.spoolByteCount - record.standing.fileByteCount)
    self.record(generation)
    actions.append(.dropScratch(generation, index: index))
  }

  /// A blob has been sealed: what its publisher has covered behind the end is nobody's.
  mutating func forgetScratch(behind end: Int, of generation: Generation) {
    guard let blob = blobs[generation] else { return }
    for record in blob.patchwork.scratchRecords
    where blob.origin.plan.range(of: record.index).lowerBound >= end {
      forgetScratch(record.index, generation)
    }
  }

  // MARK: Coming back

  /// The ring of an extent that stands in a scratch file is there.
  mutating func beginRestore(_ id: RingID, _ ring: Ring, _ record: ScratchRecord) {
    pendingRingCount += 1
    actions.append(
      .restore(
        RestoreOrder(
          generation: ring.generation, index: ring.index, writer: record.writer, ring: id)))
  }

  /// Answer to `restore`: nil when every byte and its mark is there.
  mutating func restored(_ id: RingID, _ error: PatchbayError?) {
    guard let ring = rings[id] else { return }
    pendingRingCount -= 1
    guard let blob = blobs[ring.generation], blob.pendingExtents[ring.index] == id else {
      return dropRing(id, exists: true)
    }
    if let error { return restoreFailed(id, ring, error) }
    restoreCount += 1
    forgetScratch(ring.index, ring.generation)
    ringFilled(id, ring)
  }

  private mutating func restoreFailed(_ id: RingID, _ ring: Ring, _ error: PatchbayError) {
    let generation = ring.generation
    blobs[generation]?.pendingExtents[ring.index] = nil
    changeResident(generation, by: -ring.byteCount)
    dropRing(id, exists: true)
    if error.code == .corrupt {
      failBlob(
        generation, .corrupt, error.message.cut(toUTF8Count: WireLimit.cause), raisesEpoch: false)
    }
    for waiter in ring.waiters { refuse(waiter.session, waiter.number, error) }
  }
}

extension Blob {
  /// Whether its extents may leave memory, and come back, while it is being written.
  var isPatchwork: Bool { origin.request.order == .any && origin.heldExtentLimit > 0 }

  /// The extent that leaves next while the blob is being written: one that nobody has for writing,
  /// full ones first, then the one that was given back, or came back, first.
  var nextToRest: ExtentRecord? {
    func order(_ extent: ExtentRecord) -> (Int, UInt64) {
      let rest = patchwork.rests[extent.index]
      return (rest?.isFull == true ? 0 : 1, rest?.stamp ?? 0)
    }
    return extents.filter { !patchwork.isHeld($0.index) }.min { order($0) < order($1) }
  }

  /// Of a sealed blob: what a scratch file holds is to go to the container.
  var nextToConvert: ExtentRecord? {
    patchwork.scratchRecords.first.map {
      ExtentRecord(
        index: $0.index, ring: RingID(rawValue: 0), useNumber: 0, dataByteCount: $0.dataByteCount)
    }
  }

  /// What is known to stand on disk.
  var onDisk: ExtentsOnDisk {
    ExtentsOnDisk(
      generation: origin.generation, whole: spooled.sorted(), scratch: patchwork.scratchRecords)
  }

  /// Whether the container can take an extent now. Each segment that it has to leave out before takes a
  /// page of disk, so what stands far away from the rest waits in a scratch file.
  func isNearInContainer(_ index: Int) -> Bool {
    let start = origin.plan.range(of: index).lowerBound
    return (start - (spooledEnd ?? 0)) / origin.containerSegment <= Self.gapLimit
  }

  /// Segments that are left out at most: 64 MiB of disk.
  private static let gapLimit = 16384
}

extension PatchbayError {
  static func neverFitsSpool(
    _ key: BlobKey, byteCount: Int, _ memory: Int, _ spool: SpoolTerms
  ) -> PatchbayError {
    PatchbayError(
      .noSpaceSpool,
      "The blob \(key) needs \(byteCount) bytes, more than the broker's memory of \(memory) and its "
        + "spool of \(spool.byteCount) hold together. Raise --spool-limit.")
  }
}
