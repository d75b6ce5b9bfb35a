// What leaves memory for the disk. Only whole extents leave, and only such as nobody writes any more:
// those of a sealed blob, and of one that is appended to those that are full, but for the first, which
// holds the marks; of one that is written in any order those that nobody has (GiveBack). A worker copies
// an extent into the blob's container and looks that all of it is covered; then its tag is taken away,
// readers who have it mapped find that and ask anew, and the ring goes to the pool, or waits for whoever
// views it in place. Who waits for memory meanwhile: RoomWaiting.

import PatchbayLayout
import PatchbayTypes
import PatchbayWire

/// What a broker may put on disk.
package struct SpoolTerms: Hashable, Sendable {
  /// Bytes of disk.
  package var byteCount: Int
  package var compression: SpoolCompression
  package init(byteCount: Int, compression: SpoolCompression) {
    self.byteCount = byteCount
    self.compression = compression
  }
}

/// One extent that a worker is to copy to disk.
package struct SpillOrder: Sendable, Hashable {
  package var key: BlobKey
  package var generation: Generation
  package var extent: ExtentRecord
  package var plan: ExtentPlan
  /// Positions that have to be covered, all of them, and are copied.
  package var range: Range<Int>
  package var segmentByteCount: Int
  /// The blob's length, if it is known.
  package var byteCount: Int?
  package var compression: SpoolCompression
  /// Whether the blob is to survive loss of power.
  package var isDurable: Bool
  /// Whether what is not covered throughout goes to a scratch file.
  package var mayLeavePartly = false
  /// Whether the container is not to take it: it would stand too far away from the rest.
  package var goesToScratch = false
  /// As whose its scratch file was written, if it stands in one; its ring is none then.
  package var scratchWriter: Generation?
}

/// What became of an extent on its way to disk.
package enum SpillResult: Sendable, Hashable {
  /// The blob's container takes so many bytes of disk now.
  case done(containerByteCount: Int)
  /// It stands in a scratch file.
  case partial(ScratchStanding)
  /// Nothing of it is covered.
  case empty
  /// Some of it is not covered yet.
  case incomplete
  /// Its container takes so many bytes now; nil: as many as before, for all that is known.
  case failed(PatchbayError, containerByteCount: Int?)
}

/// The ledger's view of the disk.
struct Spilling: Sendable {
  /// Blobs that may have extents to spill, for each share of memory that they are charged to.
  var candidates: [RoomScope: SpillQueue] = [:]
  /// Blobs with an extent on its way: one each.
  var underWay: [Generation] = []
  /// Bytes of disk, those set aside for what is on its way included; and those of idle blobs.
  var byteCount = 0
  var idleByteCount = 0
  var count: UInt64 = 0
  /// Rings whose extents stand on disk, and of which it is being found out whether somebody views
  /// them; and those that somebody does.
  var retracting: Set<RingID> = []
  var viewed: [RingID] = []
  var nextLook: Int64?
  /// Counts what is given back and what comes.
  var restClock: UInt64 = 0
  /// Until when processes of a user that hung up are expected to be gone, and what they had open free to
  /// leave.
  var ghostPatience: [UInt32: Int64] = [:]
  /// Requests that wait for memory, and whether some has come back, or somebody has left the line, since
  /// they were last tried.
  var line = RoomLine()
  var isRelieved = false
  /// Containers that are being completed: what stands in them can leave at once then.
  var persistCount = 0
  /// Shares of users and clients that were nearly used up when they were last charged.
  var pressed: [RoomScope] = []
  /// Until when nothing is tried, because the disk was full; and what it said.
  var pause: (until: Int64, error: PatchbayError)?

  /// Rings whose extents stand on disk.
  var leaving: [RingID] { Array(retracting) + viewed }

  /// Extents that are on their way or next in line.
  static let limit = 2
  static let lookInterval = Duration.milliseconds(100)
  static let pauseInterval = Duration.seconds(1)
  static let ghostInterval = Duration.seconds(2)
}

extension Ledger {
  // MARK: Choosing

