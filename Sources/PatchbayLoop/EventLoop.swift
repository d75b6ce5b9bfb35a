// Runs the ledger: one thread waits for sockets, deaths, workers and deadlines, turns each into one
// event, and carries out the actions in their order. Events that arise meanwhile wait in a queue
// until the actions at hand are done. The thread never blocks but in `Poller.wait`; what may take
// long goes to two workers: one makes and removes rings, in the order of the requests, since one may
// need the memory of another; one looks into rings, so that a seal does not wait behind gigabytes
// that are being reserved. A ring that the one removes while the other is about to look is an error
// of that look; what is open already stays readable.
//
// A client can bring nothing here down: what it sends is decoded with checks or refused, its share
// of a turn and its queue are bounded, and an error that concerns it ends its connection only.

import CPatchbaySystem
import Glibc
import Logging
import PatchbayDigest
import PatchbayLedger
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

/// What a worker brings back.
enum WorkResult: Sendable {
  case ring(RingID, Result<RingPlace, PatchbayError>)
  case coverage(InspectionID, Result<Coverage, PatchbayError>)
  case report(SessionID, number: UInt64, ReportKind, [BlobInfo])
  case unlinked(RingID)
  case surveyed(Generation, Result<Set<Int>, PatchbayError>)
  case measured(Generation, Int)
  case copied(CopyID, PatchbayError?)
  case samples([BlobSample])
  case situation(SessionID, number: UInt64, BlobSituation)
  case spilled(Generation, SpillResult)
  case extentPersisted(PersistOrder, next: Int)
  case containerReady(PersistOrder, ReadyContainer)
  case restored(RingID, PatchbayError?)
  case adopted(CopyID, Result<Adoption, PatchbayError>)
  case persisted(Generation, PersistResult)
  case containersRemoved
  case digested(Generation, DigestState, DigestResult)
}

final class EventLoop {
  /// Packets of one connection, and new connections, per turn: nobody keeps the others waiting.
  static let packetsPerTurn = 16
  static let acceptsPerTurn = 64
  /// Packets that are taken of a connection whose process is gone. The largest buffer that a user
  /// may ask for (416 KiB, by the usual limit) holds fewer than 600: each counts some 700 bytes.
  static let lastPacketLimit = 1024
  /// Ended sessions whose process is watched; the ledger does not wait for more of them either.
  static let watchedEndedLimit = 8192
  static let acceptPause = Duration.milliseconds(100)
  /// Imported files have so long to open again.
  static let reopenLimit = Duration.seconds(1)

  let instance: UInt64
  let memoryLimit: Int
  /// Whether other users may connect.
  let isShared: Bool
  let logger: Logger
  let control: LoopControl
  let poller: Poller
  let ground: SocketGround
  let acceptor: Acceptor
  let jobLimit: Int
  let maker: Worker<WorkResult>
  let inspector: Worker<WorkResult>
  /// Nil: nothing leaves memory for the disk.
  let spool: Spool?
  let spooler: Worker<WorkResult>
  /// Waits for the disk's device.
  let keeper: Worker<WorkResult>
  let imports: Imports
  /// What the spool had in it, until the ledger knows.
  private var findings: SpoolFindings?
  /// What the broker before this one has left, until the ledger knows.
  private var prior: PriorBroker?
  /// Sessions that stand in for its clients.
  var standIns: [SessionID] = []
  /// What a killed instance had in shared memory that nobody wants any more.
  private let swept: InstanceSweep
  let hasher: Worker<WorkResult>
  let journalStorage: SharedJournalStorage
  let journal: Journal

  var ledger: Ledger
  var connections: [SessionID: Connection] = [:]
  var endingSessions: Set<SessionID> = []
  var nextSession: UInt64 = 1
  var processes = ProcessWatches()
  var rings: RingStore
  var boards: BoardStore
  /// Digests under way, of blobs that are being written.
  var digests: [Generation: DigestState] = [:]
  var clientTableCount = 0
  let sharedQueueRoom = SharedQueueRoom()
  var refusals: RateLimitedLog
  /// Ended sessions whose process is still watched, the earliest first.
  var watchedEnded: [SessionID] = []
  /// While there is no descriptor to accept with: when to try again.
  var acceptsAgain: MonotonicTime?

  /// Events that wait for the actions at hand.
  private var events: [LedgerEvent] = []
  private var isSettling = false
  /// Why a record of the event at hand could not be written: no reply may promise it then.
  var lostRecord: PatchbayError?
  private var reportedOverhead = -1
  private var reportedJournalFull = false
  private var drainDeadline: MonotonicTime?
  private let idleLimit: Duration?
  /// Since when there has been no client and no open blob; nil while there is one.
  private var idleSince: MonotonicTime?
  private var isTornDown = false
  /// Whether the next broker on this ground is to go on with everything.
  private var handsOver = false

