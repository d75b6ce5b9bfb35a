// Taking the place of a broker that has died. What that one had promised stands in its journal; the loop
// has looked which rings, files and processes are still there. From that the ledger makes the blobs
// again, each with its generation, epoch and board entry, so whoever has them open need not know.
//
// Clients come back by themselves. Until then a session stands in for each whose process may still live:
// it has what its client is recorded to have, and it ends as every other session does, when its process
// is found to be gone, or because its client did not come back in time. While any of them is out nothing
// is taken from a blob of before: no eviction, no spilling, no entry given to another.

import PatchbayLayout
import PatchbayTypes
import PatchbayWire

/// What is left of the broker before.
package struct Recovery: Sendable, Hashable {
  /// By generation.
  package var blobs: [RecoveredBlob] = []
  /// Those whose processes are gone are told afterwards, by `exited`.
  package var clients: [RecoveredClient] = []
  /// Numbers up to these may have been given out.
  package var lastGeneration: UInt64 = 0
  package var lastRing: UInt64 = 0
  package var lastClient: UInt64 = 0
  package init() {}
}

package struct RecoveredBlob: Sendable, Hashable {
  package var record: BlobRecord
  /// Why not all of it is there that the record names; nil: it is.
  package var loss: PatchbayError?
  /// Bytes of disk that its container and its scratch files take.
  package var diskByteCount = 0
  /// Its complete container, if a file has the name of one.
  package var stored: StoredBlob?
  /// Whether the loop has the descriptor of its file.
  package var holdsFile = false
  package init(record: BlobRecord) { self.record = record }
}

package struct RecoveredClient: Sendable, Hashable {
  package var record: ClientRecord
  /// The session that stands in for it.
  package var session: SessionID
  package init(record: ClientRecord, session: SessionID) {
    self.record = record
    self.session = session
  }
}

/// Clients of the broker before, as long as any of them is out.
struct Returning: Sendable {
  /// Sessions that stand in, by the token of their client.
  var absent: [Token: SessionID] = [:]
  /// Clients that are back and have not said yet that they have everything again, with the blobs that
  /// they are still to take up.
  var arriving: [SessionID: Set<Generation>] = [:]
  /// When the others are waited for no more, by the monotonic clock.
  var deadline: Int64
  /// Entries of boards that blobs of before have.
  var slots: Set<BoardSlot> = []
  /// What each of those sessions has sealed.
  var sealed: [SessionID: [Generation]] = [:]
  /// Blobs whose publishers may have to wait for somebody who is out.
  var awaited: Set<Generation> = []
  /// Requests that need somebody who is out, or memory, in the order of coming.
  var deferred: [(asker: RequestID, request: Request)] = []

  var isOver: Bool { absent.isEmpty && arriving.isEmpty }

  /// Whether a session has not taken up a blob that it is recorded to have.
  func isOut(_ session: SessionID, _ generation: Generation) -> Bool {
    absent.values.contains(session) || arriving[session]?.contains(generation) == true
  }
}

extension Ledger {
  /// Clients have so long to come back.
  static let returnLimit = Duration.seconds(5)
  private static let deferredLimit = 4096
  /// Above all versions that the board before may have shown.
  private static let versionStep: UInt32 = 1 << 20

  mutating func recovered(_ recovery: Recovery) {
    lastGeneration = max(lastGeneration, recovery.lastGeneration)
    lastRing = max(lastRing, recovery.lastRing)
    lastClient = max(lastClient, recovery.lastClient)
    returning = Returning(
      deadline: now.monotonicNanoseconds.addingClamped(Self.returnLimit.wholeNanoseconds))
    quietEnd = returning?.deadline
    let writers = Set(recovery.blobs.flatMap { $0.record.publishers.map(\.clientID) })
    for client in recovery.clients {
      standIn(
        for: client,
        isQuiet: !client.record.hasAsked && !writers.contains(client.record.clientID))
    }
    let bySession = Dictionary(
      recovery.clients.map { ($0.record.clientID, $0.session) }, uniquingKeysWith: { $1 })
    blobs.reserveCapacity(recovery.blobs.count)
    let byUse = recovery.blobs.indices
      .map { (Self.order(recovery.blobs[$0].record.info), $0) }.sorted { $0.0 < $1.0 }
    for (_, place) in byUse { takeUp(recovery.blobs[place], bySession) }
    takeUpSuccessors()
    giveOutFreeEntries()
    for generation in blobs.keys.sorted() { settleRecovered(generation) }
    endReturningIfOver()
  }