  /// After each event: serves those that wait for memory, and starts what is needed for those that have to
  /// wait on.
  mutating func spillMore() {
    guard limits.spool != nil, returning == nil else { return }
    repeat {
      if spilling.isRelieved { serveLine() }
      while spilling.underWay.count + spilling.retracting.count < Spilling.limit,
        spilling.pause == nil, startSpill()
      {}
    } while serveInVain() || spilling.isRelieved && spilling.line.count > 0
  }

  /// Starts one extent: of a share that somebody waits for, or else of one that is nearly used up; false
  /// if there is none. Users and shares of which nothing leaves yet come first, and then who was started
  /// for the longest time ago.
  private mutating func startSpill() -> Bool {
    if startAwaited() { return true }
    if isNearlyUsed(.broker), startSpill(in: .broker) { return true }
    guard !spilling.pressed.isEmpty else { return false }
    let pressed = spilling.pressed.filter(isNearlyUsed)
    spilling.pressed = pressed
    for scope in pressed where startSpill(in: scope) { return true }
    return false
  }

  private mutating func startAwaited() -> Bool {
    let scopes = spilling.line.scopes
    guard !scopes.isEmpty else { return false }
    let idle = scopes.filter { !leaves($0) }
    let users = Set(spilling.underWay.compactMap { blobs[$0]?.origin.access.uid })
    let first = idle.filter { scope in user(of: scope).map { !users.contains($0) } ?? false }
    for scope in first + idle + scopes where startSpill(in: scope) {
      spilling.line.moveBack(scope)
      return true
    }
    return false
  }

  private mutating func startSpill(in scope: RoomScope) -> Bool {
    while let generation = nextCandidate(in: scope) {
      guard let blob = blobs[generation], let extent = blob.nextToSpill else { continue }
      return start(extent, of: blob)
    }
    return false
  }

  private mutating func start(_ extent: ExtentRecord, of blob: Blob) -> Bool {
    guard let spool = limits.spool else { return false }
    let generation = blob.origin.generation
    if blob.isPersisted {
      leaveMemory(extent.index, generation)
      offerToSpill(generation)
      return true
    }
    let whole = blob.origin.plan.range(of: extent.index)
    let range =
      whole.lowerBound..<min(whole.lowerBound + extent.dataByteCount, blob.byteCount ?? .max)
    let segment = blob.origin.containerSegment
    let isNear = !blob.isPatchwork || blob.isNearInContainer(extent.index)
    let reserve = reserve(range, of: extent, blob)
    do throws(PatchbayError) {
      try makeRoomOnDisk(reserve, for: blob, spool)
    } catch {
      // One user's share is no reason to hold up the others.
      guard error.code == .noSpaceSpool else { return true }
      pauseSpilling(error)
      offerToSpill(generation)
      return false
    }
    // It may have been the one that went.
    guard blobs[generation] != nil else { return true }
    blobs[generation]?.spillingIndex = extent.index
    blobs[generation]?.spillReserve = reserve
    blobs[generation]?.isSpillOutdated = false
    blobs[generation]?.hasContainer = true
    setDisk(generation, blob.spoolByteCount + reserve)
    spilling.underWay.append(generation)
    actions.append(
      .spill(
        SpillOrder(
          key: blob.key, generation: generation, extent: extent, plan: blob.origin.plan,
          range: range, segmentByteCount: segment, byteCount: blob.byteCount,
          compression: compression(of: blob.origin),
          isDurable: blob.origin.request.acknowledgement == .durable,
          mayLeavePartly: blob.isPatchwork && blob.state.isLive,
          goesToScratch: !isNear && blob.state.isLive,
          scratchWriter: blob.patchwork.scratch[extent.index]?.writer)))
    return true
  }

