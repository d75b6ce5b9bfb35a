// What must be true of a ledger's actions, by a model that shares no code with it: it knows only
// what was asked, what was answered, and what the loop was told to do. Each check is a promise to
// clients or to the loop; the first one broken stops the run.

import PatchbayLayout
import PatchbayLedger
import PatchbayTypes
import PatchbayWire

struct SimulatedModel {
  struct RequestID: Hashable {
    let session: SessionID
    let number: UInt64
  }

  /// Requests without an answer; those of sessions that ended are dropped.
  private(set) var owed: [RequestID: Request] = [:]
  private(set) var live: Set<SessionID> = []
  private var peers: [SessionID: Peer] = [:]
  var rings: [RingID: SimulatedRing] = [:]
  private(set) var pendingBoards: Set<UInt32> = []
  /// Of blobs that have their keys.
  var records: [Generation: BlobRecord] = [:]
  private(set) var journal = SimulatedJournal()
  /// Blobs that have lost their keys in the event at hand, and nobody asked for that.
  var evicted: [BlobRecord] = []
  var extentOwners: [RingID: Generation] = [:]
  var owners: [BlobKey: Generation] = [:]
  private(set) var entries: [BoardSlot: Generation] = [:]
  private(set) var posted: [Generation: BlobState] = [:]
  /// Final states that were posted over an open one and whose bell has not been rung.
  private var unrung: [BoardSlot: Generation] = [:]
  private var writing: SimulatedClaims
  /// Keys that were to be resumed by a session that has ended; an ownerless blob is born after it.
  private var orphanedResumes: Set<BlobKey> = []
  var now: Int64 = 0
  private var readers: [Generation: [SessionID: [Opened]]] = [:]

  private struct Opened {
    let number: UInt64
    let observes: Bool
  }
  private var subscriptions: [Generation: [SessionID: Set<Int>]] = [:]
  private var heldTooLong: [Generation: Set<UInt32>] = [:]
  private var clientIDs: [SessionID: UInt64] = [:]
  private var seenGenerations: Set<Generation> = []
  private var lastGenerations: [BlobKey: Generation] = [:]
  private(set) var overhead = 0
  private(set) var watches = SimulatedWatches()
  private var storage = SimulatedStorage()
  private(set) var digests = SimulatedDigests()
  /// Extents on their way to disk, those that have arrived, and whose containers are there.
  var spilling: [Generation: Int] = [:]
  var spooled: [Generation: Set<Int>] = [:]
  private var containers: Set<Generation> = []
  var scratches: [Generation: Set<Int>] = [:]
  /// Rings that are being filled, and from which scratch file.
  var restoring: [RingID: RestoreOrder] = [:]
  var adopting: [CopyID: AdoptOrder] = [:]
  private(set) var imports: SimulatedImports
  private var productions = SimulatedProductions()
  /// Stale blobs whose successors have taken the key in the event at hand.
  var succeeded: Set<Generation> = []
  /// The key that the event at hand lets go.
  var unpinned: BlobKey?
  private(set) var violation: String?

  init(idle: Duration, importLimit: Int) {
    writing = SimulatedClaims(standardLimit: idle)
    imports = SimulatedImports(limit: importLimit)
  }

  mutating func demand(_ holds: Bool, _ claim: @autoclosure () -> String) {
    if !holds, violation == nil { violation = claim() }
  }

  /// What the disk's worker does; false: it was told not to.
  mutating func completes(_ generation: Generation) -> Bool { storage.completes(generation) }

  // MARK: What goes in