  private static func order(_ info: BlobInfo) -> (WallTime, Generation) {
    (info.lastRead ?? info.modified, info.generation)
  }

  // MARK: What there was

  private mutating func standIn(for client: RecoveredClient, isQuiet: Bool) {
    let record = client.record
    guard sessions[client.session] == nil, returning?.absent[record.token] == nil,
      quiet[record.token] == nil
    else { return }
    var session = Session(peer: record.peer)
    session.phase = .absent
    session.clientID = record.clientID
    session.token = record.token
    session.recording = isQuiet ? .greeted : .asked
    // It takes no place of a connection, or none would be left for those that come back.
    sessions[client.session] = session
    clientCount += 1
    if isQuiet {
      quiet[record.token] = client.session
    } else {
      returning?.absent[record.token] = client.session
    }
  }

  private mutating func takeUp(_ found: RecoveredBlob, _ clients: [UInt64: SessionID]) {
    let record = found.record
    guard let origin = Self.origin(of: record), blobs[origin.generation] == nil else {
      return actions.append(.eraseBlob(record.info.generation))
    }
    var blob = Blob(origin: origin)
    blob.isBorn = true
    blob.isReturning = true
    blob.state = record.info.state
    // No two records of a key can stand; these are bytes all the same.
    blob.isNamed = record.isNamed && owners[origin.request.key] == nil
    blob.isPinned = record.info.isPinned
    blob.isAdmitted = record.isAdmitted
    blob.isPaused = record.info.isPaused
    // Until all are back it counts as read if it was; one that was paused is so by who comes.
    blob.isRead = blob.isProduced && record.isRead
    if record.isSuccessor, record.info.state.isLive {
      blob.succeeds = record.terms.succeeds
      if blob.succeeds != nil { successors[origin.request.key] = origin.generation }
    }
    blob.epoch = record.epoch
    blob.byteCount = record.info.byteCount
    blob.inlineBytes = record.inlineBytes
    blob.extentVersion = record.extentVersion &+ Self.versionStep
    blob.subscriptionVersion = record.extentVersion &+ Self.versionStep
    blob.claimedEnd = record.claimedEnd
    blob.spooled = Set(record.spooled.joined())
    blob.patchwork.scratch = Dictionary(
      record.scratch.map { ($0.index, $0) }, uniquingKeysWith: { $1 })
    blob.patchwork.scratchByteCount = record.scratch.reduce(0) { $0 + $1.standing.fileByteCount }
    blob.hasContainer = record.hasContainer
    blob.isPersisted = found.stored != nil
    blob.modified = record.info.modified
    blob.lastRead = record.info.lastRead
    blob.causeCode = record.info.causeCode
    blob.cause = record.info.cause
    blob.digest = record.info.digest
    blob.sealer = clients[record.sealer]
    blob.holdsFile = found.holdsFile
    blob.awaitedSubscribers = record.subscribers.compactMap { clients[$0] }
    if let sealer = blob.sealer { returning?.sealed[sealer, default: []].append(origin.generation) }
    if !blob.awaitedSubscribers.isEmpty { returning?.awaited.insert(origin.generation) }
    // Whoever was fenced by the broker before, or lost, may have its rings mapped.
    blob.production.isTainted =
      blob.isProduced && record.publishers.allSatisfy { clients[$0.clientID] == nil }
    if blob.isProduced, blob.state == .suspended { blob.production.phase = .vacant }
    keep(blob)
    let generation = origin.generation
    if blob.isNamed {
      owners[origin.request.key] = generation
      catalog.insert(origin.request.key)
    }
    if blob.holdsFile { importCount += 1 }
    takeUpLifetime(record)
    takeUpMemory(record)
    takeUpEntry(record)
    if record.hasContainer || found.diskByteCount > 0 { setDisk(generation, found.diskByteCount) }
    touch(generation)
    if blob.state == .open {
      openBlobCount += 1
      takeUpPublishers(record, clients)
    }
    finishHalfDone(found)
  }