  /// Takes the socket and makes what the instance needs, or takes it over from the broker that was
  /// killed on this ground; nothing runs yet.
  init(_ configuration: LoopConfiguration, _ control: LoopControl) throws(PatchbayError) {
    self.control = control
    logger = configuration.logger
    let listener = configuration.listener.map { Descriptor(owning: $0) }
    try configuration.checkClientMemory()
    isShared = configuration.isShared
    let descriptorLimit = try checked(
      pb_raise_descriptor_limit(), "Raising the limit of open files")
    let lock = try SocketGround.lock(
      configuration.socketPath, isShared: configuration.isShared)
    let finding = try lock.previous.map { (previous) throws(PatchbayError) in
      try PriorBroker.find(previous, configuration.logger)
    }
    var prior: PriorBroker?
    if case .broker(let found) = finding { prior = found }
    let instance = prior?.instance ?? UInt64.random(in: 1...UInt64.max)
    self.instance = instance
    // First, for it may take long: who finds the socket is served.
    var kept = prior?.files ?? KeptFiles()
    if case .unreadable = finding {
      kept.instance = lock.previous
      kept.areUnknown = true
    }
    let opened = try configuration.spool.map { (place) throws(PatchbayError) in
      try Spool.open(place, instance: instance, kept: kept)
    }
    spool = opened?.spool
    var isReady = false
    // Until everything stands nothing of what there was may go.
    defer { if !isReady { prior == nil ? opened?.spool.leave() : opened?.spool.leaveAll() } }
    let firstSession: UInt64 = 1
    try prior?.look(opened?.spool, opened?.findings, firstSession: firstSession)
    findings = opened?.findings.without(prior?.generations ?? [])
    memoryLimit = try configuration.chosenMemoryLimit(found: prior?.ringByteCount ?? 0)
    if let prior {
      swept = prior.sweep()
    } else {
      if case .nothing = finding, let previous = lock.previous {
        swept = InstanceSweep(previous)
      } else {
        swept = InstanceSweep()
      }
      try lock.note(instance)
    }
    ground = try SocketGround(
      configuration.socketPath, lock, keepsTrace: prior != nil,
      isShared: configuration.isShared, given: listener)
    nextSession = firstSession + UInt64(prior?.recovery.clients.count ?? 0)
    idleLimit = configuration.idleLimit
    poller = try Poller()
    acceptor = try Acceptor(listener: ground.listener.rawValue)
    var limits = LedgerLimits(memoryByteCount: memoryLimit)
    limits.handshake = configuration.handshakeLimit
    limits.isShared = configuration.isShared
    if let own = configuration.userMemoryLimit { limits.memoryPerOtherUser = own }
    limits.memoryPerClient = configuration.clientMemoryLimit
    limits.cachedByteCount = configuration.cacheByteLimit
    limits.cachedBlobCount = configuration.cacheBlobLimit
    if let rest = configuration.poolRest { limits.poolRest = rest }
    if let most = configuration.transferLimit { limits.transferLimit = max(1, most) }
    limits.spool = try configuration.spool?.terms(found: opened?.findings.byteCount ?? 0)
    limits.importCount = min(limits.importCount, Int(descriptorLimit) / 4)
    // While one is offered as many others may be held.
    imports = try Imports(limit: limits.importCount + 1)
    jobLimit = limits.jobCount
    let isInline = configuration.runsWorkersInline
    maker = try Worker("the maker of rings", jobLimit: jobLimit, isInline: isInline)
    inspector = try Worker("the inspector of rings", jobLimit: jobLimit, isInline: isInline)
    spooler = try Worker("the writer of the spool", jobLimit: jobLimit, isInline: isInline)
    keeper = try Worker("the keeper of the spool", jobLimit: jobLimit, isInline: isInline)
    hasher = try Worker("the maker of digests", jobLimit: jobLimit, isInline: isInline)
    rings = RingStore(instance: instance)
    boards = BoardStore(instance: instance)
    refusals = RateLimitedLog(logger)
    ledger = Ledger(
      limits: limits, instance: instance, run: UInt64.random(in: 1...UInt64.max),
      brokerProcess: getpid(), brokerUser: geteuid(),
      at: Self.now, tokenSource: SystemRandomNumberGenerator(),
      digest: { DigestState.digest(of: $1, $0) }, cachePolicy: configuration.cachePolicy)
    journalStorage = prior?.storage ?? SharedJournalStorage(instance: instance)
    do throws(PatchbayError) {
      journal =
        if let prior {
          try Journal(continuing: prior.contents, storage: journalStorage)
        } else {
          try Journal(instance: instance, storage: journalStorage)
        }
      try poller.add(ground.listener.rawValue, .listener)
      try poller.add(control.alarm.rawValue, .control)
      try poller.add(maker.finished.rawValue, .maker)
      try poller.add(inspector.finished.rawValue, .inspector)
      try poller.add(spooler.finished.rawValue, .spooler)
      try poller.add(keeper.finished.rawValue, .keeper)
      try poller.add(hasher.finished.rawValue, .hasher)
      for board in prior?.boards ?? [] { try boards.create(board) }
    } catch {
      if prior == nil { journalStorage.unlinkAll() }
      throw error
    }
    self.prior = prior
    isReady = true
  }

