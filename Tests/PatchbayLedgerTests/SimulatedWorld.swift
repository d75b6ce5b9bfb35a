// Random clients around a ledger: legal and illegal requests, hang-ups and exits in any order, rings
// that come late or never, a clock that jumps. Everything is drawn from one seed, and nothing is
// taken from the order of a dictionary, so a run can be repeated.

import PatchbayTypes
import PatchbayWire

@testable import PatchbayLedger

struct SimulatedWorld {
  private struct Client {
    let session: SessionID
    var isConnected = true
    var hasGreeted = false
    var isProcessGone = false
    var published: [BlobReference] = []
    var opened: [(generation: Generation, number: UInt64)] = []
    var numbers: [UInt64] = []
    /// Stale blobs that it was told it may succeed.
    var stale: [(generation: Generation, key: BlobKey)] = []
  }

  private static let memory = 1 << 20
  private static let idle = Duration.seconds(4)
  private static let entriesPerBoard = 4
  private static let boardByteCount = 2 * 4096 + entriesPerBoard * (256 + 64)
  private static let keys: [BlobKey] = ["a", "b", "c", "a/1", "a/2", "z", "zz", "é"]

  private var ledger: Ledger
  var generator: SeededGenerator
  var model = SimulatedModel(idle: idle, importLimit: importLimit)
  private static let importLimit = 4
  private(set) var trace: [LedgerAction] = []
  private var clients: [Client] = []
  private var answers: [LedgerAction] = []
  private var lastSession: UInt64 = 0
  private var lastNumber: UInt64 = 0
  private var boardCount = 0
  /// Between the news of its bytes and that of its creation a board is both reserved and told.
  private var isBoardChargedTwice = false
  private var now = Moment(monotonicNanoseconds: 0, wall: WallTime(rawValue: 1))
  private(set) var violation: String?
  var evictionCount: UInt64 { ledger.evictionCount }
  var limits: LedgerLimits { ledger.limits }

  /// Whether other users may connect.
  private let isShared: Bool
  /// The broker's own, root, and others.
  private static let users: [UInt32] = [1000, 1000, 0, 2000, 2000, 3000]

  /// What the disk's worker has done and the ledger has not heard of.
  private var told: [LedgerEvent] = []
  /// Bytes of disk by blob.
  var containers: [Generation: Int] = [:]
  var scratches: [Generation: Set<Int>] = [:]
  private static let spool = 512 << 10
  private let spools: Bool
  /// Whether some blobs are to have a digest, and what it is to be: that of one byte.
  let digests: Bool
  static let right: [UInt8] = [1]
  static let wrong: [UInt8] = [2]
  /// Whether clients pin blobs and import files.
  private let keeps: Bool
  private var lastOffer: UInt64 = 0
  /// Whether clients produce what is missing, and blobs have their times.
  let produces: Bool
  /// The keys of what was asked for so, by the requests.
  private var productions: [UInt64: BlobKey] = [:]

  init(
    seed: UInt64, isShared: Bool = false, spools: Bool = false, keeps: Bool = false,
    digests: Bool = false, produces: Bool = false
  ) {
    self.produces = produces
    self.isShared = isShared
    self.spools = spools
    self.keeps = keeps
    self.digests = digests
    generator = SeededGenerator(seed: seed)
    var limits = LedgerLimits(memoryByteCount: Self.memory)
    limits.entriesPerBoard = Self.entriesPerBoard
    limits.waitingOpensPerSession = 5
    limits.handlesPerSession = 12
    limits.connectionsPerUser = 8
    limits.blobCount = 20
    limits.idle = Self.idle
    limits.claimsPerPublisher = 6
    limits.claimsPerBlob = 10
    limits.publishersPerBlob = 3
    limits.firstExtent = 8192
    limits.extentLimit = 32768
    limits.windowRing = 16384
    limits.isShared = isShared
    limits.memoryPerOtherUser = Self.memory / 4
    limits.connectionsPerOtherUser = 4
    limits.handlesPerOtherUser = 15
    limits.waitingOpensPerOtherUser = 6
    limits.blobsPerOtherUser = 5
    limits.accessClassesPerOtherUser = 2
    limits.subscriptionsPerOtherUser = 3
    limits.removalCount = 6
    limits.importCount = Self.importLimit
    limits.watchesPerSession = 2
    limits.poolRest = .seconds(3)
    if produces, seed % 2 == 0 { limits.cachedBlobCount = 3 }
    if produces, seed % 3 == 0 { limits.cachedByteCount = Self.memory / 8 }
    if spools {
      limits.memoryByteCount = Self.memory / 2
      limits.spool = SpoolTerms(byteCount: Self.spool, compression: .none)
      if seed % 2 == 0 { limits.memoryPerClient = Self.memory / 6 }
    }
    ledger = Ledger(
      limits: limits, instance: 1, run: 1, brokerProcess: 1, brokerUser: 1000, at: now,
      tokenSource: SeededGenerator(seed: seed ^ 0xabcd), digest: simulatedDigest)
    feed(.overheadChanged(byteCount: 50_000))
  }

