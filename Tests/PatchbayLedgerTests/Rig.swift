// A ledger on the bench: a clock that stands still unless it is moved, rings and boards that come at
// once unless they are held back, inspections that find everything covered unless told otherwise.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

/// A small generator with a seed, for tokens and for random tests.
struct SeededGenerator: RandomNumberGenerator, Sendable {
  private var state: UInt64
  init(seed: UInt64) { state = seed }

  /// Sebastiano Vigna's splitmix64.
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
    return mixed ^ (mixed >> 31)
  }
}

/// The same for the same bytes, and another for others, mostly.
@Sendable func simulatedDigest(
  _ algorithm: ContentDigest.Algorithm, _ bytes: [UInt8]
) -> ContentDigest {
  var generator = SeededGenerator(seed: bytes.reduce(7) { $0 &* 31 &+ UInt64($1) })
  let value = (0..<algorithm.byteCount).map { _ in UInt8.random(in: 0...255, using: &generator) }
  guard let digest = try? ContentDigest(algorithm, value) else {
    preconditionFailure("\(value.count) bytes are none of \(algorithm).")
  }
  return digest
}

struct Rig {
  static let user: UInt32 = 1000
  static let page = ExtentPlan.page
  static let scratchByteCount = 12288

  var ledger: Ledger
  var now = Moment(monotonicNanoseconds: 1_000_000_000, wall: WallTime(rawValue: 5_000_000_000))
  /// Everything decided so far.
  var trace: [LedgerAction] = []
  var holdsRings = false
  var holdsBoards = false
  var holdsInspections = false
  var holdsCopies = false
  var holdsSpills = false
  var holdsRestores = false
  var holdsMeasures = false
  /// What is found covered of a blob that is being produced.
  var coveredByteCount = 0
  /// Why a scratch file cannot be read back.
  var restoreError: PatchbayError?
  /// Extents that are covered partly, and not at all.
  var partial: Set<Int> = []
  var untouched: Set<Int> = []
  /// Scratch files, by generation and extent.
  private(set) var scratches: [Generation: Set<Int>] = [:]
  var holdsPersists = false
  var holdsDigests = false
  /// What a worker finds in any blob; nil: what `simulatedDigest` says of no bytes.
  var digest: DigestResult?
  /// What disks do: takes an extent, or says why not.
  var spillResult: SpillResult?
  var persistResult: PersistResult?
  /// Rings that somebody has in view.
  var viewed: Set<RingID> = []
  /// Bytes of disk by blob.
  private(set) var containers: [Generation: Int] = [:]
  /// Nil: everything asked about is covered.
  var coverage: Coverage?
  private var lastSession: UInt64 = 0
  private var lastNumber: UInt64 = 0

  init(
    memory: Int = 64 << 20, adjust: (inout LedgerLimits) -> Void = { _ in },
    cachePolicy: CachePolicy? = nil
  ) {
    var limits = LedgerLimits(memoryByteCount: memory)
    limits.entriesPerBoard = 8
    adjust(&limits)
    ledger = Ledger(
      limits: limits, instance: 7, run: 7, brokerProcess: 42, brokerUser: Rig.user, at: now,
      tokenSource: SeededGenerator(seed: 1), digest: simulatedDigest,
      cachePolicy: cachePolicy)
  }

  /// Handles an event and all that follows from it at once.
  @discardableResult
  mutating func send(_ event: LedgerEvent) -> [LedgerAction] {
    var decided = ledger.handle(event, at: now)
    var next = 0
    while next < decided.count {
      if let answer = answer(to: decided[next]) { decided += ledger.handle(answer, at: now) }
      next += 1
    }
    trace += decided
    return decided
  }

  private mutating func spill(_ order: SpillOrder) -> SpillResult {
    if let spillResult { return spillResult }
    if order.mayLeavePartly, untouched.contains(order.extent.index) { return .empty }
    if order.mayLeavePartly, order.goesToScratch || partial.contains(order.extent.index) {
      scratches[order.generation, default: []].insert(order.extent.index)
      return .partial(
        ScratchStanding(fileByteCount: Rig.scratchByteCount, coveredByteCount: 100, frontier: 0))
    }
    containers[order.generation, default: 0] += order.range.count
    return .done(containerByteCount: containers[order.generation] ?? 0)
  }