  deinit { tearDown() }

  // MARK: Turns

  /// Serves until it is told to stop, or has drained; then clears everything up.
  func run() {
    do throws(PatchbayError) {
      try maker.start()
      try inspector.start()
      try spooler.start()
      try keeper.start()
      try hasher.start()
      if swept.removedCount > 0 {
        logger.info("Removed \(swept.removedCount) objects of a broker that was killed.")
      }
      if let warning = swept.warning { logger.warning("\(warning)") }
      logger.info("Serving on \(ground.path) with \(memoryLimit) bytes of shared memory.")
      reportRoom()
      takeOver()
      takeFindings()
      while !isDone {
        for ready in try poller.wait(until: nextMoment) { handle(ready) }
        endLingering()
        resumeAccepting()
        if let deadline = ledger.nextDeadline,
          deadline <= MonotonicTime.now.nanoseconds
        {
          submit(.tick)
        }
        dropStandIns()
      }
    } catch {
      logger.critical("The broker ends: \(error.message)")
    }
    tearDown()
    logger.info("The broker on \(ground.path) has ended.")
  }

  /// Tells the ledger what there was, and then which processes are gone.
  private func takeOver() {
    guard var found = prior else { return }
    prior = nil
    logger.notice(
      """
      Taking over from a broker that ended without clearing up: \(found.recovery.blobs.count) blobs, \
      \(found.recovery.clients.count) clients.
      """)
    rings.takeOver(found.rings)
    found.note(opened: imports.reopen(found.lostFiles, within: Self.reopenLimit))
    var gone: [SessionID] = []
    for client in found.recovery.clients {
      let outcome = processes.add(
        client.session, client.record.peer, startTime: found.startTimes[client.session] ?? 0,
        poller)
      if outcome == .gone { gone.append(client.session) }
      standIns.append(client.session)
    }
    reportLosses(found.recovery)
    submit(.recovered(found.recovery))
    // From now on what is left behind is this broker's.
    ground.keepsTrace = false
    for session in gone { submit(.exited(session)) }
  }

  /// Some of them: there may be as many as blobs.
  private func reportLosses(_ recovery: Recovery) {
    let lost = recovery.blobs.filter { $0.loss != nil }
    for blob in lost.prefix(8) {
      logger.warning(
        "The blob \(blob.record.request.key) is lost: \(blob.loss?.message ?? "")")
    }
    if lost.count > 8 { logger.warning("So are \(lost.count - 8) other blobs.") }
  }

  /// Watches the processes of clients that were expected no longer than they have to be.
  private func dropStandIns() {
    guard !standIns.isEmpty, !ledger.isReturning else { return }
    for session in standIns where !ledger.isHaunted(by: session) {
      processes.drop(session, poller)
    }
    standIns = []
  }

  private func takeFindings() {
    guard let found = findings else { return }
    findings = nil
    for line in found.warnings { logger.warning("\(line)") }
    if !found.blobs.isEmpty || found.sweptCount > 0 {
      logger.info(
        """
        The spool has \(found.blobs.count) complete blobs; \(found.sweptCount) unfinished files of a \
        broker that was killed are gone.
        """)
    }
    submit(.found(found.blobs, last: found.last))
  }

  private var isDone: Bool {
    let (wish, deadline) = control.wanted
    switch wish {
    case .run: return hasIdledOut
    case .stop: return true
    case .handOver:
      handsOver = true
      return true
    case .drain:
      if drainDeadline == nil {
        logger.info("Draining: no new blobs and readers.")
        submit(.drainBegan)
      }
      drainDeadline = deadline
      return ledger.isDrained || MonotonicTime.now >= deadline
    }
  }