  mutating func note(_ event: LedgerEvent, at moment: Moment) {
    now = moment.monotonicNanoseconds
    switch event {
    case .connected(let session, let peer):
      live.insert(session)
      peers[session] = peer
    case .request(let session, let number, let request):
      guard live.contains(session) else { return }
      owed[RequestID(session: session, number: number)] = request
      if case .watch(let watch) = request {
        watches.begin(
          RequestID(session: session, number: number), watch, by: user(of: session),
          known: known(to: session))
      }
      switch request {
      case .close(let end) where end.blob.epoch == 0:
        close(session, end.blob.generation, opened: end.opened)
      case .close(let end): writing.departed(session, end.blob)
      case .release(let claim): writing.released(session, claim)
      case .leave(let blob), .quiesced(let blob): quiesced(session, blob.generation)
      case .giveBack(let request): gaveBack(session, request)
      default: break
      }
    case .offered(let session, let number, let request, let offer, _):
      let wrong = imports.offered(offer)
      demand(wrong == nil, wrong ?? "")
      guard live.contains(session) else { return }
      owed[RequestID(session: session, number: number)] = .import(request)
    case .hungUp(let session): end(session)
    case .exited(let session):
      end(session)
      for ring in rings.keys { rings[ring]?.holders[session] = nil }
      writing.exited(session)
    case .copied(let copy, let error):
      let wrong = writing.copied(copy) { rings[$0]?.isUnlinked == false }
      demand(error != nil || wrong == nil, wrong ?? "")
      let replaced = productions.replaced(by: copy)
      if error == nil { for ring in replaced { extentOwners[ring] = nil } }
    case .undelivered(let session, let number): takeBack(session, number)
    case .ringRefused(let ring, _) where rings[ring]?.useNumber == 1: rings[ring] = nil
    case .boardCreated(let board), .boardRefused(let board, _): pendingBoards.remove(board)
    case .overheadChanged(let byteCount): overhead = byteCount
    case .congested(let session): watches.congested.insert(session)
    case .relieved(let session): watches.congested.remove(session)
    case .spilled(let generation, let result): spilled(generation, result)
    case .restored(let ring, let error): restored(ring, error)
    case .adopted(let copy, let result): adopted(copy, result)
    case .persisted(let generation, let result):
      spooled[generation, default: []].formUnion(storage.persisted(generation, result))
    case .digested(let generation, let result): digests.finished(generation, result)
    case .retracted(let ring, isViewed: false):
      // Its tag is gone, and nobody looks any more; but those whose tables are gone, too, may.
      for session in rings[ring]?.holders.keys ?? [:].keys where live.contains(session) {
        rings[ring]?.holders[session] = nil
      }
    case .ringRefused, .ringCreated, .inspected, .sampled, .journalFull, .tick, .drainBegan,
      .retracted, .fileLooked, .found, .recovered, .surveyed, .measured:
      break
    }
  }

  private mutating func end(_ session: SessionID) {
    live.remove(session)
    for (ring, known) in rings where known.holders[session] == .reader {
      let opened = extentOwners[ring].flatMap { readers[$0]?[session] } ?? []
      if opened.isEmpty { rings[ring]?.holders[session] = nil }
    }
    for (request, asked) in owed where request.session == session {
      switch asked {
      case .createWith(let create, let terms) where terms.resumes:
        orphanedResumes.insert(create.key)
      case .openOrCreate(let request) where request.terms.resumes:
        orphanedResumes.insert(request.create.key)
      default: break
      }
    }
    owed = owed.filter { $0.key.session != session }
    watches.end(session)
    for generation in readers.keys { readers[generation]?[session] = nil }
    for generation in subscriptions.keys { subscriptions[generation]?[session] = nil }
    writing.hungUp(session)
  }

  private mutating func quiesced(_ session: SessionID, _ generation: Generation) {
    for (ring, known) in rings where known.holders[session] == .writer {
      if extentOwners[ring] == generation { rings[ring]?.holders[session] = .reader }
    }
  }

  private mutating func close(
    _ session: SessionID, _ generation: Generation, opened: UInt64
  ) {
    readers[generation]?[session]?.removeAll { $0.number == opened }
    forgetSubscriptions(session, generation)
  }