  private mutating func adopt(_ order: AdoptOrder) -> Result<Adoption, PatchbayError> {
    containers[order.target] = containers[order.source] ?? 0
    scratches[order.target] = scratches[order.source] ?? []
    var adoption = Adoption(containerByteCount: 0, whole: [], scratch: [:])
    for ring in order.rings {
      switch spill(ring) {
      case .done: adoption.whole.append(ring.extent.index)
      case .partial(let standing): adoption.scratch[ring.extent.index] = standing
      case .failed(let error, _): return .failure(error)
      case .empty, .incomplete: break
      }
    }
    adoption.containerByteCount = containers[order.target] ?? 0
    return .success(adoption)
  }

  private mutating func persist(_ order: PersistOrder) -> PersistResult {
    let generation = order.blob.generation
    if let persistResult { return persistResult }
    containers[generation, default: 0] += order.extents.reduce(0) {
      $0 + order.range(of: $1).count
    }
    return .done(containerByteCount: containers[generation] ?? 0)
  }

  /// A worker that finds everything covered.
  private func digest(_ order: DigestOrder) -> DigestResult {
    if let digest { return digest }
    guard let end = order.end else {
      let last =
        (order.extents.map(\.index) + order.spooled + order.scratch.map(\.index)).max() ?? 0
      let end = order.plan.range(of: last).upperBound
      return .reached(min(end, order.byteCount ?? end), hasMore: false)
    }
    return .found(simulatedDigest(order.algorithm, []), byteCount: end)
  }

  private mutating func forget(_ generation: Generation) -> LedgerEvent? {
    containers[generation] = nil
    scratches[generation] = nil
    return nil
  }

  private mutating func dropScratch(_ generation: Generation, _ index: Int) -> LedgerEvent? {
    scratches[generation]?.remove(index)
    return nil
  }

  private mutating func answer(to action: LedgerAction) -> LedgerEvent? {
    switch action {
    case .createRing(let ring, _, _, _, _) where !holdsRings,
      .reuseRing(let ring, _, _) where !holdsRings:
      .ringCreated(ring, inode: ring.rawValue)
    case .createBoard(let board, _) where !holdsBoards: .boardCreated(board)
    case .inspect(let inspection, _, _, _, _, let byteCount) where !holdsInspections:
      .inspected(
        inspection,
        .success(coverage ?? Coverage(coveredByteCount: byteCount, missing: [])))
    case .copy(let copy, _) where !holdsCopies, .refit(let copy, _) where !holdsCopies:
      .copied(copy, nil)
    case .survey(let generation, let extents, _, _):
      .surveyed(generation, .success(Set(extents.map(\.index)).subtracting(partial)))
    case .measure(let report) where !holdsMeasures:
      .measured(report.info.generation, coveredByteCount: coveredByteCount)
    case .spill(let order) where !holdsSpills:
      .spilled(order.generation, spill(order))
    case .persist(let order) where !holdsPersists:
      .persisted(order.blob.generation, persist(order))
    case .digest(let order) where !holdsDigests: .digested(order.generation, digest(order))
    case .retractRing(let ring, _): .retracted(ring, isViewed: viewed.contains(ring))
    case .restore(let order) where !holdsRestores: .restored(order.ring, restoreError)
    case .adopt(let order) where !holdsCopies: .adopted(order.copy, adopt(order))
    case .dropScratch(let generation, let index): dropScratch(generation, index)
    case .removeContainer(let generation): forget(generation)
    default: nil
    }
  }

  mutating func pass(_ duration: Duration) {
    now.monotonicNanoseconds += duration.wholeNanoseconds
    now.wall = WallTime(rawValue: now.wall.rawValue + duration.wholeNanoseconds)
  }