  mutating func chance(_ one: Int, in all: Int) -> Bool {
    Int.random(in: 0..<all, using: &generator) < one
  }

  // MARK: Running

  mutating func run(steps: Int) {
    for _ in 0..<steps where violation == nil { step() }
    if violation == nil { finish() }
  }

  mutating func feed(_ event: LedgerEvent) {
    guard violation == nil else { return }
    model.note(event, at: now)
    let actions = ledger.handle(event, at: now)
    trace += actions
    model.check(actions, after: event)
    follow(actions)
    violation =
      model.violation ?? debtViolation ?? sumViolation ?? shareViolation ?? ledger.inconsistency
      ?? ledger.inconsistency(with: model.journal.written)
  }

  /// Nobody uses what it is not charged with, or more than its share; the pool is nobody's.
  private var shareViolation: String? {
    for uid in Set(Self.users).sorted() {
      let used = model.usedByteCount(by: uid)
      let charged = ledger.accounts[uid]?.byteCount ?? 0
      if used > charged { return "user \(uid) uses \(used) bytes and is charged with \(charged)" }
      if ![0, 1000].contains(uid), used > Self.memory / 4 { return "user \(uid) uses \(used)" }
    }
    return nil
  }

  /// What the ledger says is waited for must be what the model knows to be owed.
  private var debtViolation: String? {
    let kinds: [Request.Kind] = [
      .open, .create, .createWith, .grow, .seal, .openOrCreate, .standBy,
    ]
    let owed = Set(model.owed.filter { kinds.contains($0.value.kind) }.keys)
    let noted = ledger.unanswered.flatMap { session, requests in
      requests.keys.map { SimulatedModel.RequestID(session: session, number: $0) }
    }
    return owed == Set(noted) ? nil : "waiting requests: owed \(owed), noted \(noted)"
  }

  private var sumViolation: String? {
    let used = ledger.usedByteCount
    let certain = model.chargedByteCount(boardByteCount: Self.boardByteCount)
    if used > Self.memory, !isBoardChargedTwice {
      return "\(used) bytes are used of \(Self.memory)"
    }
    return used == certain ? nil : "\(used) bytes are charged for \(certain)"
  }

  /// Takes note of what clients learn, and of what the loop owes the ledger.
  private mutating func follow(_ actions: [LedgerAction]) {
    for action in actions {
      switch action {
      case .createRing, .reuseRing, .createBoard, .inspect, .copy, .sample, .spill, .retractRing,
        .restore, .adopt, .persist, .lookAtFile, .digest, .survey, .refit, .measure:
        answers.append(action)
      case .dropScratch(let generation, let index): scratches[generation]?.remove(index)
      case .removeContainer(let generation):
        containers[generation] = nil
        scratches[generation] = nil
      case .disconnect(let session):
        if let place = place(of: session) { clients[place].isConnected = false }
      case .reply(let session, let number, .created(let grant), _),
        .reply(let session, let number, .joined(let grant), _):
        guard let place = place(of: session) else { break }
        clients[place].published.append(grant.blob)
        if productions[number] != nil {
          clients[place].opened.append((grant.blob.generation, number))
        }
      case .reply(let session, let number, .opened(let grant), _):
        guard let place = place(of: session) else { break }
        clients[place].opened.append((grant.blob.generation, number))
        if grant.isStale, let key = productions[number] {
          clients[place].stale.append((grant.blob.generation, key))
        }
      case .reply(let session, _, .welcome, _):
        if let place = place(of: session) { clients[place].hasGreeted = true }
      default: break
      }
    }
  }