  private static func origin(of record: BlobRecord) -> BlobOrigin? {
    var window: WindowShape?
    if record.segment > 0 {
      window = try? WindowShape(
        ringByteCount: record.plan.first, segmentByteCount: record.segment)
      guard window != nil else { return nil }
    }
    return BlobOrigin(
      request: record.request, terms: record.terms, generation: record.info.generation,
      access: record.info.access, plan: record.plan, window: window, file: record.file,
      created: record.info.created,
      creator: RequestID(session: SessionID(rawValue: 0), number: record.number),
      token: record.token, heldExtentLimit: record.heldExtentLimit)
  }

  private mutating func takeUpMemory(_ record: BlobRecord) {
    let generation = record.info.generation
    for extent in record.extents {
      guard rings[extent.ring] == nil,
        let geometry = try? RingGeometry(
          dataByteCount: extent.dataByteCount, hasMap: record.request.order == .any)
      else { continue }
      let need = RingNeed(index: extent.index, geometry, record.info.access)
      var ring = Ring(
        generation: generation, index: extent.index, kind: need.kind, byteCount: need.byteCount)
      ring.useNumber = extent.useNumber
      // Clients have it mapped that hung up before, or do not come back, or not in time: nobody knows of
      // all that live. Its memory goes with the last mapping.
      ring.isAbandoned = true
      rings[extent.ring] = ring
      ringByteCount += need.byteCount
      charge(need.kind.access.uid, need.byteCount)
      changeResident(generation, by: need.byteCount)
      blobs[generation]?.insert(extent)
      restsNow(extent.index, generation)
      lastRing = max(lastRing, extent.ring.rawValue)
    }
    guard let bytes = record.inlineBytes else { return }
    inlineByteCount += bytes.count
    blobs[generation]?.residentByteCount += bytes.count
    charge(record.info.access.uid, bytes.count)
  }

  private mutating func takeUpEntry(_ record: BlobRecord) {
    guard let slot = record.slot, Int(slot.entry) < limits.entriesPerBoard,
      boardAccess[slot.board].map({ $0 == record.info.access }) ?? true,
      returning?.slots.insert(slot).inserted == true
    else { return }
    boardAccess[slot.board] = record.info.access
    accessClasses[record.info.access, default: AccessClass()].givenCount = 0
    blobs[record.info.generation]?.slot = slot
    lastBoard = max(lastBoard, slot.board)
  }

  private mutating func takeUpPublishers(
    _ record: BlobRecord, _ clients: [UInt64: SessionID]
  ) {
    let generation = record.info.generation
    let publishers = record.publishers.compactMap { publisher in
      clients[publisher.clientID].map { BlobPublisher(session: $0, number: publisher.number) }
    }
    blobs[generation]?.publishers = publishers
    if let blob = blobs[generation], let payer = blob.payer {
      sessions[payer]?.paidByteCount += blob.residentByteCount
    }
    for publisher in publishers {
      sessions[publisher.session]?.handles[generation] = Handle(publishes: true)
      sessions[publisher.session]?.handleCount += 1
      sessions[publisher.session]?.writes.insert(generation)
      blobs[generation]?.writers[publisher.session] = BlobWriter(
        number: publisher.number, epoch: record.epoch)
    }
    guard blobs[generation]?.isJoinable == true, record.info.byteCount == nil else { return }
    // Of claims that have come and gone nothing is recorded: there may be bytes anywhere.
    let end = blobs[generation].map {
      $0.origin.plan.range(of: max(0, $0.extentEnd - 1)).upperBound
    }
    blobs[generation]?.claimedEnd = max(record.claimedEnd, end ?? 0)
  }

  /// Ends what the broker before had begun: a seal whose container is complete, a removal; and fails what
  /// has nothing left to stand on.
  private mutating func finishHalfDone(_ found: RecoveredBlob) {
    let generation = found.record.info.generation
    guard let blob = blobs[generation] else { return }
    if let stored = found.stored, blob.state == .open, blob.isWanted {
      sealRecovered(blob, stored)
    } else if blob.isPersisted {
      spoolRest(of: generation)
    } else if let loss = found.loss {
      lose(blob, loss)
    } else if blob.state == .open, blob.publishers.isEmpty {
      loseRecorded(blob)
    }
    if blob.state == .suspended { awaitPublisher(generation) }
    withdrawIfEnded(generation)
    // What was recorded may not have been told the container any more.
    if let stored = found.stored, stored.isPinned != blob.isPinned {
      markContainer(of: generation)
    }
  }