  private mutating func takeBack(_ session: SessionID, _ number: UInt64) {
    writing.takeBack(session, number)
    let request = RequestID(session: session, number: number)
    for (ring, known) in rings where known.firstGrants[session] == request {
      rings[ring]?.holders[session] = nil
    }
    for generation in readers.keys {
      readers[generation]?[session]?.removeAll { $0.number == number }
      forgetSubscriptions(session, generation)
    }
  }

  /// Whoever reads a blob no more holds its publisher no more.
  private mutating func forgetSubscriptions(_ session: SessionID, _ generation: Generation) {
    if !reads(session, generation) { subscriptions[generation]?[session] = nil }
  }

  private func reads(_ session: SessionID, _ generation: Generation) -> Bool {
    readers[generation]?[session]?.contains { !$0.observes } == true
  }

  // MARK: What comes out

  mutating func check(_ actions: [LedgerAction], after event: LedgerEvent) {
    unpinned = nil
    if case .request(_, _, .pin(let pin)) = event, !pin.isPinned { unpinned = pin.key }
    demand(!SimulatedJournal.comesLate(actions), "a record is written behind what it is about")
    name(actions, after: event)
    for action in actions {
      let wrong = journal.take(action)
      demand(wrong == nil, wrong ?? "")
      check(action, after: event)
    }
    for record in SimulatedJournal.records(actions) where record.isNamed {
      let wrong = digests.recorded(record)
      demand(wrong == nil, wrong ?? "")
    }
    demandRecords()
    demandEvictable()
    demandTimely()
    let sessions = watches.sessions
    watches.compare(
      with: Dictionary(uniqueKeysWithValues: sessions.map { ($0, known(to: $0)) }))
    if let wrong = watches.violation { demand(false, wrong) }
    if let wrong = imports.settled { demand(false, wrong) }
    let silent = unrung
    demand(silent.isEmpty, "a final state was posted and its bell not rung: \(silent)")
    var isTick = false
    if case .tick = event { isTick = true }
    let wrong = writing.settled(posted, isTick: isTick, at: now)
    demand(wrong == nil, wrong ?? "")
    let unfounded = storage.violation(records)
    demand(unfounded == nil, unfounded ?? "")
  }