  /// Whether nobody has wanted anything for as long as was asked for. A client that waits to be
  /// accepted is accepted before this is asked.
  private var hasIdledOut: Bool {
    guard let idleLimit else { return false }
    guard ledger.isIdle else {
      idleSince = nil
      return false
    }
    let now = MonotonicTime.now
    let since = idleSince ?? now
    idleSince = since
    guard now >= since.advanced(by: idleLimit) else { return false }
    logger.notice("No client and no open blob for \(idleLimit): the broker ends.")
    return true
  }

  /// When to look again though nothing happens.
  private var nextMoment: MonotonicTime {
    var moment = min(drainDeadline ?? .distantFuture, acceptsAgain ?? .distantFuture)
    if let idleLimit, let idleSince { moment = min(moment, idleSince.advanced(by: idleLimit)) }
    if let deadline = ledger.nextDeadline {
      moment = min(moment, MonotonicTime(nanoseconds: deadline))
    }
    for session in endingSessions {
      if let end = connections[session]?.lingersUntil { moment = min(moment, end) }
    }
    return moment
  }

  private func handle(_ ready: Poller.Ready) {
    switch ready.source {
    case .listener: acceptConnections()
    case .control: control.alarm.lower()
    case .maker: for result in maker.takeResults() { finish(result) }
    case .inspector: for result in inspector.takeResults() { finish(result) }
    case .spooler: for result in spooler.takeResults() { finish(result) }
    case .keeper: for result in keeper.takeResults() { finish(result) }
    case .hasher: for result in hasher.takeResults() { finish(result) }
    case .connection(let number):
      let session = SessionID(rawValue: number)
      if ready.isWritable { flush(session) }
      if ready.isReadable { serve(session) }
    case .process(let number):
      for session in processes.exited(number, poller) { processExited(session) }
    }
  }

  // MARK: Events

  /// Hands an event to the ledger and does what it wants, then the same for what arises from that.
  func submit(_ event: LedgerEvent) {
    events.append(event)
    guard !isSettling else { return }
    isSettling = true
    settle()
    reportRoom()
    settle()
    isSettling = false
  }

  private func settle() {
    var next = 0
    while next < events.count {
      let event = events[next]
      next += 1
      lostRecord = nil
      for action in ledger.handle(event, at: Self.now) { execute(action) }
    }
    events.removeAll(keepingCapacity: true)
    lostRecord = nil
  }

  /// Tells the ledger, when they have changed, how much the loop itself holds and whether the
  /// journal still has room for whatever may come.
  func reportRoom() {
    journal.giveBackChunks()
    let isFull = !journal.ensureReserve()
    if isFull != reportedJournalFull {
      reportedJournalFull = isFull
      if isFull {
        logger.warning("The journal is full and cannot grow; no new blobs until it can.")
      }
      submit(.journalFull(isFull))
    }
    let overhead =
      journal.byteCount + boards.byteCount + clientTableCount * ClientTable.byteCount
    if overhead != reportedOverhead {
      reportedOverhead = overhead
      submit(.overheadChanged(byteCount: overhead))
    }
  }

  private static var now: Moment {
    Moment(monotonicNanoseconds: MonotonicTime.now.nanoseconds, wall: .now)
  }

  // MARK: The end

  /// Leaves nothing behind: no name in shared memory, no socket, no thread, no lock. One that hands over
  /// leaves to the next broker what one that is killed leaves.
  func tearDown() {
    guard !isTornDown else { return }
    isTornDown = true
    if !handsOver { sayFarewell() }
    for connection in connections.values {
      _ = connection.flush(atMost: .max, opener(connection))
      poller.remove(connection.rawDescriptor)
    }
    connections = [:]
    inspector.stop()
    spooler.stop()
    keeper.stop()
    hasher.stop()
    maker.stop()
    for case .ring(let ring, let result) in maker.takeResults() { rings.settle(ring, result) }
    // One that has not told the ledger yet what there was has nothing of its own to remove.
    ground.keepsTrace = handsOver || prior != nil
    if ground.keepsTrace {
      rings.leaveAll()
      spool?.leaveAll()
    } else {
      rings.unlinkAll()
      journalStorage.unlinkAll()
      spool?.leave()
    }
    imports.leave()
    ground.leave()
  }

  /// Tells everybody that the end is one: who is told nothing waits for another broker.
  private func sayFarewell() {
    let end = PatchbayError(
      .noBroker, "The broker on \(ground.path) has ended, and all it held in memory with it.")
    for connection in connections.values.sorted(by: { $0.session < $1.session }) {
      send(.failure(end), to: connection, number: 0)
    }
  }
}
