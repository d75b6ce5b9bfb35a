// What the broker knows and decides, as a pure state machine: an event and a moment in, actions
// out, in the order in which they are to be carried out. It reads no clock, opens no socket, holds
// no pointer and draws no random number but from the source it was given, so the same events give
// the same actions. Three rules hold throughout. Each request gets exactly one reply unless its
// session ended first. A record stands before the reply that promises it, and a final state is
// posted before its bell is rung. Nothing a client sends may trap here: its numbers are compared
// before they are used, and looked up, never indexed with. Order never comes out of a dictionary.

import PatchbayTypes
import PatchbayWire

package struct Ledger: Sendable {
  let limits: LedgerLimits
  let instance: UInt64
  /// The run of this broker: what is told of blobs is numbered within it.
  let run: UInt64
  let brokerProcess: Int32
  let brokerUser: UInt32
  let started: Moment
  var tokenSource: any RandomNumberGenerator & Sendable
  /// The digest of bytes that are at hand: of a small blob, or of an empty one.
  let digestOfBytes: DigestFunction
  /// What is to become of a complete blob that nobody uses any more; nil: what its bounds say.
  let cachePolicy: CachePolicy?

  var now: Moment
  var actions: [LedgerAction] = []
  /// What has to be done before anything is recorded.
  var preparations: [LedgerAction] = []
  /// Blobs whose records the event at hand has made out of date.
  var unrecorded: [Generation] = []
  /// Records of blobs that it has taken the key from.
  var unnamed: [Generation: BlobRecord] = [:]

  var sessions: [SessionID: Session] = [:]
  var handshakes = HandshakeQueue()
  /// What each user has, for as long as it has anything.
  var accounts: [UInt32: UserAccount] = [:]
  var connectionCount = 0
  var clientCount = 0
  var pastClients = PastClients()
  var ghosts: [SessionID] = []

  var blobs: [Generation: Blob] = [:]
  /// The blob that owns each key, those being born included.
  var owners: [BlobKey: Generation] = [:]
  /// The keys that a client may see, in order.
  var catalog = KeyCatalog()
  var parkedOpens: [BlobKey: [ParkedOpen]] = [:]
  var parkedCount = 0
  /// Opens that wait for a board.
  var askerCount = 0
  /// Blobs that are open or unborn.
  var openBlobCount = 0
  /// Files that the loop holds, and the one that was looked at for the request at hand.
  var importCount = 0
  var lookedAt: Generation?
  var inspections: [InspectionID: Generation] = [:]
  var copies: [CopyID: Generation] = [:]
  /// Clients of the broker before this one, while any of them is out.
  var returning: Returning?
  /// Sessions that stand in for clients which had asked for nothing, by the tokens of those, and until
  /// when: nothing is held back for them.
  var quiet: [Token: SessionID] = [:]
  var quietEnd: Int64?
  var suspensions = Heap<Suspension>()
  var productionMoments = Heap<ProductionMoment>()
  var lifetimes = Heap<LifetimeLook>()
  /// Blobs that are to succeed the stale ones of their keys.
  var successors: [BlobKey: Generation] = [:]
  var keyUses = KeyUses()
  var cache = CachedBlobs()
  /// Blobs with publishers that have nothing to fetch, and how many fetches are under way in all.
  var demandSources: Set<Generation> = []
  var transferCount = 0
  var turnCount: UInt64 = 0

  var rings: [RingID: Ring] = [:]
  var spilling = Spilling()
  /// Of what the request at hand was refused for want of memory.
  var shortage: RoomScope?
  /// When digests of blobs that are being written go on, by the monotonic clock.
  var digestLooks = Heap<DigestLook>()
  var pool = RingPool()
  var reuseCount: UInt64 = 0
  var restoreCount: UInt64 = 0
  var pendingRingCount = 0
  var accessClasses: [Access: AccessClass] = [:]
  var boardAccess: [UInt32: Access] = [:]

  var overheadByteCount = 0
  var ringByteCount = 0
  var inlineByteCount = 0
  var reservedByteCount = 0
  /// Of them, what eviction could free.
  var idleByteCount = 0
  var evictionCount: UInt64 = 0
  var accessClock: UInt64 = 0

  var lastGeneration: UInt64 = 0
  var lastRing: UInt64 = 0
  var lastClient: UInt64 = 0
  var lastBoard: UInt32 = 0
  var lastInspection: UInt64 = 0
  var lastCopy: UInt64 = 0

  var watching: Watching
  /// Requests without an answer, by their numbers.
  var unanswered: [SessionID: [UInt64: Unanswered]] = [:]

  var isJournalFull = false
  var isDraining = false

  /// - Parameters:
  ///   - tokenSource: where client tokens come from; in a broker one that cannot be guessed.
  ///   - digest: always the same for the same bytes.
  ///   - cachePolicy: asked about complete blobs that nobody uses any more.
  package init(
    limits: LedgerLimits, instance: UInt64, run: UInt64, brokerProcess: Int32, brokerUser: UInt32,
    at moment: Moment, tokenSource: any RandomNumberGenerator & Sendable,
    digest: @escaping DigestFunction, cachePolicy: CachePolicy? = nil
  ) {
    self.cachePolicy = cachePolicy
    self.limits = limits
    digestOfBytes = digest
    watching = Watching(log: ChangeLog(removalLimit: limits.removalCount))
    self.instance = instance
    self.run = run
    self.brokerProcess = brokerProcess
    self.brokerUser = brokerUser
    self.tokenSource = tokenSource
    started = moment
    now = moment
  }

  /// Takes in one event; what is returned must be carried out in order, all of it.
  package mutating func handle(_ event: LedgerEvent, at moment: Moment) -> [LedgerAction] {
    now = moment
    shortage = nil
    endLifetimes()
    take(event)
    settleCache()
    spillMore()
    tellWatchers()
    defer { (actions, preparations, unrecorded, unnamed) = ([], [], [], [:]) }
    return unrecorded.isEmpty ? actions : preparations + recordsToWrite() + actions
  }

  private mutating func take(_ event: LedgerEvent) {
    switch event {
    case .connected(let session, let peer): connected(session, peer)
    case .request(let session, let number, let request): requested(session, number, request)
    case .hungUp(let session): hungUp(session)
    case .exited(let session): exited(session)
    case .ringCreated(let ring, _): ringCreated(ring)
    case .ringRefused(let ring, let errno): ringRefused(ring, errno)
    case .boardCreated(let board): boardCreated(board)
    case .boardRefused(let board, let errno): boardRefused(board, errno)
    case .inspected(let inspection, let result): inspected(inspection, result)
    case .copied(let copy, let error): copied(copy, error)
    case .surveyed(let generation, let result): surveyed(generation, result)
    case .measured(let generation, let count): measured(generation, coveredByteCount: count)
    case .digested(let generation, let result): digested(generation, result)
    case .spilled(let generation, let result): spilled(generation, result)
    case .restored(let ring, let error): restored(ring, error)
    case .adopted(let copy, let result): adopted(copy, result)
    case .persisted(let generation, let result): persisted(generation, result)
    case .recovered(let recovery): recovered(recovery)
    case .found(let stored, let last): found(stored, last: last)
    case .retracted(let ring, let isViewed): retracted(ring, isViewed: isViewed)
    case .undelivered(let session, let number): undelivered(session, number)
    case .overheadChanged(let byteCount):
      overheadByteCount = max(0, byteCount)
      spilling.isRelieved = true
    case .journalFull(let isFull): isJournalFull = isFull
    case .tick:
      endLateHandshakes()
      endLateReturns()
      endLongSuspensions()
      attendProductions()
      trimPool()
      lookAfterSpills()
      lookAfterDigests()
      sampleIfDue()
    case .congested(let session): congested(session)
    case .relieved(let session): relieved(session)
    case .sampled(let samples): sampled(samples)
    case .offered(let session, let number, let request, let offer, let found):
      offered(session, number, request, offer, found)
    case .fileLooked(let generation, let found, let session, let number, let request):
      fileLooked(generation, found, session, number, request)
    case .drainBegan: drain()
    }
  }

  /// When a `tick` is next needed, on the monotonic clock; nil while nothing is due.
  package var nextDeadline: Int64? {
    if watching.hasMore { return now.monotonicNanoseconds }
    return [
      handshakes.nextDeadline, suspensions.first?.end, nextSample, nextTrim, nextSpillMoment,
      digestLooks.first?.moment, productionMoments.first?.moment,
      lifetimes.first?.moment, returning?.deadline, quietEnd,
    ]
    .compactMap(\.self).min()
  }

  /// Whether a broker that drains may end: no publisher has a blob open, but for those that write only
  /// what readers want and of which none waits for anything, nobody is about to go on with one, and no
  /// answer is owed. Subscribers do not hold it up; they keep what they have mapped.
  package var isDrained: Bool {
    isDraining && askerCount == 0 && pendingRingCount == 0 && openBlobCount == restingBlobCount
      && !blobs.values.contains { $0.production.isInTransit }
  }

  /// Whether nobody is connected and nothing is being written, or waits for somebody to write it.
  /// What is sealed waits for nobody.
  package var isIdle: Bool {
    connectionCount == 0 && !isReturning && openBlobCount == 0
      && watching.log.suspendedCount == 0
  }

  mutating func requested(_ session: SessionID, _ number: UInt64, _ request: Request) {
    guard let phase = sessions[session]?.phase else { return }
    switch (phase, request) {
    case (.ghost, _), (.absent, _): return
    case (.greeting, .hello(let hello)): greet(session, number, hello)
    case (.greeting, _), (.talking, .hello):
      refuse(session, number, .outOfOrder(request.kind))
      disconnect(session)
    case (.talking, _) where unanswered[session]?[number] != nil:
      // What waits is counted, and found again, by its number.
      refuse(session, number, .numberInUse(number))
      disconnect(session)
    case (.talking, _):
      keepRecord(of: session, request)
      noteRequest(session, number, request)
      answer(session, number, request)
    }
  }

  /// Serves a request, or has it wait for who or what it needs.
  mutating func answer(_ session: SessionID, _ number: UInt64, _ request: Request) {
    let asker = RequestID(session: session, number: number)
    if waitsForReturn(request), self.defer(asker, request) { return }
    do throws(PatchbayError) {
      try serve(session, number, request)
    } catch {
      if returning != nil, shortage != nil, self.defer(asker, request) { return }
      guard let scope = waitingScope(request) else {
        return refuse(session, number, explained(error))
      }
      wait(asker, request, for: scope)
    }
  }

  mutating func serve(
    _ session: SessionID, _ number: UInt64, _ request: Request
  ) throws(PatchbayError) {
    shortage = nil
    switch request {
    case .hello: return
    case .create(let create): try self.create(session, number, create)
    case .grow(let grow): try self.grow(session, number, grow)
    case .seal(let seal): try self.seal(session, number, seal)
    case .fail(let fail): try self.fail(session, number, fail)
    case .abandon(let blob): try abandon(session, number, blob)
    case .open(let open): try self.open(session, number, open)
    case .cancel(let cancel): self.cancel(session, number, cancel)
    case .attachExtent(let extent): try attachExtent(session, number, extent)
    case .attachBoard(let board): try attachBoard(session, number, board)
    case .close(let request): close(session, number, request)
    case .info(let info): try self.info(session, number, info)
    case .list(let list): self.list(session, number, list)
    case .remove(let remove): try self.remove(session, number, remove)
    case .statistics:
      actions.append(.reportStatistics(session, number: number, statistics(for: session)))
    case .ping: reply(session, number, .pong)
    case .subscribe(let request): try subscribe(session, number, request)
    case .unsubscribe(let request): unsubscribe(session, number, request)
    case .subscriptions(let blob): try subscriptions(session, number, blob)
    case .attachTable(let request): try attachTable(session, number, request)
    case .detach(let request): try detach(session, number, request)
    case .createWith(let create, let terms): try self.create(session, number, create, terms)
    case .join(let join): try self.join(session, number, join)
    case .claim(let claim): try self.claim(session, number, claim)
    case .release(let claim): release(session, number, claim)
    case .leave(let blob): try leave(session, number, blob)
    case .quiesced(let blob): quiesced(session, number, blob)
    case .watch(let watch): try self.watch(session, number, watch)
    case .why(let why): self.why(session, number, why)
    case .giveBack(let request): giveBack(session, number, request)
    case .pin(let pin): try self.pin(session, number, pin)
    case .import(let request): throw .noDescriptor(request.key)
    case .reattach(let request): try reattach(session, number, request)
    case .reattached: reattached(session, number)
    case .openOrCreate(let request): try openOrCreate(session, number, request)
    case .renew(let blob): try renew(session, number, blob)
    case .demand(let request): try demand(session, number, request)
    case .nextDemand(let blob): try nextDemand(session, number, blob)
    case .settleDemand(let request): try settleDemand(session, number, request)
    case .standBy(let request): try standBy(session, number, request)
    }
  }

  /// Sends a reply, unless the session has ended: then nobody is left to read it.
  mutating func reply(
    _ session: SessionID, _ number: UInt64, _ reply: Reply, _ descriptors: [DescriptorSource] = []
  ) {
    guard let phase = sessions[session]?.phase, phase != .ghost, phase != .absent else { return }
    noteReply(session, number, reply)
    actions.append(.reply(session, number: number, reply, descriptors))
  }

  mutating func refuse(_ session: SessionID, _ number: UInt64, _ error: PatchbayError) {
    reply(session, number, .failure(error))
  }
}