  private mutating func check(_ action: LedgerAction, after event: LedgerEvent) {
    switch action {
    case .reply(let session, let number, let reply, let descriptors):
      answered(session, number, reply, descriptors)
    case .report(let session, let number, _, let blobs):
      _ = settleDebt(session, number)
      for blob in blobs {
        demand(
          mayRead(session, blob.info.generation),
          "\(session) was told of \(blob.info.key), which it may not read")
      }
    case .reportStatistics(let session, let number, _), .explain(let session, let number, _, _):
      _ = settleDebt(session, number)
    case .disconnect(let session): end(session)
    case .createRing(let ring, let index, let dataByteCount, let hasMap, let access):
      let geometry = try? RingGeometry(dataByteCount: dataByteCount, hasMap: hasMap)
      demand(geometry != nil && rings[ring] == nil, "ring \(ring) is impossible or repeated")
      rings[ring] = SimulatedRing(
        byteCount: geometry?.objectByteCount ?? 0, access: access, index: index)
    case .reuseRing(let ring, let useNumber, let index):
      demandUnused(ring, "used again")
      demand(rings[ring]?.useNumber == useNumber - 1, "ring \(ring) skips to use \(useNumber)")
      rings[ring]?.useNumber = useNumber
      rings[ring]?.index = index
      rings[ring]?.holders = [:]
    case .unlinkRing(let ring): unlinked(ring)
    case .discardRing(let ring):
      demandUnused(ring, "discarded")
      unlinked(ring)
    case .createBoard(let board, _): pendingBoards.insert(board)
    case .post(let slot, let post): posted(slot, post)
    case .clearEntry(let slot):
      demand(entries[slot] != nil, "entry \(slot) was cleared twice")
      entries[slot] = nil
    case .ring(let slot): unrung[slot] = nil
    case .inspect(_, let extents, _, _, _, _):
      demand(extents.allSatisfy { rings[$0.ring]?.isUnlinked == false }, "inspects a gone ring")
    case .copy(let copy, let pairs):
      writing.copies(copy, pairs)
      for pair in pairs {
        let sizes = [pair.source, pair.target].map { rings[$0.ring].map(\.byteCount) }
        demand(sizes[0] != nil && sizes[0] == sizes[1], "\(pair) differs in size")
      }
    case .digest(let order):
      let wrong = digests.ordered(order, posted: posted[order.generation])
      demand(wrong == nil, wrong ?? "")
      for extent in order.extents {
        demand(
          rings[extent.ring]?.isUnlinked == false && extentOwners[extent.ring] == order.generation,
          "the digest of \(order.generation) takes ring \(extent.ring), which is another's")
      }
    case .dropDigest(let generation):
      let wrong = digests.dropped(generation)
      demand(wrong == nil, wrong ?? "")
    case .sample(let reports):
      demand(!reports.isEmpty, "nothing is to be sampled")
      demand(reports.allSatisfy { $0.info.state == .open }, "a blob that has ended is sampled")
    case .spill(let order):
      demand(
        order.scratchWriter != nil || rings[order.extent.ring]?.isUnlinked == false,
        "spills a gone ring")
      demand(
        order.scratchWriter == nil
          || scratches[order.generation]?.contains(order.extent.index) == true,
        "takes \(order.extent.index) of \(order.generation) from no scratch file")
      demand(spilling[order.generation] == nil, "\(order.generation) spills twice at once")
      let state = posted[order.generation]
      demand(
        state == .sealed || state == .open || state == .suspended && order.mayLeavePartly,
        "spills of a blob that is \(String(describing: state))")
      demand(
        state == .sealed || order.extent.index > 0 || order.mayLeavePartly,
        "the marks of \(order.generation) leave memory")
      spilling[order.generation] = order.extent.index
      containers.insert(order.generation)
    case .persist(let order):
      let gone = order.extents.contains { rings[$0.ring]?.isUnlinked != false }
      demand(!gone, "persists from a gone ring")
      let wrong = storage.persists(order)
      demand(wrong == nil, wrong ?? "")
      demand(posted[order.blob.generation] == .open, "persists what is not open")
      containers.insert(order.blob.generation)
    case .withdrawContainer(let generation): storage.withdrawn(generation)
    case .markContainer(let generation, let isPinned): storage.marked(generation, isPinned)
    case .retractRing(let ring, _):
      demand(rings[ring]?.isUnlinked == false, "takes back a gone ring")
      if let generation = extentOwners[ring], isPatchwork(generation) {
        let writers = rings[ring]?.holders.filter { $0.value == .writer }.keys.sorted() ?? []
        demand(writers.isEmpty, "\(ring) of \(generation) leaves memory, and \(writers) write it")
      }
      extentOwners[ring] = nil
    case .removeContainer(let generation):
      demand(containers.remove(generation) != nil, "no container of \(generation) is there")
      demand(spilling[generation] == nil, "a container goes while it is written")
      let wrong = storage.removed(generation)
      demand(wrong == nil, wrong ?? "")
      demand(!isHeld(generation), "a container goes while \(generation) is open")
      spooled[generation] = nil
      scratches[generation] = nil
    case .restore(let order):
      demand(rings[order.ring]?.isUnlinked == false, "fills a gone ring")
      demand(
        scratches[order.generation]?.contains(order.index) == true,
        "\(order) has no scratch file")
      restoring[order.ring] = order
    case .adopt(let order):
      demand(
        order.rings.allSatisfy { rings[$0.extent.ring]?.isUnlinked == false },
        "takes over a gone ring")
      demand(
        Set(order.scratch).isSubset(of: scratches[order.source] ?? []),
        "takes over scratch files that are not there")
      demand(
        !order.hasContainer || containers.contains(order.source),
        "takes over a container that is not there")
      adopting[order.copy] = order
      containers.insert(order.target)
    case .dropScratch(let generation, let index):
      demand(
        scratches[generation]?.remove(index) != nil,
        "no scratch file of \(index) of \(generation) is there")
      demand(
        !restoring.values.contains { $0.generation == generation && $0.index == index },
        "a scratch file goes while it is read back")
    case .keepFile(let generation, let offer):
      let wrong = imports.kept(generation, offer)
      demand(wrong == nil, wrong ?? "")
    case .dropOffer(let offer):
      let wrong = imports.dropped(offer)
      demand(wrong == nil, wrong ?? "")
    case .releaseFile(let generation):
      // It is released just before its failure is posted, which comes with a comparison only.
      var isLook = false
      if case .fileLooked(generation, _, _, _, _) = event { isLook = true }
      let isNeeded = isHeld(generation) && !isLook
      let wrong = imports.released(generation, isNeeded: isNeeded)
      demand(wrong == nil, wrong ?? "")
    case .lookAtFile(let generation, let session, let number, _):
      demand(imports.files.contains(generation), "looks at a file that is not held")
      demand(
        owed[RequestID(session: session, number: number)] != nil,
        "looks at a file for nobody")
    case .recordClient, .eraseClient, .recordBlob, .eraseBlob, .measure: break
    case .survey(_, let extents, _, _):
      demand(extents.allSatisfy { rings[$0.ring]?.isUnlinked == false }, "surveys a gone ring")
    case .refit(let copy, let pairs):
      productions.refits(copy, pairs)
      demand(
        pairs.allSatisfy { rings[$0.source.ring]?.isUnlinked == false },
        "copies from a gone ring")
    }
  }