  private func place(of session: SessionID) -> Int? {
    clients.firstIndex { $0.session == session }
  }

  private mutating func step() {
    switch Int.random(in: 0..<100, using: &generator) {
    case 0..<4: connect()
    case 4..<6: hangUp()
    case 6..<9: exit()
    case 9..<32: answerOne(mayRefuse: true)
    case 32..<34: pass()
    case 34: feed(.journalFull(chance(1, in: 4)))
    case 35..<37: loseReply()
    case 37..<39: congest()
    default:
      if keeps, chance(1, in: 8) { return importOrPin() }
      if produces, chance(1, in: 2) { return produce() }
      request()
    }
  }

  private mutating func produce() {
    guard let client = pick({ $0.isConnected && $0.hasGreeted }) else { return connect() }
    if let heir = pick({ $0.isConnected && !$0.stale.isEmpty }), chance(3, in: 4),
      let stale = clients[heir].stale.popLast()
    {
      return send(heir, randomSuccession(of: stale.generation, stale.key))
    }
    switch Int.random(in: 0..<16, using: &generator) {
    case 0..<4:
      let request = randomOpenOrCreate()
      productions[lastNumber + 1] = request.create.key
      send(client, .openOrCreate(request))
    case 4..<7:
      let own = clients[client].opened.suffix(4).randomElement(using: &generator)
      send(
        client,
        .standBy(
          StandByRequest(
            generation: own?.generation ?? randomGeneration(), opened: own?.number ?? 1)))
    case 7: send(client, .pin(PinRequest(key: randomKey(), isPinned: chance(1, in: 4))))
    case 8..<13:
      guard let producer = pick({ $0.isConnected && !$0.published.isEmpty }) else { return }
      let blob = randomReference(producer)
      send(producer, .seal(SealRequest(blob: blob, byteCount: 60_000)))
    case 13: pass()
    default: send(client, .close(randomEnd(client)))
    }
  }

  private static let noFile = PatchbayError(.notPermitted, "It is none.")

  private static func stamp(hasChanged: Bool) -> FileStamp {
    FileStamp(device: 1, inode: 2, byteCount: 3, modified: 4, changed: hasChanged ? 6 : 5)
  }

  private mutating func importOrPin() {
    guard let client = pick({ $0.isConnected && ($0.hasGreeted || $0.session.rawValue % 5 == 0) })
    else { return connect() }
    guard chance(1, in: 3) else {
      return send(
        client, .pin(PinRequest(key: randomKey(), isPinned: chance(1, in: 2))))
    }
    var request = ImportRequest(key: randomKey())
    request.replaces = chance(1, in: 2)
    request.mode = chance(1, in: 2) ? 0o644 : 0o600
    lastNumber += 1
    lastOffer += 1
    feed(
      .offered(
        clients[client].session, number: lastNumber, request, FileOffer(rawValue: lastOffer),
        chance(1, in: 8) ? .failure(Self.noFile) : .success(Self.stamp(hasChanged: false))))
  }

  private mutating func connect() {
    lastSession += 1
    let session = SessionID(rawValue: lastSession)
    clients.append(Client(session: session))
    feed(.connected(session, randomPeer()))
    if chance(14, in: 15) { send(clients.count - 1, .hello(Rig.hello())) }
  }

  private mutating func randomPeer() -> Peer {
    guard isShared else {
      return Peer(process: Int32(lastSession), uid: chance(1, in: 12) ? 0 : 1000, gid: 100)
    }
    let uid = Self.users.randomElement(using: &generator) ?? 0
    let isMember = chance(1, in: 3)
    return Peer(
      process: Int32(lastSession), uid: uid, gid: uid / 10, groups: isMember ? [200, 100] : [])
  }

  private mutating func pick(_ fits: (Client) -> Bool) -> Int? {
    clients.indices.filter { fits(clients[$0]) }.randomElement(using: &generator)
  }