  /// No broker is to find a complete container of a blob that has ended, or goes on.
  private mutating func withdrawIfEnded(_ generation: Generation) {
    guard let blob = blobs[generation], !blob.isNamed || blob.state != .sealed else { return }
    withdrawContainer(of: generation)
    if blob.isNamed { blobs[generation]?.isPersisted = false }
  }

  private mutating func sealRecovered(_ blob: Blob, _ stored: StoredBlob) {
    let generation = blob.origin.generation
    let sealer = blob.publishers.first?.session
    takeKey(generation)
    endWriting(generation)
    forgetWriters(of: generation)
    blobs[generation]?.state = .sealed
    blobs[generation]?.isPersisted = true
    blobs[generation]?.hasContainer = true
    blobs[generation]?.digest = stored.digest
    blobs[generation]?.sealer = sealer
    if let sealer { returning?.sealed[sealer, default: []].append(generation) }
    blobs[generation]?.byteCount = stored.byteCount
    noteEnd(generation)
    spoolRest(of: generation)
    for record in blob.patchwork.scratchRecords { forgetScratch(record.index, generation) }
    setDisk(generation, stored.containerByteCount)
    record(generation)
  }

  /// What of a complete blob is not in memory stands in its container.
  private mutating func spoolRest(of generation: Generation) {
    guard let blob = blobs[generation], let byteCount = blob.byteCount, byteCount > 0 else {
      return
    }
    let all = Set(0...blob.origin.plan.index(of: byteCount - 1))
    blobs[generation]?.spooled = all.subtracting(blob.extents.map(\.index))
  }

  /// Bytes that the record names are not there any more.
  private mutating func lose(_ blob: Blob, _ loss: PatchbayError) {
    let generation = blob.origin.generation
    if blob.state.isLive {
      failBlob(generation, .inputOutput, loss.message, raisesEpoch: true)
    } else if blob.state == .sealed {
      blobs[generation]?.state = .failed
      blobs[generation]?.causeCode = .inputOutput
      blobs[generation]?.cause = loss.message.cut(toUTF8Count: WireLimit.cause)
      blobs[generation]?.isAbandoned = true
      noteEnd(generation)
      record(generation)
    }
  }

  /// None of its publishers is known any more.
  private mutating func loseRecorded(_ blob: Blob) {
    let cause = "its publisher ended while there was no broker"
    if blob.isProduced, blob.succeeds == nil {
      blobs[blob.origin.generation]?.production.phase = .vacant
      suspend(blob.origin.generation)
    } else if blob.isJoinable {
      loseLast(blob, .ended, cause)
    } else {
      failBlob(blob.origin.generation, .abandoned, cause, raisesEpoch: true)
    }
  }

  /// Entries that nobody has are given out again; of those that have been used nobody looks at any.
  private mutating func giveOutFreeEntries() {
    let used = Set(blobs.values.compactMap(\.slot))
    for (board, access) in boardAccess.sorted(by: { $0.key < $1.key }) {
      let free = (0..<UInt32(limits.entriesPerBoard)).map { BoardSlot(board: board, entry: $0) }
      accessClasses[access, default: AccessClass()].freeSlots += free.filter { !used.contains($0) }
        .reversed()
    }
  }

  private mutating func settleRecovered(_ generation: Generation) {
    changed(generation)
    post(generation)
    followDigest(generation)
    settle(generation)
  }

  /// Whether clients of the broker before are still out.
  package var isReturning: Bool { returning != nil || !quiet.isEmpty }

  /// Whether something waits for the process of a session that has ended.
  package func isHaunted(by session: SessionID) -> Bool { sessions[session] != nil }

  // MARK: Coming back