  /// Whether a blob is written in any order, and its extents may leave meanwhile.
  private func isPatchwork(_ generation: Generation) -> Bool {
    let state = posted[generation]
    return records[generation]?.info.order == .any && (state == .open || state == .suspended)
  }

  /// Whether a session may read what has this record, as of a file.
  func mayRead(_ session: SessionID, _ generation: Generation) -> Bool {
    guard let access = records[generation]?.info.access, let peer = peers[session] else {
      return false
    }
    if [0, 1000, access.uid].contains(peer.uid) { return true }
    let isMember = ([peer.gid] + peer.groups).contains(access.gid)
    return access.mode & (isMember ? 0o40 : 0o4) != 0
  }

  /// Who asks, whichever process it is.
  private func user(of session: SessionID) -> Peer? {
    var user = peers[session]
    user?.process = 0
    return user
  }

  func mayTake(_ session: SessionID, _ access: Access) -> Bool {
    guard let peer = peers[session] else { return false }
    return [0, 1000, access.uid].contains(peer.uid)
  }

  private mutating func settleDebt(_ session: SessionID, _ number: UInt64) -> Request? {
    demand(live.contains(session), "a reply to the ended session \(session)")
    let request = owed.removeValue(forKey: RequestID(session: session, number: number))
    demand(number == 0 || request != nil, "a second reply to request \(number) of \(session)")
    return request
  }

