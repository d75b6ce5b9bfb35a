// Readers. An open is answered with what is there; one that waits is parked until its key is born.
// A small blob travels in the reply and leaves no handle behind. Anything else makes a handle, which
// keeps the blob's entry and memory until it is closed or its session ends.

import PatchbayTypes
import PatchbayWire

extension Ledger {
  mutating func open(
    _ session: SessionID, _ number: UInt64, _ request: OpenRequest
  ) throws(PatchbayError) {
    guard !isDraining else { throw .draining }
    let asker = ParkedOpen(session: session, number: number, observes: request.observes)
    if let blob = visible(request.key, to: session) {
      if looksAtFile(of: blob, session, number, .open(request)) { return }
      try open(blob, for: asker)
    } else if request.waits {
      try park(asker, request.key)
    } else {
      throw .noSuchKey(request.key)
    }
  }

  /// Opens what is there.
  mutating func open(_ blob: Blob, for asker: ParkedOpen) throws(PatchbayError) {
    let generation = blob.origin.generation
    switch LifeCycle.outcome(of: asker.observes ? .observe : .open, in: blob.state) {
    case .refusedWithCause: throw blob.failure
    case .refused: throw .noSuchKey(blob.key)
    case .stays, .becomes, .begins: break
    }
    if blob.inlineBytes == nil { try checkHandles(asker.session) }
    if !asker.observes {
      touch(generation)
      blobs[generation]?.lastRead = now.wall
      noteUse(generation)
      countUse(of: generation)
    }
    guard blob.inlineBytes == nil else {
      var grant = blob.grant(epoch: 0, extent: nil)
      grant.isStale = maySucceed(asker, blob)
      reply(asker.session, asker.number, .opened(grant))
      return
    }
    sessions[asker.session]?.handleCount += 1
    guard blob.slot == nil else {
      grant(asker, generation)
      return
    }
    try ask(asker, blob)
  }

  /// Waits for a board entry; the blob counts as held meanwhile.
  private mutating func ask(_ asker: ParkedOpen, _ blob: Blob) throws(PatchbayError) {
    let generation = blob.origin.generation
    blobs[generation]?.askers.append(asker)
    sessions[asker.session]?.asked.append(generation)
    askerCount += 1
    updateIdle(generation)
    updateReadership(generation)
    do throws(PatchbayError) {
      if !blob.waitsForSlot {
        try makeRoom(boardNeed(blob.origin.access), for: "a board for the blob \(blob.key)")
      }
    } catch {
      refuseAskers(generation, error)
      return
    }
    seekSlot(generation)
    guard blobs[generation]?.slot != nil else { return }
    record(generation)
    post(generation)
    answerAskers(generation)
  }

  mutating func answerAskers(_ generation: Generation) {
    for asker in takeAskers(generation) { grant(asker, generation) }
  }

  mutating func refuseAskers(_ generation: Generation, _ error: PatchbayError) {
    for asker in takeAskers(generation) {
      sessions[asker.session]?.handleCount -= 1
      dropCandidate(asker.session, opened: asker.number, generation)
      refuse(asker.session, asker.number, error)
    }
    settle(generation)
  }

  private mutating func takeAskers(_ generation: Generation) -> [ParkedOpen] {
    let askers = blobs[generation]?.askers ?? []
    blobs[generation]?.askers = []
    askerCount -= askers.count
    for asker in askers {
      if let place = sessions[asker.session]?.asked.firstIndex(of: generation) {
        sessions[asker.session]?.asked.remove(at: place)
      }
    }
    return askers
  }

  /// Forgets the opens of an ending session that wait for a board.
  mutating func takeBackAsked(_ session: SessionID, _ asked: [Generation]) {
    for generation in asked {
      guard let askers = blobs[generation]?.askers else { continue }
      let others = askers.filter { $0.session != session }
      askerCount -= askers.count - others.count
      blobs[generation]?.askers = others
      settle(generation)
    }
  }