  /// The session that stands in for a client that says hello.
  func standIn(for token: Token, _ peer: Peer) -> SessionID? {
    guard let session = returning?.absent[token] ?? quiet[token],
      let known = sessions[session]?.peer,
      known.uid == peer.uid, known.process == peer.process
    else { return nil }
    return session
  }

  /// A client is back: its session has what stood in for it had.
  mutating func takeOver(_ standIn: SessionID, by session: SessionID) {
    guard let old = sessions[standIn] else { return }
    returning?.absent[old.token] = nil
    quiet[old.token] = nil
    returning?.arriving[session] = Set(old.handles.keys)
    sessions[session]?.recording = old.recording
    sessions[session]?.handles = old.handles
    sessions[session]?.handleCount = old.handleCount
    sessions[session]?.writes = old.writes
    sessions[session]?.paidByteCount = old.paidByteCount
    for generation in old.writes.union(old.handles.keys) {
      blobs[generation]?.replace(standIn, by: session)
      guard blobs[generation]?.payer == session else { continue }
      // What it was a candidate of was the share of the one that stood in.
      blobs[generation]?.offered.remove(.client)
      offerToSpill(generation)
    }
    for generation in returning?.sealed.removeValue(forKey: standIn) ?? [] {
      blobs[generation]?.sealer = session
    }
    for generation in returning?.awaited ?? [] {
      blobs[generation]?.awaitedSubscribers.replace(standIn, by: session)
    }
    sessions[standIn] = nil
    clientCount -= 1
    spilling.candidates[.client(standIn)] = nil
  }

  mutating func reattach(
    _ session: SessionID, _ number: UInt64, _ request: ReattachRequest
  ) throws(PatchbayError) {
    guard returning?.arriving[session] != nil else { throw .notAwaited(session) }
    let generation = request.blob.generation
    guard let blob = blobs[generation], blob.isReturning, blob.slot != nil else {
      throw .notOpen(generation)
    }
    switch request.role {
    case .publisher: try reattachPublisher(session, request, blob)
    case .reader, .observer: try reattachReader(session, request, blob)
    }
    reply(session, number, .done)
  }

  private mutating func reattachPublisher(
    _ session: SessionID, _ request: ReattachRequest, _ blob: Blob
  ) throws(PatchbayError) {
    let generation = blob.origin.generation
    guard request.blob.epoch == blob.epoch else { throw .fenced(blob, request.blob) }
    guard
      blob.publishers.contains(BlobPublisher(session: session, number: request.number))
    else { throw .notOpen(generation) }
    returning?.arriving[session]?.remove(generation)
    for index in request.extents where blob.extent(at: index) != nil {
      noteHolder(RequestID(session: session, number: request.number), index, generation)
    }
    for claim in request.claims where blob.isJoinable {
      try checkClaim(session, claim.number, claim.range, blobs[generation] ?? blob)
      addClaim(Claim(session: session, number: claim.number, range: claim.range), generation)
    }
  }

  private mutating func reattachReader(
    _ session: SessionID, _ request: ReattachRequest, _ blob: Blob
  ) throws(PatchbayError) {
    guard mayRead(session, blob.origin.access) else { throw .notOpen(blob.origin.generation) }
    let handle = sessions[session]?.handles[blob.origin.generation] ?? Handle()
    guard !handle.readers.contains(request.number), !handle.observers.contains(request.number)
    else { return }
    try checkHandles(session)
    sessions[session]?.handleCount += 1
    addReader(
      RequestID(session: session, number: request.number), blob.origin.generation,
      observes: request.role == .observer)
  }

  /// A request that made a publisher was sent again.
  mutating func confirm(_ session: SessionID, _ generation: Generation) {
    returning?.arriving[session]?.remove(generation)
  }

  mutating func reattached(_ session: SessionID, _ number: UInt64) {
    arrived(session)
    reply(session, number, .done)
  }

  /// A client has everything again that it is to have. What else it is recorded to have it has let go.
  private mutating func arrived(_ session: SessionID) {
    guard let left = returning?.arriving.removeValue(forKey: session) else { return }
    for generation in left.sorted() {
      // The right to go on with a production may never have reached it: others are waiting for that.
      depart(session, generation, blobs[generation]?.isProduced == true ? .left : .abandoned)
      forgetWriter(session, generation)
    }
    forgetAwaited(session)
    serveDeferred()
    endReturningIfOver()
  }