  private mutating func hangUp() {
    guard let client = pick({ $0.isConnected }) else { return }
    clients[client].isConnected = false
    feed(.hungUp(clients[client].session))
    forgetDead()
  }

  private mutating func exit() {
    guard
      let client = pick({ !$0.isProcessGone && (!$0.isConnected || $0.session.rawValue % 3 == 0) })
    else { return }
    clients[client].isConnected = false
    clients[client].isProcessGone = true
    feed(.exited(clients[client].session))
    forgetDead()
  }

  private mutating func forgetDead() {
    clients.removeAll { !$0.isConnected && $0.isProcessGone }
  }

  private mutating func pass() {
    let step = Int64.random(in: 0..<2_000_000_000, using: &generator)
    now.monotonicNanoseconds += step
    // The wall clock may go back; nothing may depend on it.
    now.wall = WallTime(rawValue: now.wall.rawValue + step - 500_000_000)
    feed(.tick)
  }

  /// A client stops reading, or takes everything that waited for it.
  private mutating func congest() {
    guard let client = pick({ $0.isConnected && $0.hasGreeted }) else { return }
    let session = clients[client].session
    let isStuck = ledger.watching.congested.contains(session)
    feed(isStuck ? .relieved(session) : .congested(session))
  }

  private mutating func loseReply() {
    guard let last = trace.last(where: { if case .reply = $0 { true } else { false } }),
      case .reply(let session, let number, _, let descriptors) = last, !descriptors.isEmpty
    else { return }
    feed(.undelivered(session, number: number))
  }

  /// The ledger hears of what was done on disk at once, or later, but in order.
  mutating func tell(_ event: LedgerEvent) {
    told.append(event)
    if chance(1, in: 2) { hear() }
  }

  mutating func hear() {
    while !told.isEmpty { feed(told.removeFirst()) }
  }

  private mutating func answerOne(mayRefuse: Bool) {
    if !told.isEmpty, chance(1, in: 3) { return hear() }
    guard let drawn = answers.indices.randomElement(using: &generator) else { return }
    // The disk's worker does one thing after the other.
    let isOnDisk = Self.isDiskWork(answers[drawn])
    let place = isOnDisk ? answers.firstIndex(where: Self.isDiskWork) ?? drawn : drawn
    let isRefused = mayRefuse && chance(1, in: 8)
    let action = answers.remove(at: place)
    switch action {
    case .createRing(let ring, _, _, _, _), .reuseRing(let ring, _, _):
      feed(isRefused ? .ringRefused(ring, errno: 28) : .ringCreated(ring, inode: 1))
    case .createBoard(let board, _):
      if !isRefused {
        boardCount += 1
        isBoardChargedTwice = true
        feed(.overheadChanged(byteCount: 50_000 + boardCount * Self.boardByteCount))
        isBoardChargedTwice = false
      }
      feed(isRefused ? .boardRefused(board, errno: 24) : .boardCreated(board))
    case .inspect(let inspection, _, _, _, _, let byteCount):
      let covered = Coverage(coveredByteCount: byteCount, missing: [])
      let holes = Coverage(coveredByteCount: 0, missing: [0..<byteCount])
      let error = PatchbayError(.corrupt, "The ring cannot be read.")
      feed(
        .inspected(
          inspection,
          isRefused ? .failure(error) : .success(chance(2, in: 3) ? covered : holes)))
    case .copy(let copy, _):
      feed(.copied(copy, isRefused ? PatchbayError(.inputOutput, "The ring is gone.") : nil))
    case .spill(let order): spill(order, mayFail: isRefused)
    case .restore(let order): restore(order, fails: isRefused)
    case .adopt(let order): adopt(order, fails: isRefused)
    case .persist(let order): persist(order, mayFail: isRefused)
    case .digest(let order): digest(order, mayFail: isRefused)
    case .retractRing(let ring, _):
      feed(.retracted(ring, isViewed: mayRefuse && chance(1, in: 4)))
    case .lookAtFile(let generation, let session, let number, let request):
      let stamp = Self.stamp(hasChanged: mayRefuse && chance(1, in: 4))
      feed(
        .fileLooked(
          generation, isRefused ? .failure(Self.noFile) : .success(stamp), session,
          number: number, request))
    case .survey, .refit, .measure: answerProduction(action, fails: isRefused)
    case .sample(let reports):
      feed(
        .sampled(
          reports.map {
            let covered = Int.random(in: 0..<1000, using: &generator)
            return BlobSample(
              generation: $0.info.generation, frontier: covered / 2, coveredByteCount: covered)
          }))
    default: break
    }
  }