  private mutating func answered(
    _ session: SessionID, _ number: UInt64, _ reply: Reply, _ descriptors: [DescriptorSource]
  ) {
    if case .events(let page) = reply {
      watches.told(RequestID(session: session, number: number), page)
      return
    }
    watches.end(RequestID(session: session, number: number))
    let request = settleDebt(session, number)
    for case .ring(let ring, let isWritable) in descriptors {
      demand(rings[ring]?.isUnlinked == false, "ring \(ring) was handed out after its end")
      if isWritable, let generation = extentOwners[ring] {
        writing.gaveRing(session, of: generation)
      }
    }
    granted(session, number, descriptors)
    demand(!productions.believesFenced(reply, request), "a fenced publisher got \(reply)")
    switch (reply, request) {
    case (.created(let grant), .create(let create)):
      created(session, number, grant, create, .plain)
    case (.created(let grant), .createWith(let create, let terms)):
      created(session, number, grant, create, terms)
    case (.created(let grant), .openOrCreate(let request)):
      created(session, number, grant, request.create, request.terms)
      readers[grant.blob.generation, default: [:]][session, default: []].append(
        Opened(number: number, observes: false))
    case (.opened(let grant), .openOrCreate(let request)):
      opened(
        session, number, grant,
        OpenRequest(key: request.create.key, waits: false, observes: false))
    case (.joined(let grant), .standBy):
      demand(
        !writing.isPublished(grant.blob.generation),
        "\(session) goes on with \(grant.blob.generation), which somebody writes")
      let wrong = writing.joined(session, number, grant)
      demand(wrong == nil, wrong ?? "")
    case (.joined(let grant), .join):
      let wrong = writing.joined(session, number, grant)
      demand(wrong == nil, wrong ?? "")
    case (.spooled(let grant), .attachExtent(let extent)):
      demand(
        spooled[extent.generation]?.contains(grant.index) == true && grant.index == extent.index
          && descriptors == [.container(extent.generation)],
        "extent \(extent.index) of \(extent.generation) does not stand on disk")
    case (.scratch(let grant), .attachExtent(let extent)):
      demand(
        scratches[extent.generation]?.contains(grant.index) == true && grant.index == extent.index
          && descriptors == [.scratch(extent.generation, index: extent.index)],
        "extent \(extent.index) of \(extent.generation) does not stand in a scratch file")
    case (.created(let grant), .import):
      let generation = grant.blob.generation
      demand(
        grant.state == .sealed && imports.files.contains(generation)
          && records[generation]?.info.isImported == true, "\(generation) is no import")
      demand(
        peers[session].map { [0, 1000].contains($0.uid) } == true,
        "\(generation) was imported by another user")
    case (.imported, .attachExtent(let extent)):
      demand(
        imports.files.contains(extent.generation) && extent.index == 0
          && descriptors == [.file(extent.generation)],
        "a file of \(extent.generation) was handed out that is not there")
    case (.claimed(let grant), .claim(let claim)):
      let wrong = writing.claimed(session, number, grant, asked: claim.range)
      demand(wrong == nil, wrong ?? "")
    case (.done, .leave(let blob)), (.done, .abandon(let blob)):
      writing.departed(session, blob)
    case (.opened(let grant), .open(let open)):
      opened(session, number, grant, open)
    case (.done, .seal(let seal)):
      let generation = seal.blob.generation
      let isSealed = posted[generation] == .sealed || records[generation]?.inlineBytes != nil
      demand(isSealed, "\(generation) was confirmed before it was sealed")
      if let record = records[generation] {
        demand(record.info.state == .sealed, "a seal was confirmed before its record")
      }
    case (.welcome(let welcome), _): clientIDs[session] = welcome.clientID
    case (.done, .subscribe(let request)):
      demand(
        reads(session, request.generation),
        "\(session) holds the publisher of a blob that it does not read")
      if posted[request.generation] == .open, !hasHeldTooLong(session, request.generation) {
        subscriptions[request.generation, default: [:]][session, default: []].insert(request.entry)
      }
    case (.done, .unsubscribe(let request)):
      subscriptions[request.generation]?[session]?.remove(request.entry)
    case (.done, .detach(let request)):
      let generation = request.blob.generation
      for session in clientIDs.keys where clientIDs[session] == request.subscription.clientID {
        detached(session, generation, request.subscription.entry)
      }
    case (.subscriptions(let list), .subscriptions(let blob)):
      let expected = expectedSubscriptions(blob.generation)
      demand(
        Set(list.subscriptions) == expected,
        "the publisher of \(blob.generation) is told \(list.subscriptions), not \(expected)")
    case (.failure(let error), .open(let open)) where error.code == .noSuchKey:
      let isHidden = owners[open.key].map { !mayRead(session, $0) } ?? true
      demand(isHidden || isBeingResumed(open.key), "\(open.key) exists but was not found")
    case (.failure(let error), .create(let create)) where error.code == .keyExists:
      demand(
        !create.replaces || owners[create.key] == nil || isBeingResumed(create.key),
        "\(create.key) could have been replaced")
    default: break
    }
  }

