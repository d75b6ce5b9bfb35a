// Grace: a stale blob is served on while one makes its successor; who may, when the key changes hands, and
// what remains when it comes to nothing.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct SuccessionTests {
  private static let minute = Duration.seconds(60)

  private static func terms(_ adjust: (inout CreateTerms) -> Void = { _ in }) -> CreateTerms {
    var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: false)
    terms.lifetime.timeToLive = minute
    terms.lifetime.grace = minute
    adjust(&terms)
    return terms
  }

  private static func request(
    _ adjust: (inout CreateRequest) -> Void = { _ in }
  ) -> CreateRequest {
    var create = CreateRequest(key: "k")
    create.byteCount = 10_000
    adjust(&create)
    return create
  }

  private static let ask = Request.openOrCreate(
    OpenOrCreateRequest(create: request(), terms: terms(), standsBy: true))

  private static func succeed(
    _ stale: Generation, _ adjust: (inout CreateTerms) -> Void = { _ in }
  ) -> Request {
    .createWith(
      request(),
      terms {
        $0.succeeds = stale
        adjust(&$0)
      })
  }

  /// A blob that has just become stale, and who produces.
  private struct Scene {
    var rig: Rig
    let session: SessionID
    let stale: Generation

    init(_ rig: Rig = Rig(), adjust: (inout CreateRequest) -> Void = { _ in }) throws {
      self.rig = rig
      session = self.rig.connect(process: 1)
      let asked = Request.openOrCreate(
        OpenOrCreateRequest(create: request(adjust), terms: terms(), standsBy: true))
      let grant = try need(self.rig.ask(session, asked)?.grant)
      stale = grant.blob.generation
      try #require(
        self.rig.ask(session, .seal(SealRequest(blob: grant.blob, byteCount: 10_000))) == .done)
      self.rig.close(session, grant.reader)
      self.rig.pass(minute)
      self.rig.send(.tick)
    }

    mutating func begin(
      _ adjust: (inout CreateTerms) -> Void = { _ in }
    ) throws -> BlobGrant {
      guard case .created(let grant) = rig.ask(session, succeed(stale, adjust)) else {
        throw Missing()
      }
      return grant
    }
    struct Missing: Error {}

    mutating func seal(_ grant: BlobGrant) -> Reply? {
      rig.ask(session, .seal(SealRequest(blob: grant.blob, byteCount: 10_000)))
    }
    mutating func opened() -> BlobGrant? { rig.ask(session, ask)?.grant }
  }

  // MARK: Stale

  @Test func `a stale blob is served for its grace, to the nanosecond`() throws {
    var scene = try Scene()
    let reader = scene.rig.connect()
    scene.rig.pass(Self.minute - Rig.instant)
    #expect(scene.rig.open(reader, "k")?.grant?.blob.generation == scene.stale)
    scene.rig.pass(Rig.instant)
    #expect(scene.rig.open(reader, "k")?.code == .noSuchKey)
    guard case .created = scene.rig.ask(scene.session, Self.ask) else {
      Issue.record("after the grace it is produced as any that is missing")
      return
    }
  }

  @Test func `who asks for it is told that it is stale, from the moment at which it is`() throws {
    var scene = try Scene()
    #expect(try need(scene.opened()).isStale)
    #expect(scene.rig.open(scene.session, "k")?.grant?.isStale == false, "a reader makes none")
    var young = try Scene()
    young.rig.now.monotonicNanoseconds -= 1
    #expect(try need(young.opened()).isStale == false)
    #expect(
      young.rig.ask(young.session, Self.succeed(young.stale))?.code == .keyExists,
      "and before that nobody makes another")
  }

  @Test func `an open in its grace does not make it young again`() throws {
    var rig = Rig()
    let session = rig.connect()
    _ = try rig.mortal(session, "k") {
      $0.idleExpiry = Self.minute
      $0.grace = Self.minute
    }
    rig.pass(Self.minute)
    #expect(rig.open(session, "k")?.grant != nil)
    rig.pass(Self.minute)
    #expect(rig.open(session, "k")?.code == .noSuchKey)
  }

  // MARK: One successor

  @Test func `one makes the successor, all others and its own reader get the stale one`() throws {
    var scene = try Scene()
    let others = (0..<20).map { scene.rig.connect(process: 10 + $0) }
    let grants = others.compactMap { scene.rig.ask($0, Self.ask)?.grant }
    #expect(grants.count == 20 && grants.allSatisfy { $0.isStale && $0.state == .sealed })
    let replies = others.map { scene.rig.ask($0, Self.succeed(scene.stale)) }
    #expect(replies.count { if case .created = $0 { true } else { false } } == 1)
    #expect(replies.count { $0?.code == .keyExists } == 19)
    #expect(try need(scene.opened()).isStale == false, "nobody else need try")
    #expect(scene.opened()?.blob.generation == scene.stale)
  }

  @Test func `nobody sees a successor before its seal, which takes the key in one moment`() throws {
    var scene = try Scene()
    scene.rig.watchAll(scene.session)
    let reader = scene.rig.connect()
    let old = try need(scene.rig.open(reader, "k")?.grant)
    let place = scene.rig.trace.count
    let next = try scene.begin()
    #expect(scene.rig.info(reader, "k")?.generation == scene.stale)
    #expect(scene.rig.list(reader)?.keys == ["k"])
    #expect(scene.rig.toldChanges(of: "k", from: place) == [])
    #expect(scene.seal(next) == .done)
    #expect(scene.rig.info(reader, "k")?.generation == next.blob.generation)
    #expect(scene.rig.toldChanges(of: "k", from: place) == [.removed, .sealed])
    #expect(scene.opened()?.isStale == false)
    #expect(
      scene.rig.ask(reader, .attachExtent(ExtentRequest(generation: scene.stale, index: 0)))?
        .extent != nil, "who reads the old one finishes")
    scene.rig.close(reader, old.blob)
    #expect(scene.rig.ledger.blobs[scene.stale] == nil)
    // At no place of the journal two blobs have the key.
    var named: Set<Generation> = []
    for action in scene.rig.trace {
      if case .recordBlob(let record) = action {
        if record.isNamed {
          named.insert(record.info.generation)
        } else {
          named.remove(record.info.generation)
        }
      }
      if case .eraseBlob(let generation) = action { named.remove(generation) }
      #expect(named.count <= 1)
    }
  }

  @Test func `asked again by the same request it is the same successor`() throws {
    var scene = try Scene()
    let number = scene.rig.post(scene.session, Self.succeed(scene.stale))
    let first = scene.rig.reply(scene.session, number)
    let place = scene.rig.trace.count
    scene.rig.send(.request(scene.session, number: number, Self.succeed(scene.stale)))
    let again = scene.rig.trace[place...].contains {
      if case .reply(scene.session, number, let reply, _) = $0 { reply == first } else { false }
    }
    #expect(again)
    #expect(scene.rig.ledger.successors.count == 1)
  }

  @Test func `who may not take the key away makes no successor`() throws {
    var scene = try Scene(Rig { $0.isShared = true }) { $0.mode = 0o644 }
    let other = scene.rig.connect(process: 5, uid: 2000, gid: 2000)
    let grant = try need(scene.rig.ask(other, Self.ask)?.grant)
    #expect(grant.blob.generation == scene.stale && !grant.isStale)
    #expect(scene.rig.ask(other, Self.succeed(scene.stale))?.error != nil)
  }

  // MARK: Coming to nothing

  @Test func `a successor that fails goes quietly, and another one may come after a rest`() throws {
    for adjust: (inout CreateTerms) -> Void in [
      { _ in }, { $0.production.failureLifetime = .seconds(7) },
    ] {
      var terms = Self.terms()
      adjust(&terms)
      let rest = terms.production.failureLifetime ?? .seconds(1)
      var scene = try Scene()
      scene.rig.watchAll(scene.session)
      let place = scene.rig.trace.count
      let next = try scene.begin(adjust)
      scene.rig.ask(scene.session, .fail(FailRequest(blob: next.blob, cause: "no")))
      scene.rig.ask(scene.session, .quiesced(next.blob))
      #expect(scene.rig.toldChanges(of: "k", from: place) == [])
      #expect(scene.rig.ledger.blobs[next.blob.generation] == nil)
      scene.rig.pass(rest - Rig.instant)
      let waiting = try need(scene.opened())
      #expect(waiting.blob.generation == scene.stale && !waiting.isStale)
      #expect(scene.rig.ask(scene.session, Self.succeed(scene.stale))?.code == .keyExists)
      scene.rig.pass(Rig.instant)
      #expect(try need(scene.opened()).isStale)
      _ = try scene.begin()
    }
  }

  @Test func `a successor whose publisher dies goes quietly`() throws {
    var scene = try Scene()
    let other = scene.rig.connect(process: 9)
    let next = try need(scene.rig.ask(other, Self.succeed(scene.stale))?.grant)
    scene.rig.send(.hungUp(other))
    scene.rig.send(.exited(other))
    #expect(scene.rig.ledger.blobs[next.blob.generation] == nil)
    scene.rig.pass(.seconds(1))
    #expect(try need(scene.opened()).isStale)
  }

  @Test func `a successor that never came into being is as one that failed`() throws {
    var scene = try Scene()
    scene.rig.holdsRings = true
    let number = scene.rig.post(scene.session, Self.succeed(scene.stale))
    #expect(scene.rig.ledger.successors.count == 1)
    for case .createRing(let ring, _, _, _, _) in scene.rig.trace.suffix(3) {
      scene.rig.send(.ringRefused(ring, errno: 28))
    }
    #expect(scene.rig.reply(scene.session, number)?.code == .noSpaceMemory)
    #expect(scene.rig.ledger.successors.isEmpty)
    #expect(scene.rig.info(scene.session, "k")?.generation == scene.stale)
  }

  // MARK: The stale one goes first

  @Test
  func `when its grace ends first the successor has the key, and is read while it is written`()
    throws
  {
    var scene = try Scene()
    let next = try scene.begin()
    scene.rig.watchAll(scene.session)
    scene.rig.pass(Self.minute)
    let reader = scene.rig.connect()
    guard case .opened(let grant) = scene.rig.ask(reader, Self.ask) else {
      Issue.record("nothing was opened")
      return
    }
    #expect(grant.blob.generation == next.blob.generation && grant.state == .open)
    #expect(scene.seal(next) == .done)
    #expect(scene.rig.info(reader, "k")?.generation == next.blob.generation)
  }

  @Test(arguments: [false, true])
  func `a key that is taken away, or given to another blob, ends the succession`(
    replaces: Bool
  ) throws {
    var scene = try Scene()
    let next = try scene.begin()
    if replaces {
      #expect(scene.rig.create(scene.session, "k") { $0.replaces = true } != nil)
    } else {
      scene.rig.ask(scene.session, .remove(RemoveRequest(key: "k", generation: nil)))
    }
    #expect(scene.seal(next)?.code == .closed, "nothing of it is left")
    #expect(scene.rig.info(scene.session, "k")?.generation != next.blob.generation)
    #expect((scene.rig.info(scene.session, "k") != nil) == replaces)
  }

  // MARK: Fetched on demand

  private static let piece = 4096

  private static func fetched(_ terms: inout CreateTerms) {
    terms.demand = DemandTerms(pieceByteCount: piece, readAhead: 0, fills: false)
  }

  private static func piece(_ index: Int) -> Range<Int> {
    index * piece..<min((index + 1) * piece, 10_000)
  }

  @Test func `all of a successor that is fetched on demand is fetched, though nobody reads it`()
    throws
  {
    var scene = try Scene()
    let next = try scene.begin(Self.fetched)
    for index in 0..<3 {
      let range = Self.piece(index)
      #expect(scene.rig.ask(scene.session, .nextDemand(next.blob)) == .demanded(range))
      scene.rig.ask(scene.session, .settle(range, of: next))
    }
    #expect(scene.rig.ask(scene.session, .nextDemand(next.blob)) == .done)
    #expect(scene.seal(next) == .done)
    #expect(scene.rig.info(scene.session, "k")?.generation == next.blob.generation)
  }

  @Test func `from the moment at which it has the key only what is wanted of it is fetched`() throws
  {
    var scene = try Scene()
    let next = try scene.begin(Self.fetched)
    #expect(scene.rig.ask(scene.session, .nextDemand(next.blob)) == .demanded(Self.piece(0)))
    scene.rig.pass(Self.minute)
    let reader = scene.rig.connect()
    let grant = try need(scene.rig.open(reader, "k")?.grant)
    #expect(grant.blob.generation == next.blob.generation)
    scene.rig.ask(scene.session, .settle(Self.piece(0), of: next))
    let idle = scene.rig.post(scene.session, .nextDemand(next.blob))
    #expect(scene.rig.reply(scene.session, idle) == nil)
    scene.rig.post(
      reader,
      .demand(DemandRequest(generation: next.blob.generation, range: Self.piece(2))))
    #expect(scene.rig.reply(scene.session, idle) == .demanded(Self.piece(2)))
    // Nor does one that cannot be fetched end it any more.
    scene.rig.ask(scene.session, .settle(Self.piece(2), of: next, .failed("no")))
    #expect(scene.rig.info(reader, "k")?.state == .open)
  }

  @Test func `a successor of which a piece cannot be fetched is one that failed`() throws {
    var scene = try Scene(Rig { $0.transferLimit = 2 })
    let next = try scene.begin(Self.fetched)
    for index in 0..<2 {
      #expect(scene.rig.ask(scene.session, .nextDemand(next.blob)) == .demanded(Self.piece(index)))
    }
    let idle = scene.rig.post(scene.session, .nextDemand(next.blob))
    // Of a piece that it was not given nothing is believed.
    #expect(scene.rig.ask(scene.session, .settle(Self.piece(2), of: next, .failed("no"))) == .done)
    #expect(scene.rig.ledger.blobs[next.blob.generation]?.state == .open)
    #expect(scene.rig.ask(scene.session, .settle(Self.piece(1), of: next, .failed("no"))) == .done)
    #expect(scene.rig.reply(scene.session, idle) == .done, "there is nothing more to do")
    let failed = try need(scene.rig.ledger.blobs[next.blob.generation])
    #expect(failed.state == .failed && failed.causeCode == .blobFailed)
    #expect(failed.cause == "bytes 4096..<8192 could not be fetched: no")
    #expect(scene.rig.ledger.transferCount == 0)
    scene.rig.ask(scene.session, .quiesced(next.blob))
    #expect(scene.rig.ledger.blobs[next.blob.generation] == nil)
    #expect(try need(scene.opened()).isStale == false, "it rests")
    scene.rig.pass(.seconds(1))
    #expect(try need(scene.opened()).isStale)
  }

  // MARK: Another broker

  @Test func `the next broker goes on with both, and the publisher completes the successor`() throws
  {
    var scene = try Scene()
    let number = scene.rig.post(scene.session, Self.succeed(scene.stale))
    let next = try need(scene.rig.reply(scene.session, number)?.grant)
    var broker = scene.rig.killed()
    let session = try broker.comeBack(scene.session, from: scene.rig, process: 1)
    #expect(broker.ask(session, ReattachRequest.publisher(next, number)) == .done)
    #expect(broker.ask(session, .reattached) == .done)
    #expect(broker.info(session, "k")?.generation == scene.stale)
    #expect(broker.ask(session, Self.succeed(scene.stale))?.code == .keyExists)
    #expect(broker.ask(session, .seal(SealRequest(blob: next.blob, byteCount: 10_000))) == .done)
    #expect(broker.info(session, "k")?.generation == next.blob.generation)
  }

  @Test func `the next broker gives the key to a successor whose stale blob's grace is over`()
    throws
  {
    var scene = try Scene()
    let number = scene.rig.post(scene.session, Self.succeed(scene.stale))
    let next = try need(scene.rig.reply(scene.session, number)?.grant)
    scene.rig.pass(Self.minute)
    var broker = scene.rig.killed()
    let session = try broker.comeBack(scene.session, from: scene.rig, process: 1)
    #expect(broker.ask(session, ReattachRequest.publisher(next, number)) == .done)
    #expect(broker.ask(session, .reattached) == .done)
    #expect(broker.info(session, "k")?.generation == next.blob.generation)
    #expect(broker.info(session, "k")?.state == .open)
  }

  /// What was there already is handed out, too: nobody but its publisher knows of it.
  @Test func `the next broker has all of a successor fetched that is fetched on demand`() throws {
    var scene = try Scene()
    let number = scene.rig.post(scene.session, Self.succeed(scene.stale, Self.fetched))
    let next = try need(scene.rig.reply(scene.session, number)?.grant)
    #expect(scene.rig.ask(scene.session, .nextDemand(next.blob)) == .demanded(Self.piece(0)))
    scene.rig.ask(scene.session, .settle(Self.piece(0), of: next))
    #expect(scene.rig.ask(scene.session, .nextDemand(next.blob)) == .demanded(Self.piece(1)))
    var broker = scene.rig.killed()
    let session = try broker.comeBack(scene.session, from: scene.rig, process: 1)
    #expect(broker.ask(session, ReattachRequest.publisher(next, number)) == .done)
    #expect(broker.ask(session, .reattached) == .done)
    // Of what the broker before had handed out a failure ends nothing: it is tried again.
    broker.ask(session, .settle(Self.piece(1), of: next, .failed("no")))
    for index in 0..<3 {
      #expect(broker.ask(session, .nextDemand(next.blob)) == .demanded(Self.piece(index)))
      broker.ask(session, .settle(Self.piece(index), of: next))
    }
    #expect(broker.ask(session, .nextDemand(next.blob)) == .done)
    #expect(broker.ask(session, .seal(SealRequest(blob: next.blob, byteCount: 10_000))) == .done)
    #expect(broker.info(session, "k")?.generation == next.blob.generation)
    #expect(broker.ledger.transferCount == 0)
  }

  @Test func `a successor whose publisher does not come back leaves the stale one alone`() throws {
    var scene = try Scene()
    let next = try scene.begin()
    var broker = scene.rig.killed(dead: [1])
    let session = broker.connect(process: 2)
    #expect(broker.info(session, "k")?.generation == scene.stale)
    #expect(broker.ledger.blobs[next.blob.generation] == nil)
    #expect(broker.ledger.successors.isEmpty)
  }
}