  // MARK: Requests

  mutating func request() {
    guard let client = pick({ $0.isConnected && ($0.hasGreeted || $0.session.rawValue % 5 == 0) })
    else { return connect() }
    send(client, randomRequest(client))
  }

  private mutating func send(_ client: Int, _ request: Request) {
    lastNumber += 1
    clients[client].numbers.append(lastNumber)
    feed(.request(clients[client].session, number: lastNumber, request))
  }

  private mutating func randomKey() -> BlobKey {
    Self.keys.randomElement(using: &generator) ?? "a"
  }

  private mutating func randomGeneration() -> Generation {
    Generation(rawValue: UInt64.random(in: 0..<40, using: &generator))
  }

  /// Mostly something the client was granted, sometimes somebody else's or nobody's.
  private mutating func randomReference(_ client: Int) -> BlobReference {
    if let own = clients[client].published.suffix(4).randomElement(using: &generator),
      chance(9, in: 10)
    {
      return own
    }
    return BlobReference(
      generation: randomGeneration(), epoch: UInt32.random(in: 0..<4, using: &generator))
  }

  private mutating func randomOpened(_ client: Int) -> Generation {
    let own = clients[client].opened.suffix(6).randomElement(using: &generator)
    return chance(9, in: 10) ? own?.generation ?? randomGeneration() : randomGeneration()
  }

  /// Of a reader or an observer that there may be.
  private mutating func randomEnd(_ client: Int) -> CloseRequest {
    let own = clients[client].opened.suffix(6).randomElement(using: &generator)
    let blob = BlobReference(generation: own?.generation ?? randomGeneration(), epoch: 0)
    return CloseRequest(blob: blob, opened: own?.number ?? 1)
  }

  private mutating func randomLength() -> Int {
    let lengths = [0, 1, 4096, 10_000, 60_000, 60_000, 300_000, Int.max, -1]
    return lengths.randomElement(using: &generator) ?? 0
  }

  private mutating func randomRequest(_ client: Int) -> Request {
    if spools, chance(1, in: 10) {
      return .attachExtent(ExtentRequest(generation: randomOpened(client), index: smallIndex()))
    }
    if spools, chance(1, in: 6) {
      return .grow(GrowRequest(blob: randomReference(client), index: smallIndex()))
    }
    if spools, chance(1, in: 10) {
      return .giveBack(
        GiveBackRequest(
          blob: randomReference(client), index: smallIndex(), isFull: chance(1, in: 3)))
    }
    if chance(1, in: 8) { return randomSubscription(client) }
    return switch Int.random(in: 0..<160, using: &generator) {
    case 0..<18: create(randomCreate())
    case 18..<28:
      .grow(GrowRequest(blob: randomReference(client), index: smallIndex()))
    case 28..<40:
      .seal(SealRequest(blob: randomReference(client), byteCount: randomLength()))
    case 40..<42: .fail(FailRequest(blob: randomReference(client), cause: "why not"))
    case 42..<44: .abandon(randomReference(client))
    case 44..<62:
      .open(
        OpenRequest(
          key: randomKey(), waits: chance(1, in: 3), observes: chance(1, in: 6)))
    case 62..<66:
      .cancel(
        CancelRequest(
          request: clients[client].numbers.suffix(9).randomElement(using: &generator) ?? 0))
    case 66..<70:
      .attachExtent(ExtentRequest(generation: randomOpened(client), index: smallIndex()))
    case 70..<71: .attachBoard(BoardRequest(board: UInt32.random(in: 0..<6, using: &generator)))
    case 71..<81: .close(randomEnd(client))
    case 81..<85: .quiesced(randomReference(client))
    case 85..<86: .close(CloseRequest(blob: randomReference(client)))
    case 86..<87: .info(InfoRequest(key: randomKey()))
    case 87..<88: .why(WhyRequest(key: randomKey()))
    case 88..<90: .list(ListRequest(prefix: [], after: [], limit: smallIndex()))
    case 90..<96:
      .remove(
        RemoveRequest(key: randomKey(), generation: chance(1, in: 4) ? randomGeneration() : nil))
    case 96..<97: .statistics
    case 100..<160: randomSharing(client)
    case 97..<99: .watch(randomWatch())
    default: chance(1, in: 20) ? .hello(Rig.hello()) : .ping
    }
  }