  private func hasHeldTooLong(_ session: SessionID, _ generation: Generation) -> Bool {
    peers[session].map { heldTooLong[generation]?.contains($0.uid) == true } ?? false
  }

  /// With a reader of another user all of that user go, and do not come back.
  private mutating func detached(_ session: SessionID, _ generation: Generation, _ entry: Int) {
    guard subscriptions[generation]?[session]?.remove(entry) != nil, let peer = peers[session],
      let access = records[generation]?.info.access, !mayTake(session, access)
    else { return }
    heldTooLong[generation, default: []].insert(peer.uid)
    for other in subscriptions[generation]?.keys ?? [:].keys where peers[other]?.uid == peer.uid {
      subscriptions[generation]?[other] = nil
    }
  }

  private func expectedSubscriptions(_ generation: Generation) -> Set<Subscription> {
    var expected: Set<Subscription> = []
    for (session, entries) in subscriptions[generation] ?? [:] {
      guard let clientID = clientIDs[session] else { continue }
      for entry in entries { expected.insert(Subscription(clientID: clientID, entry: entry)) }
    }
    return expected
  }

  /// Whether the key's failed blob may have an heir that is not born yet.
  private func isBeingResumed(_ key: BlobKey) -> Bool {
    guard let owner = owners[key], records[owner]?.info.state == .failed else { return false }
    if orphanedResumes.contains(key) { return true }
    return owed.values.contains { request in
      switch request {
      case .createWith(let create, let terms): terms.resumes && create.key == key
      case .openOrCreate(let asked): asked.terms.resumes && asked.create.key == key
      default: false
      }
    }
  }

  private mutating func created(
    _ session: SessionID, _ number: UInt64, _ grant: BlobGrant, _ create: CreateRequest,
    _ terms: CreateTerms
  ) {
    let generation = grant.blob.generation
    let isSuccessor = journal.written[generation]?.isSuccessor == true
    demand(
      records[generation] != nil || isSuccessor, "\(generation) was granted before its record")
    demand(
      owners[create.key] == generation || isSuccessor && owners[create.key] == terms.succeeds,
      "\(create.key) is not owned by \(generation)")
    writing.created(session, number, grant, terms)
  }

  private mutating func opened(
    _ session: SessionID, _ number: UInt64, _ grant: BlobGrant, _ open: OpenRequest
  ) {
    let generation = grant.blob.generation
    demand(open.observes || grant.state != .failed, "a failed blob was handed to a reader")
    demand(grant.blob.epoch == 0, "a reader was given an epoch")
    if let record = records[generation] {
      let isThere = record.endOfGrace.map { $0 > now } ?? true
      let isStale = record.endOfLife.map { $0 <= now } ?? false
      demand(isThere, "\(generation) was served late")
      demand(!grant.isStale || isStale, "\(generation) is said to be stale too early")
    }
    if let access = records[generation]?.info.access {
      demand(mayRead(session, generation), "\(session) opened what it may not read")
      let isForeign = grant.inlineBytes == nil && access.uid != peers[session]?.uid
      demand(grant.isForeign == isForeign, "\(session) is told wrongly whose the rings are")
    }
    guard grant.inlineBytes == nil else { return }
    let slot = BoardSlot(board: grant.board, entry: grant.entry)
    demand(entries[slot] == generation, "\(generation) was opened without its entry")
    demand(posted[generation] == grant.state, "the board and the grant of \(generation) differ")
    readers[generation, default: [:]][session, default: []].append(
      Opened(number: number, observes: open.observes))
  }