  /// Connects without a greeting.
  mutating func connectOnly(
    process: Int32 = 100, uid: UInt32 = Rig.user, gid: UInt32 = 100, groups: [UInt32] = []
  ) -> SessionID {
    lastSession += 1
    let session = SessionID(rawValue: lastSession)
    send(.connected(session, Peer(process: process, uid: uid, gid: gid, groups: groups)))
    return session
  }

  mutating func connect(
    process: Int32 = 100, uid: UInt32 = Rig.user, gid: UInt32 = 100, groups: [UInt32] = [],
    name: String = "test"
  ) -> SessionID {
    let session = connectOnly(process: process, uid: uid, gid: gid, groups: groups)
    post(session, .hello(Rig.hello(name: name)))
    return session
  }

  static func hello(token: Token = .none, name: String = "test") -> Hello {
    Hello(
      oldestVersion: Frame.protocolVersion, newestVersion: Frame.protocolVersion, token: token,
      name: name)
  }

  /// Sends a request and returns its number.
  @discardableResult
  mutating func post(_ session: SessionID, _ request: Request) -> UInt64 {
    lastNumber += 1
    send(.request(session, number: lastNumber, request))
    return lastNumber
  }

  /// Sends a request and returns its reply, nil while there is none.
  @discardableResult
  mutating func ask(_ session: SessionID, _ request: Request) -> Reply? {
    let number = post(session, request)
    return reply(session, number)
  }

  /// As a publisher goes that has nothing in flight.
  @discardableResult
  mutating func abandon(_ session: SessionID, _ blob: BlobReference) -> Reply? {
    ask(session, .quiesced(blob))
    return ask(session, .abandon(blob))
  }

  var pooledByteCount: Int { ledger.pool.byteCount }

  /// Rings that serve no blob any more.
  var freed: [RingID] { trace.unlinked + ledger.pool.resting.keys.sorted() }

  /// Records that were written from a place of the trace on.
  func records(from place: Int) -> [BlobRecord] { SimulatedJournal.records(Array(trace[place...])) }

  func reply(_ session: SessionID, _ number: UInt64) -> Reply? {
    for case .reply(session, number, let reply, _) in trace { return reply }
    return nil
  }

  func descriptors(_ session: SessionID, _ number: UInt64) -> [DescriptorSource] {
    for case .reply(session, number, _, let descriptors) in trace { return descriptors }
    return []
  }

  /// Creates a blob and returns what its publisher was granted.
  mutating func create(
    _ session: SessionID, _ key: BlobKey, _ adjust: (inout CreateRequest) -> Void = { _ in }
  ) -> BlobGrant? {
    var request = CreateRequest(key: key)
    adjust(&request)
    return ask(session, .create(request))?.grant
  }

  mutating func createError(
    _ session: SessionID, _ key: BlobKey, _ adjust: (inout CreateRequest) -> Void = { _ in }
  ) -> PatchbayError.Code? {
    var request = CreateRequest(key: key)
    adjust(&request)
    return ask(session, .create(request))?.code
  }

  /// As `create`, with terms; a suspended blob unless told otherwise.
  mutating func create(
    _ session: SessionID, _ key: BlobKey, as ownership: Ownership, idle: Duration? = nil,
    resumes: Bool = false, digest: DigestWish? = nil,
    _ adjust: (inout CreateRequest) -> Void = { _ in }
  ) -> Reply? {
    var request = CreateRequest(key: key)
    adjust(&request)
    let terms = CreateTerms(ownership: ownership, idleLimit: idle, resumes: resumes, digest: digest)
    return ask(session, .createWith(request, terms))
  }

  mutating func join(_ session: SessionID, _ key: BlobKey) -> Reply? {
    ask(session, .join(JoinRequest(key: key, generation: nil)))
  }

  mutating func claim(
    _ session: SessionID, _ grant: BlobGrant, _ range: Range<Int>
  ) -> Reply? {
    ask(session, .claim(ClaimRequest(blob: grant.blob, range: range)))
  }