  private mutating func randomSubscription(_ client: Int) -> Request {
    let entry = Int.random(in: 0..<3, using: &generator)
    switch Int.random(in: 0..<10, using: &generator) {
    case 0..<4:
      return .subscribe(SubscriptionRequest(generation: randomOpened(client), entry: entry))
    case 4..<6:
      return .unsubscribe(SubscriptionRequest(generation: randomOpened(client), entry: entry))
    case 6..<8: return .subscriptions(randomReference(client))
    case 8:
      let clientID = UInt64.random(in: 0..<lastSession + 2, using: &generator)
      return .attachTable(TableRequest(blob: randomReference(client), clientID: clientID))
    default:
      let clientID = UInt64.random(in: 0..<lastSession + 2, using: &generator)
      return .detach(
        DetachRequest(
          blob: randomReference(client),
          subscription: Subscription(clientID: clientID, entry: entry)))
    }
  }

  /// Requests of blobs that several write.
  private mutating func randomSharing(_ client: Int) -> Request {
    switch Int.random(in: 0..<20, using: &generator) {
    case 0..<5: .createWith(randomShared(), randomTerms())
    case 5..<10:
      .join(
        JoinRequest(key: sharedKey(), generation: chance(1, in: 8) ? randomGeneration() : nil))
    case 10..<15: .claim(ClaimRequest(blob: randomReference(client), range: randomRange()))
    case 15..<18:
      .release(
        ReleaseRequest(
          blob: randomReference(client),
          claim: clients[client].numbers.suffix(12).randomElement(using: &generator) ?? 0))
    default: .leave(randomReference(client))
    }
  }

  /// Few lengths and plans, so that the same creation comes again and failed blobs can be resumed.
  private mutating func randomShared() -> CreateRequest {
    guard chance(5, in: 6) else { return randomCreate() }
    var create = CreateRequest(key: sharedKey())
    create.byteCount = chance(1, in: 2) ? 60_000 : nil
    create.replaces = chance(1, in: 8)
    if spools {
      randomizeKeeping(&create)
      if chance(1, in: 2) { create.acknowledgement = .durable }
    }
    return create
  }

  /// Mostly one of two, so that publishers meet.
  private mutating func sharedKey() -> BlobKey {
    chance(1, in: 8) ? randomKey() : chance(1, in: 2) ? "a" : "z"
  }

  private mutating func randomTerms() -> CreateTerms {
    let ownership = Ownership.allCases.randomElement(using: &generator) ?? .joinable
    let limits: [Duration?] = [nil, nil, .seconds(1), .seconds(3)]
    var terms = CreateTerms(
      ownership: ownership,
      idleLimit: ownership == .exclusive ? nil : limits.randomElement(using: &generator) ?? nil,
      resumes: chance(1, in: 2), digest: randomWish())
    if produces { terms.lifetime = randomLifetime() }
    return terms
  }

  private mutating func randomRange() -> Range<Int> {
    let start = Int.random(in: 0..<16, using: &generator) * 4000
    return start..<start + Int.random(in: 0..<3, using: &generator) * 4000
  }

  private mutating func randomWatch() -> WatchRequest {
    let left = model.watches.left.randomElement(using: &generator)
    let prefix = [[], [], Array("a".utf8), Array("zz".utf8)].randomElement(using: &generator)
    var after: EventPosition?
    switch Int.random(in: 0..<8, using: &generator) {
    case 0..<2: after = .start
    case 2..<6: after = left?.position
    case 6:
      after = EventPosition(instance: 1, number: UInt64.random(in: 0..<500, using: &generator))
    default: break
    }
    return WatchRequest(
      prefix: after == left?.position ? left?.prefix ?? [] : prefix ?? [], after: after,
      wantsProgress: chance(1, in: 2))
  }