  /// The most bytes of disk that an extent takes, with the segments that are left out before it.
  func reserve(_ range: Range<Int>, of extent: ExtentRecord, _ blob: Blob) -> Int {
    let reserve = SpillOrder.reserve(range, segmentByteCount: blob.origin.containerSegment)
    guard blob.isPatchwork else { return reserve }
    let isNear = blob.isNearInContainer(extent.index)
    let gap =
      isNear
      ? max(0, range.lowerBound - (blob.spooledEnd ?? 0)) / blob.origin.containerSegment : 0
    let scratch =
      (try? RingGeometry(dataByteCount: extent.dataByteCount, hasMap: true))?.objectByteCount ?? 0
    return max(reserve + gap * ExtentPlan.page, scratch + 2 * ExtentPlan.page)
  }

  /// Evicts blobs that have bytes on disk, least recently read first, if that makes enough room; those of
  /// the blob's own user where its share is full.
  /// - Throws: `noSpaceSpool`; `limitReached` for a user's share.
  mutating func makeRoomOnDisk(
    _ byteCount: Int, for blob: Blob, _ spool: SpoolTerms
  ) throws(PatchbayError) {
    let uid = blob.origin.access.uid
    try checkDiskShare(of: uid, byteCount)
    guard spilling.byteCount - spilling.idleByteCount + byteCount <= spool.byteCount else {
      throw .spoolFull(used: spilling.byteCount, limit: spool.byteCount)
    }
    while !isTrusted(uid), (accounts[uid]?.diskByteCount ?? 0) + byteCount > diskPerOtherUser {
      guard evictOne(of: uid, for: .disk) else { return try checkDiskShare(of: uid, byteCount) }
    }
    while spilling.byteCount + byteCount > spool.byteCount {
      guard evictOne(for: .disk) else {
        throw .spoolFull(used: spilling.byteCount, limit: spool.byteCount)
      }
    }
  }

  /// Bytes of disk that blobs of one user may take that is neither the broker's own nor root.
  var diskPerOtherUser: Int { (limits.spool?.byteCount ?? 0) / 2 }

  private func checkDiskShare(of uid: UInt32, _ byteCount: Int) throws(PatchbayError) {
    guard !isTrusted(uid), let account = accounts[uid],
      account.diskByteCount - account.idleDiskByteCount + byteCount > diskPerOtherUser
    else { return }
    throw .noDiskShare(byteCount, uid: uid, used: account.diskByteCount, limit: diskPerOtherUser)
  }

  func compression(of origin: BlobOrigin) -> SpoolCompression {
    origin.terms.compression ?? limits.spool?.compression ?? .none
  }

  /// What a blob has on disk, or may have in a moment.
  mutating func setDisk(_ generation: Generation, _ byteCount: Int) {
    guard let blob = blobs[generation] else { return }
    let more = byteCount - blob.spoolByteCount
    blobs[generation]?.spoolByteCount = byteCount
    chargeDisk(blob, more, idle: blob.isIdle ? more : 0)
    if blob.isIdle { queueForEviction(generation) }
  }

  /// Counts bytes of disk of a blob; and how many of all of them eviction could free.
  mutating func chargeDisk(_ blob: Blob, _ byteCount: Int, idle: Int) {
    let uid = blob.origin.access.uid
    spilling.byteCount += byteCount
    spilling.idleByteCount += idle
    accounts[uid]?.diskByteCount += byteCount
    accounts[uid]?.idleDiskByteCount += idle
  }

  private mutating func pauseSpilling(_ error: PatchbayError) {
    let end = now.monotonicNanoseconds.addingClamped(Spilling.pauseInterval.wholeNanoseconds)
    spilling.pause = (end, error)
  }

  // MARK: What became of it