  /// Whoever was given a ring of a blob that is gone can neither write into it nor be reading it.
  private mutating func demandUnused(_ ring: RingID, _ what: String) {
    demand(rings[ring]?.isUnlinked == false, "ring \(ring) is gone and \(what)")
    for (session, hold) in rings[ring]?.holders ?? [:] {
      demand(live.contains(session), "ring \(ring) was \(what), and the ghost \(session) has it")
      demand(hold == .reader, "ring \(ring) was \(what), and \(session) may write into it")
    }
    guard let generation = extentOwners[ring] else { return }
    demand(!isHeld(generation), "ring \(ring) was \(what) while \(generation) is open")
    demand(
      !journal.names(ring, of: generation), "ring \(ring) was \(what), and \(generation) is there")
  }

  private mutating func granted(
    _ session: SessionID, _ number: UInt64, _ descriptors: [DescriptorSource]
  ) {
    for case .ring(let ring, let isWritable) in descriptors {
      let request = RequestID(session: session, number: number)
      let hold = rings[ring]?.holders[session]
      if hold == nil || hold == .reader && isWritable {
        rings[ring]?.firstGrants[session] = request
      } else if isWritable {
        // One of several that does not arrive takes nothing away.
        rings[ring]?.firstGrants[session] = nil
      }
      if isWritable {
        rings[ring]?.holders[session] = .writer
      } else if rings[ring]?.holders[session] == nil {
        rings[ring]?.holders[session] = .reader
      }
    }
  }

  func isHeld(_ generation: Generation) -> Bool {
    writing.isPublished(generation) || readers[generation]?.contains { !$0.value.isEmpty } == true
  }

  private mutating func unlinked(_ ring: RingID) {
    demand(rings[ring]?.isUnlinked == false, "ring \(ring) was unlinked twice")
    rings[ring]?.isUnlinked = true
    if let generation = extentOwners[ring] {
      demand(!isHeld(generation), "ring \(ring) was unlinked while \(generation) is open")
    }
  }

  private mutating func posted(_ slot: BoardSlot, _ post: BoardPost) {
    let generation = post.generation
    let holder = entries[slot] ?? generation
    demand(holder == generation, "entry \(slot) is shared by \(generation) and \(holder)")
    entries[slot] = generation
    let before = posted[generation]
    productions.posted(post)
    demand(
      before == nil || before == .open || before == .suspended || before == post.state
        || post.state == .failed && records[generation]?.info.isImported == true,
      "\(generation) went from \(String(describing: before)) to \(post.state)")
    demand(post.state != .sealed || post.byteCount != nil, "\(generation) sealed without length")
    demand(post.state != .failed || post.causeCode != nil, "\(generation) failed without cause")
    if let before, before != post.state { unrung[slot] = generation }
    posted[generation] = post.state
    if post.state == .sealed {
      for holder in rings.filter({ extentOwners[$0.key] == generation }).flatMap(\.value.holders) {
        quiesced(holder.key, generation)
      }
    }
    let askers = owed.compactMap { request -> SessionID? in
      guard case .seal(let seal) = request.value, seal.blob.generation == generation else {
        return nil
      }
      return request.key.session
    }
    let wrong = writing.posted(generation, before, post, askers: Set(askers), at: now)
    demand(wrong == nil, wrong ?? "")
  }

  mutating func recorded(_ record: BlobRecord) {
    let generation = record.info.generation
    if records[generation] == nil {
      let key = record.info.key
      demand(seenGenerations.insert(generation).inserted, "generation \(generation) repeats")
      if let last = lastGenerations[key] {
        demand(generation > last, "\(key) went from generation \(last) to \(generation)")
      }
      demand(owners[key] == nil, "\(key) has two owners")
      lastGenerations[key] = generation
      orphanedResumes.remove(key)
      owners[key] = generation
    }
    records[generation] = record
    if record.info.isImported, record.info.state == .failed, !entries.values.contains(generation) {
      // Nobody has it open, so there is no bell to ring.
      posted[generation] = .failed
    }
  }
}