  private mutating func smallIndex() -> Int {
    [0, 0, 1, 1, 2, 3, -1, Int.max].randomElement(using: &generator) ?? 0
  }

  private mutating func randomCreate() -> CreateRequest {
    var create = CreateRequest(key: randomKey())
    create.replaces = chance(1, in: 3)
    create.order = chance(1, in: 2) ? .any : .appendOnly
    create.mode = chance(1, in: 4) ? 0o644 : 0o600
    if chance(1, in: 30) { create.mode = 0o777 }
    if isShared, chance(1, in: 2) { create.mode = chance(1, in: 2) ? 0o640 : 0o644 }
    if chance(1, in: 5) {
      create.policy = chance(2, in: 3) ? .backpressure : .dropOldest
      if chance(14, in: 15) { create.order = .appendOnly }
      if chance(1, in: 3) {
        create.segment = [4096, 8192, 5000].randomElement(using: &generator) ?? 0
      }
    }
    if chance(1, in: 2) { create.byteCount = randomLength() }
    if chance(1, in: 4) { create.firstExtent = randomLength() }
    if chance(1, in: create.policy == .keep ? 4 : 40) {
      let byteCount = Int.random(in: 0..<16384, using: &generator)
      create.inlineBytes = Array(repeating: 1, count: byteCount)
      create.byteCount = nil
    }
    if spools { randomizeKeeping(&create) }
    return create
  }

  private mutating func randomizeKeeping(_ create: inout CreateRequest) {
    if chance(1, in: 3) {
      create.acknowledgement = Acknowledgement.allCases.randomElement(using: &generator) ?? .durable
    }
    create.isCache = chance(1, in: 3)
  }

  // MARK: The end

  /// Everybody leaves, in any order; then an observer removes what is left, and nothing may remain.
  private mutating func finish() {
    while violation == nil, !clients.isEmpty {
      if chance(1, in: 2) { hangUp() }
      for client in clients.indices where !clients[client].isConnected && chance(1, in: 2) {
        clients[client].isProcessGone = true
        feed(.exited(clients[client].session))
      }
      if chance(1, in: 2) { answerOne(mayRefuse: true) }
      forgetDead()
    }
    while violation == nil, !answers.isEmpty || !told.isEmpty { answerOne(mayRefuse: false) }
    feed(.journalFull(false))
    lastSession += 1
    let last = SessionID(rawValue: lastSession)
    clients = [Client(session: last)]
    feed(.connected(last, Peer(process: 1, uid: 1000, gid: 100)))
    send(0, .hello(Rig.hello()))
    for key in Self.keys { send(0, .remove(RemoveRequest(key: key, generation: nil))) }
    now.monotonicNanoseconds += Self.idle.wholeNanoseconds
    feed(.tick)
    while violation == nil, !answers.isEmpty || !told.isEmpty { answerOne(mayRefuse: false) }
    // What came to the pool by that goes, too.
    now.monotonicNanoseconds += Self.idle.wholeNanoseconds
    feed(.tick)
    feed(.drainBegan)
    guard violation == nil else { return }
    violation = finalViolation
  }

  private var finalViolation: String? {
    if !model.owed.isEmpty { return "requests were never answered: \(model.owed)" }
    if !model.records.isEmpty { return "records remain: \(model.records.keys)" }
    if !model.entries.isEmpty { return "entries remain: \(model.entries)" }
    let left = model.rings.filter { !$0.value.isUnlinked }.keys
    if !left.isEmpty { return "rings remain: \(left)" }
    if ledger.usedByteCount != model.overhead {
      return "\(ledger.usedByteCount - model.overhead) bytes remain charged"
    }
    if scratches.contains(where: { !$0.value.isEmpty }) { return "scratch files remain" }
    if !model.imports.files.isEmpty { return "files are held: \(model.imports.files)" }
    if !model.digests.begun.isEmpty { return "digests go on: \(model.digests.begun)" }
    if !containers.isEmpty { return "containers remain: \(containers.keys)" }
    if !ledger.isBare { return "the ledger remembers what is gone" }
    return ledger.isDrained ? nil : "the ledger does not drain"
  }
}