  mutating func spilled(_ generation: Generation, _ result: SpillResult) {
    if let place = spilling.underWay.firstIndex(of: generation) {
      spilling.underWay.remove(at: place)
    }
    guard let blob = blobs[generation], let index = blob.spillingIndex else { return }
    blobs[generation]?.spillingIndex = nil
    switch result {
    case .done(let byteCount):
      setDisk(
        generation,
        byteCount + blob.patchwork.scratchByteCount + (blob.persistReserve ?? 0))
      spilling.count += 1
      // Only if nothing has come that needs it in memory: then it is copied again, later.
      if blob.mayLeaveMemory, !blob.patchwork.isHeld(index) { leaveMemory(index, generation) }
    case .partial(let standing):
      setDisk(generation, blob.spoolByteCount - blob.spillReserve)
      scratched(index, generation, standing)
    case .empty:
      setDisk(generation, blob.spoolByteCount - blob.spillReserve)
      foundEmpty(index, generation)
    case .incomplete:
      // Offered again when its publisher has gone on.
      setDisk(generation, blob.spoolByteCount - blob.spillReserve)
      blobs[generation]?.spillLimit = index
    case .failed(let error, let byteCount):
      setDisk(
        generation,
        byteCount.map { $0 + blob.patchwork.scratchByteCount + (blob.persistReserve ?? 0) }
          ?? blob.spoolByteCount - blob.spillReserve)
      // What is full, or short of something, may be better in a while; a broken file is not.
      if [.noSpaceSpool, .limitReached].contains(error.code) {
        pauseSpilling(error)
      } else {
        blobs[generation]?.isUnspillable = true
      }
    }
    offerToSpill(generation)
    settle(generation)
  }

  /// The extent stands on disk from now on; its ring is taken from whoever has it mapped.
  private mutating func leaveMemory(_ index: Int, _ generation: Generation) {
    blobs[generation]?.spooled.insert(index)
    if blobs[generation]?.patchwork.scratch[index] != nil {
      forgetScratch(index, generation)
      blobs[generation]?.extentVersion &+= 1
      record(generation)
      return post(generation)
    }
    vacate(index, generation)
  }

  /// An extent is in memory no more.
  mutating func vacate(_ index: Int, _ generation: Generation) {
    guard let extent = blobs[generation]?.extent(at: index) else { return }
    blobs[generation]?.patchwork.rests[index] = nil
    blobs[generation]?.extents.removeAll { $0.index == index }
    let byteCount = rings[extent.ring]?.byteCount ?? 0
    changeResident(generation, by: -byteCount)
    if blobs[generation]?.isIdle == true {
      idleByteCount -= byteCount
      if let uid = rings[extent.ring]?.owner { accounts[uid]?.idleByteCount -= byteCount }
    }
    blobs[generation]?.extentVersion &+= 1
    record(generation)
    post(generation)
    retract(extent.ring, of: generation)
  }

  private mutating func retract(_ ring: RingID, of generation: Generation) {
    spilling.retracting.insert(ring)
    let holders = sessions.filter { $0.value.handles[generation] != nil }.keys.sorted()
    actions.append(.retractRing(ring, heldBy: holders))
  }

  mutating func retracted(_ ring: RingID, isViewed: Bool) {
    guard spilling.retracting.remove(ring) != nil, let known = rings[ring] else { return }
    // A table goes with its connection; what it viewed is free when its process is gone.
    if isViewed || blobs[known.generation]?.ghostCount ?? 0 > 0 {
      spilling.viewed.append(ring)
      let look = now.monotonicNanoseconds.addingClamped(Spilling.lookInterval.wholeNanoseconds)
      spilling.nextLook = spilling.nextLook ?? look
    } else {
      retire(ring, isReusable: blobs[known.generation]?.isAbandoned != true)
    }
  }

  // MARK: Time

  var nextSpillMoment: Int64? {
    [spilling.nextLook, spilling.pause?.until, spilling.ghostPatience.values.min()]
      .compactMap(\.self).min()
  }

  mutating func lookAfterSpills() {
    let now = now.monotonicNanoseconds
    if let pause = spilling.pause, pause.until <= now { spilling.pause = nil }
    if !spilling.ghostPatience.isEmpty {
      spilling.ghostPatience = spilling.ghostPatience.filter { $0.value > now }
    }
    guard let look = spilling.nextLook, look <= now else { return }
    spilling.nextLook = nil
    let viewed = spilling.viewed
    spilling.viewed = []
    for ring in viewed {
      if let generation = rings[ring]?.generation { retract(ring, of: generation) }
    }
  }
}