  /// Makes a handle and answers. Room for the handle was counted when it was asked for.
  private mutating func grant(_ asker: ParkedOpen, _ generation: Generation) {
    guard let blob = blobs[generation] else { return }
    addReader(
      RequestID(session: asker.session, number: asker.number), generation,
      observes: asker.observes)
    let first = blob.extent(at: 0)
    var grant = blob.grant(epoch: 0, extent: first?.grant)
    grant.isForeign = isForeign(blob.origin.access, to: asker.session)
    grant.isStale = maySucceed(asker, blob)
    reply(
      asker.session, asker.number, .opened(grant),
      first.map { [.ring($0.ring, isWritable: false)] } ?? [])
  }

  mutating func addReader(_ asker: RequestID, _ generation: Generation, observes: Bool) {
    if observes {
      blobs[generation]?.observerCount += 1
      sessions[asker.session]?.handles[generation, default: Handle()].observers
        .append(asker.number)
    } else {
      blobs[generation]?.readerCount += 1
      sessions[asker.session]?.handles[generation, default: Handle()].readers.append(asker.number)
    }
    updateIdle(generation)
    updateReadership(generation)
  }

  private mutating func park(_ asker: ParkedOpen, _ key: BlobKey) throws(PatchbayError) {
    guard let session = sessions[asker.session] else { return }
    guard session.parked[asker.number] == nil else { throw .numberInUse(asker.number) }
    guard session.parked.count < limits.waitingOpensPerSession else {
      throw .tooManyWaitingOpens(limit: limits.waitingOpensPerSession)
    }
    try checkWaitingOpens(ofUser: session.peer.uid)
    sessions[asker.session]?.parked[asker.number] = key
    parkedOpens[key, default: []].append(asker)
    parkedCount += 1
  }

  /// Answers everybody who waits for a key that was just born and may read it.
  mutating func answerParked(_ key: BlobKey) {
    let askers = parkedOpens.removeValue(forKey: key) ?? []
    let others = askers.filter { visible(key, to: $0.session) == nil }
    if !others.isEmpty { parkedOpens[key] = others }
    for asker in askers {
      guard let blob = visible(key, to: asker.session) else { continue }
      sessions[asker.session]?.parked[asker.number] = nil
      parkedCount -= 1
      do throws(PatchbayError) {
        try open(blob, for: asker)
      } catch {
        refuse(asker.session, asker.number, error)
      }
    }
  }

  mutating func unpark(_ session: SessionID, _ parked: [UInt64: BlobKey]) {
    for key in Set(parked.values) {
      let before = parkedOpens[key]?.count ?? 0
      parkedOpens[key]?.removeAll { $0.session == session }
      parkedCount -= before - (parkedOpens[key]?.count ?? 0)
      if parkedOpens[key]?.isEmpty == true { parkedOpens[key] = nil }
    }
  }

  mutating func cancel(_ session: SessionID, _ number: UInt64, _ request: CancelRequest) {
    if endWatch(session, request.request) {
      reply(session, number, .done)
      return
    }
    cancelRoomWait(RequestID(session: session, number: request.request))
    cancelProduction(RequestID(session: session, number: request.request))
    if let key = sessions[session]?.parked.removeValue(forKey: request.request) {
      let before = parkedOpens[key]?.count ?? 0
      parkedOpens[key]?.removeAll { $0.session == session && $0.number == request.request }
      parkedCount -= before - (parkedOpens[key]?.count ?? 0)
      if parkedOpens[key]?.isEmpty == true { parkedOpens[key] = nil }
      refuse(session, request.request, .waitCancelled(key))
    }
    reply(session, number, .done)
  }

  /// No new work; who waits for a key is told that none will come.
  mutating func drain() {
    isDraining = true
    let waiting = parkedOpens.values.joined().sorted {
      ($0.session, $0.number) < ($1.session, $1.number)
    }
    parkedOpens = [:]
    parkedCount = 0
    for asker in waiting {
      sessions[asker.session]?.parked = [:]
      refuse(asker.session, asker.number, .draining)
    }
    stopPausedProductions()
  }
}