  /// A session that was out has ended.
  mutating func stopsReturning(_ session: SessionID, _ token: Token) {
    if quiet[token] == session { quiet[token] = nil }
    guard returning != nil else { return }
    if returning?.absent[token] == session { returning?.absent[token] = nil }
    returning?.arriving[session] = nil
    returning?.deferred.removeAll { $0.asker.session == session }
    forgetAwaited(session)
    serveDeferred()
    endReturningIfOver()
  }

  private mutating func forgetAwaited(_ session: SessionID) {
    for generation in returning?.awaited ?? [] {
      blobs[generation]?.awaitedSubscribers.removeAll { $0 == session }
      if blobs[generation]?.awaitedSubscribers.isEmpty ?? true {
        returning?.awaited.remove(generation)
      }
    }
  }

  // MARK: Until then

  /// Whether a request has to wait for somebody who is out: whether a range is free, a blob complete, or
  /// a subscriber there, only they know.
  func waitsForReturn(_ request: Request) -> Bool {
    guard let returning else { return false }
    switch request {
    case .claim(let claim): return isOut(publishersOf: claim.blob.generation, returning)
    case .seal(let seal): return isOut(publishersOf: seal.blob.generation, returning)
    case .subscriptions(let blob): return hasAwaited(blob.generation)
    case .attachTable(let table): return hasAwaited(table.blob.generation)
    default: return false
    }
  }

  private func hasAwaited(_ generation: Generation) -> Bool {
    blobs[generation]?.awaitedSubscribers.isEmpty == false
  }

  private func isOut(publishersOf generation: Generation, _ returning: Returning) -> Bool {
    guard let blob = blobs[generation], blob.isReturning, blob.isJoinable else { return false }
    return blob.publishers.contains { returning.isOut($0.session, generation) }
  }

  /// - Returns: false when as many wait as may.
  mutating func `defer`(_ asker: RequestID, _ request: Request) -> Bool {
    guard let count = returning?.deferred.count, count < Self.deferredLimit else { return false }
    returning?.deferred.append((asker, request))
    return true
  }

  private mutating func serveDeferred() {
    let deferred = returning?.deferred ?? []
    guard !deferred.isEmpty else { return }
    returning?.deferred = []
    for (asker, request) in deferred where sessions[asker.session]?.phase == .talking {
      answer(asker.session, asker.number, request)
    }
  }

  /// To be called as time passes: who has not come back by now is as good as hung up.
  mutating func endLateReturns() {
    if let end = quietEnd, end <= now.monotonicNanoseconds {
      quietEnd = nil
      for session in quiet.values.sorted() { self.end(session, isProcessGone: false) }
    }
    guard let end = returning, end.deadline <= now.monotonicNanoseconds else { return }
    for session in end.absent.values.sorted() { self.end(session, isProcessGone: false) }
    for session in end.arriving.keys.sorted() { arrived(session) }
  }

  private mutating func endReturningIfOver() {
    guard let end = returning, end.isOver else { return }
    returning = nil
    for generation in blobs.keys.sorted() where blobs[generation]?.isReturning == true {
      blobs[generation]?.isReturning = false
      settle(generation)
    }
    spilling.isRelieved = true
    for (asker, request) in end.deferred where sessions[asker.session]?.phase == .talking {
      answer(asker.session, asker.number, request)
    }
  }
}

extension Blob {
  /// Another session has what one stood in for.
  fileprivate mutating func replace(_ old: SessionID, by new: SessionID) {
    for place in publishers.indices where publishers[place].session == old {
      publishers[place] = BlobPublisher(session: new, number: publishers[place].number)
    }
    if let number = writers.removeValue(forKey: old) { writers[new] = number }
  }
}

extension [SessionID] {
  fileprivate mutating func replace(_ old: SessionID, by new: SessionID) {
    for place in indices where self[place] == old { self[place] = new }
  }
}

extension PatchbayError {
  static func notAwaited(_ session: SessionID) -> PatchbayError {
    PatchbayError(
      .closed,
      "A handle was to be taken up again, but this broker does not know the client from a broker "
        + "before it, or waits for it no more. Open the blob again.")
  }
}