extension SpillOrder {
  /// The most bytes of disk that a range takes: its segments, each with the pages around it.
  static func reserve(_ range: Range<Int>, segmentByteCount: Int) -> Int {
    let segments = (range.count + segmentByteCount - 1) / segmentByteCount
    return range.count + segments * Self.pagesAround
  }

  private static let pagesAround = 3 * ExtentPlan.page
}

extension Blob {
  /// Whether nothing needs its extents in memory, those that are complete.
  var mayLeaveMemory: Bool {
    guard isBorn, ghostCount == 0, !isAbandoned, !isUnspillable, !isSource, source == nil,
      pendingSeal == nil, origin.window == nil, !production.isInTransit
    else { return false }
    switch state {
    case .sealed: return true
    case .open: return isPatchwork || origin.request.order == .appendOnly && !isJoinable
    case .suspended: return isPatchwork
    case .failed, .gone: return false
    }
  }

  /// The extent that leaves memory next; nil while none may.
  var nextToSpill: ExtentRecord? {
    guard mayLeaveMemory, spillingIndex == nil else { return nil }
    if state == .sealed {
      // What was asked for in vain holds nothing.
      let first = extents.first { origin.plan.range(of: $0.index).lowerBound < byteCount ?? 0 }
      return [first, nextToConvert].compactMap(\.self).min { $0.index < $1.index }
    }
    if isPatchwork { return nextToRest }
    guard let last = extents.last?.index else { return nil }
    // The first holds the marks, the last two are being written. What stands apart may be far away.
    let next = spooled.count + 1
    return next < min(last, spillLimit) ? extent(at: next) : nil
  }

  /// One more than the highest index of an extent that exists.
  var extentEnd: Int {
    if origin.file != nil { return byteCount == 0 ? 0 : 1 }
    let inScratch = patchwork.scratch.keys.max() ?? -1
    return max(extents.last?.index ?? -1, spooled.max() ?? -1, inScratch) + 1
  }

  /// Where the extents in the container end; nil while there is none.
  var spooledEnd: Int? { spooled.max().map { origin.plan.range(of: $0).upperBound } }

}

extension BlobOrigin {
  /// Bytes of a segment of its container.
  var containerSegment: Int { plan.segmentByteCount(byteCount: request.byteCount) }
}

extension ExtentPlan {
  /// Bytes of a segment of a blob's container: extents are made of whole ones, unless there is one only.
  /// - Parameter byteCount: what was announced.
  package func segmentByteCount(byteCount: Int?) -> Int {
    guard limit == first, let byteCount, byteCount <= first else {
      return min(Self.longestSegment, first & -first)
    }
    return Self.longestSegment
  }

  private static let longestSegment = 256 * 1024
}

extension LedgerLimits {
  /// With a spool extents are a small part of memory, so that some can leave while others are written.
  /// - Parameter budget: the memory that its publisher may use.
  func chosenExtentLimit(_ budget: Int) -> Int {
    guard spool != nil else { return extentLimit }
    let part = max(Self.spooledFirstExtent, budget / 32)
    return min(extentLimit, 1 << (Int.bitWidth - 1 - part.leadingZeroBitCount))
  }

  /// A whole segment of a container at least, and of a known length at once the largest.
  func chosenFirstExtent(_ request: CreateRequest, _ limit: Int) -> Int {
    guard spool != nil else { return min(firstExtent, limit) }
    return request.byteCount == nil ? min(Self.spooledFirstExtent, limit) : limit
  }

  private static let spooledFirstExtent = 256 * 1024
}

extension PatchbayError {
  static func noDiskShare(_ byteCount: Int, uid: UInt32, used: Int, limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "\(byteCount) bytes of the spool are needed, but user \(uid) uses \(used) of the \(limit) that "
        + "this broker gives one user, and too little of that can go. Remove some blobs, or have the "
        + "broker's --spool-limit raised.")
  }

  static func spoolFull(used: Int, limit: Int) -> PatchbayError {
    PatchbayError(
      .noSpaceSpool,
      "The spool holds \(used) of its \(limit) bytes with too little in it that may go, and something "
        + "has to be written there. Remove blobs, or raise the broker's --spool-limit.")
  }
}