  /// Creates and seals a blob of one extent.
  mutating func sealed(_ session: SessionID, _ key: BlobKey, byteCount: Int) -> BlobGrant? {
    guard let grant = create(session, key, { $0.byteCount = byteCount }) else { return nil }
    guard ask(session, .seal(SealRequest(blob: grant.blob, byteCount: byteCount))) == .done else {
      return nil
    }
    return grant
  }

  mutating func open(
    _ session: SessionID, _ key: BlobKey, waits: Bool = false, observes: Bool = false
  ) -> Reply? {
    ask(session, .open(OpenRequest(key: key, waits: waits, observes: observes)))
  }

  /// Closes the reader that was opened last.
  @discardableResult
  mutating func close(_ session: SessionID, _ blob: BlobReference) -> Reply? {
    let opened = ledger.sessions[session]?.handles[blob.generation]?.readers.last
    return ask(session, .close(CloseRequest(blob: blob, opened: opened ?? 0)))
  }

  @discardableResult
  mutating func closeObserver(_ session: SessionID, _ blob: BlobReference) -> Reply? {
    let opened = ledger.sessions[session]?.handles[blob.generation]?.observers.last
    return ask(session, .close(CloseRequest(blob: blob, opened: opened ?? 0)))
  }

  mutating func info(_ session: SessionID, _ key: BlobKey) -> BlobInfo? {
    let before = trace.count
    post(session, .info(InfoRequest(key: key)))
    for case .report(_, _, .info, let reports) in trace[before...] { return reports.first?.info }
    return nil
  }

  mutating func list(
    _ session: SessionID, prefix: String = "", after: String = "", limit: Int = 512
  ) -> (keys: [String], hasMore: Bool)? {
    let before = trace.count
    post(
      session,
      .list(ListRequest(prefix: Array(prefix.utf8), after: Array(after.utf8), limit: limit)))
    for case .report(_, _, .list(let hasMore), let reports) in trace[before...] {
      return (reports.map { $0.info.key.description }, hasMore)
    }
    return nil
  }

  mutating func statistics(_ session: SessionID) -> BrokerStatistics? {
    let before = trace.count
    post(session, .statistics)
    for case .reportStatistics(_, _, let statistics) in trace[before...] { return statistics }
    return nil
  }
}

/// As `#require`, whose macro cannot hold a call that changes the rig.
func need<Value>(_ value: Value?, _ location: SourceLocation = #_sourceLocation) throws -> Value {
  try #require(value, sourceLocation: location)
}

extension Request {
  /// What a source says of a piece that it was to fetch.
  static func settle(
    _ range: Range<Int>, of grant: BlobGrant,
    _ outcome: SettleDemandRequest.Outcome = .fetched
  ) -> Request {
    .settleDemand(SettleDemandRequest(blob: grant.blob, range: range, outcome: outcome))
  }
}

extension Reply {
  var grant: BlobGrant? {
    switch self {
    case .created(let grant), .opened(let grant), .joined(let grant): grant
    default: nil
    }
  }

  var extent: ExtentGrant? {
    if case .extent(let extent) = self { extent } else { nil }
  }

  var error: PatchbayError? {
    if case .failure(let error) = self { error } else { nil }
  }

  var code: PatchbayError.Code? { error?.code }

  var claim: ClaimGrant? {
    if case .claimed(let claim) = self { claim } else { nil }
  }
}

extension [LedgerAction] {
  /// Where the first action that fits stands.
  func place(_ fits: (LedgerAction) -> Bool) -> Int? { firstIndex(where: fits) }

  var unlinked: [RingID] {
    compactMap { action in
      switch action {
      case .unlinkRing(let ring), .discardRing(let ring): ring
      default: nil
      }
    }
  }

  var reused: [RingID] {
    compactMap { if case .reuseRing(let ring, _, _) = $0 { ring } else { nil } }
  }

  var posts: [BoardPost] {
    compactMap { if case .post(_, let post) = $0 { post } else { nil } }
  }
}
