// Productions and fetches on demand whose broker dies: who goes on, what is handed out again, and what
// must not be mistaken for an end.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct ProductionRecoveryTests {
  private static let piece = 4096

  private static func request(isOnDemand: Bool = false) -> Request {
    var create = CreateRequest(key: "k")
    create.byteCount = 3 * piece
    var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: true)
    if isOnDemand {
      terms.demand = DemandTerms(pieceByteCount: piece, readAhead: 0, fills: false)
    }
    return .openOrCreate(OpenOrCreateRequest(create: create, terms: terms, standsBy: true))
  }

  /// A producer of process 1, and those that stand by, of processes 10 and up.
  private struct Scene {
    var rig = Rig()
    let producer: SessionID
    let created: UInt64
    let blob: BlobGrant
    var others: [(session: SessionID, opened: UInt64, waiting: UInt64)] = []

    init(others count: Int = 2, isOnDemand: Bool = false) throws {
      let request = request(isOnDemand: isOnDemand)
      producer = rig.connect(process: 1)
      created = rig.post(producer, request)
      blob = try need(rig.reply(producer, created)?.grant)
      for index in 0..<count {
        let session = rig.connect(process: 10 + Int32(index))
        let opened = rig.post(session, request)
        let waiting = rig.post(session, standBy(opened))
        others.append((session, opened, waiting))
      }
    }

    var generation: Generation { blob.blob.generation }
    func standBy(_ opened: UInt64) -> Request {
      .standBy(StandByRequest(generation: generation, opened: opened))
    }

    /// One of the others comes back with its reader, and asks again as before.
    func back(_ index: Int, to broker: inout Rig, asks: Bool = true) throws -> SessionID {
      let other = others[index]
      let session = try broker.comeBack(other.session, from: rig, process: 10 + Int32(index))
      #expect(broker.ask(session, ReattachRequest.reader(blob, other.opened)) == .done)
      if asks {
        broker.send(.request(session, number: other.waiting, standBy(other.opened)))
      }
      #expect(broker.ask(session, .reattached) == .done)
      return session
    }

    func producerBack(to broker: inout Rig) throws -> SessionID {
      let session = try broker.comeBack(producer, from: rig, process: 1)
      #expect(broker.ask(session, ReattachRequest.publisher(blob, created)) == .done)
      #expect(broker.ask(session, ReattachRequest.reader(blob, created)) == .done)
      #expect(broker.ask(session, .reattached) == .done)
      return session
    }
  }

  @Test func `a producer that comes back goes on, and who stood by stands by`() throws {
    let scene = try Scene()
    var broker = scene.rig.killed()
    let waiting = try scene.back(1, to: &broker)
    let producer = try scene.producerBack(to: &broker)
    _ = try scene.back(0, to: &broker)
    #expect(broker.reply(waiting, scene.others[1].waiting) == nil)
    let seal = SealRequest(blob: scene.blob.blob, byteCount: 3 * Self.piece)
    #expect(broker.ask(producer, .seal(seal)) == .done)
    #expect(broker.reply(waiting, scene.others[1].waiting) == .done)
  }

  @Test func `when the producer has died too, who comes back first goes on, in its rings`() throws {
    let scene = try Scene()
    var broker = scene.rig.killed(dead: [1])
    broker.partial = [0]
    #expect(broker.ledger.blobs[scene.generation]?.state == .suspended)
    let first = try scene.back(1, to: &broker)
    let second = try scene.back(0, to: &broker)
    let grant = try need(broker.reply(first, scene.others[1].waiting)?.grant)
    #expect(grant.blob.epoch == scene.blob.blob.epoch + 1)
    #expect(grant.extent?.ringID == scene.blob.extent?.ringID, "nobody else can write there")
    #expect(broker.reply(second, scene.others[0].waiting) == nil)
    let seal = SealRequest(blob: grant.blob, byteCount: 3 * Self.piece)
    #expect(broker.ask(first, .seal(seal)) == .done)
    #expect(broker.reply(second, scene.others[0].waiting) == .done)
  }

  @Test
  func `a producer that lives and does not come back is fenced, its incomplete rings replaced`()
    throws
  {
    let scene = try Scene(others: 1)
    var broker = scene.rig.killed()
    broker.partial = [0]
    let heir = try scene.back(0, to: &broker)
    #expect(broker.reply(heir, scene.others[0].waiting) == nil)
    broker.pass(Ledger.returnLimit)
    broker.send(.tick)
    broker.pass(Production.exitPatience)
    broker.send(.tick)
    let grant = try need(broker.reply(heir, scene.others[0].waiting)?.grant)
    #expect(grant.extent?.ringID != scene.blob.extent?.ringID)
  }

  @Test func `who wrote it before a broker that knew nobody left is taken for one that still may`()
    throws
  {
    var scene = try Scene(others: 1)
    scene.rig.send(.exited(scene.others[0].session))
    let late = scene.rig.connect(process: 10)
    let opened = scene.rig.post(late, Self.request())
    scene.rig.send(.hungUp(scene.producer))
    scene.others = [(late, opened, 0)]
    // Suspended: nobody is recorded as its publisher.
    var broker = scene.rig.killed()
    broker.partial = [0]
    let back = try scene.back(0, to: &broker, asks: false)
    let waiting = broker.post(back, scene.standBy(opened))
    let grant = try need(broker.reply(back, waiting)?.grant)
    #expect(grant.extent?.ringID != scene.blob.extent?.ringID)
  }

  @Test func `a publisher of whom nothing is known may still write`() throws {
    let scene = try Scene(others: 1)
    var broker = scene.rig.killed {
      $0.record.publishers = [RecordedPublisher(clientID: 999, number: 1)]
    }
    broker.partial = [0]
    let heir = try scene.back(0, to: &broker)
    let grant = try need(broker.reply(heir, scene.others[0].waiting)?.grant)
    #expect(grant.extent?.ringID != scene.blob.extent?.ringID)
  }

  @Test func `a right that reached nobody goes to the next`() throws {
    var scene = try Scene()
    scene.rig.send(.exited(scene.producer))
    #expect(scene.rig.reply(scene.others[0].session, scene.others[0].waiting)?.grant != nil)
    // The answer is lost with the broker, and who asked has cancelled meanwhile.
    var broker = scene.rig.killed()
    let next = try scene.back(1, to: &broker)
    _ = try scene.back(0, to: &broker, asks: false)
    let grant = try need(broker.reply(next, scene.others[1].waiting)?.grant)
    #expect(grant.blob.epoch == scene.blob.blob.epoch + 2)
  }

  @Test func `a right that was granted is granted again to who asks again`() throws {
    var scene = try Scene()
    scene.rig.send(.exited(scene.producer))
    let before = try need(
      scene.rig.reply(scene.others[0].session, scene.others[0].waiting)?.grant)
    var broker = scene.rig.killed()
    let next = try scene.back(1, to: &broker)
    let again = try scene.back(0, to: &broker)
    #expect(broker.reply(again, scene.others[0].waiting)?.grant?.blob == before.blob)
    #expect(broker.reply(next, scene.others[1].waiting) == nil)
    #expect(broker.ledger.blobs[scene.generation]?.publishers.map(\.session) == [again])
  }

  @Test func `where nobody comes back the blob fails in the end, and who reads it is told`() throws
  {
    let scene = try Scene(others: 1)
    var broker = scene.rig.killed(dead: [1])
    let reader = try scene.back(0, to: &broker, asks: false)
    broker.pass(Production.candidatePatience)
    broker.send(.tick)
    #expect(broker.posted(scene.generation)?.post.state == .failed)
    #expect(broker.ask(reader, scene.standBy(scene.others[0].opened))?.error != nil)
  }

  @Test(arguments: [UnreadPolicy.stop, .pause])
  func `the death of a broker does not end what nobody has ever read`(
    _ policy: UnreadPolicy
  ) throws {
    var rig = Rig()
    let producer = rig.connect(process: 1)
    var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: true)
    terms.production.whenUnread = policy
    let created = rig.post(producer, .createWith(CreateRequest(key: "k"), terms))
    let blob = try need(rig.reply(producer, created)?.grant)
    var broker = rig.killed()
    let back = try broker.comeBack(producer, from: rig, process: 1)
    broker.ask(back, ReattachRequest.publisher(blob, created))
    broker.ask(back, .reattached)
    let state = try need(broker.ledger.blobs[blob.blob.generation])
    #expect(state.state == .open && !state.isPaused)
  }

  // MARK: On demand

  @Test func `what one broker handed out counts with the next when it is there, and only then`()
    throws
  {
    var scene = try Scene(others: 1, isOnDemand: true)
    let (first, second) = (0..<Self.piece, Self.piece..<2 * Self.piece)
    func want(_ range: Range<Int>) -> Request {
      .demand(DemandRequest(generation: scene.generation, range: range))
    }
    let reader = scene.others[0].session
    let wanted = [scene.rig.post(reader, want(first)), scene.rig.post(reader, want(second))]
    let servers = (0..<2).map { _ in
      scene.rig.ask(scene.producer, .nextDemand(scene.blob.blob))
    }
    #expect(servers == [.demanded(first), .demanded(second)])
    var broker = scene.rig.killed()
    let back = try scene.back(0, to: &broker)
    for (number, range) in zip(wanted, [first, second]) {
      broker.send(.request(back, number: number, want(range)))
    }
    let producer = try scene.producerBack(to: &broker)
    func settle(_ range: Range<Int>, _ outcome: SettleDemandRequest.Outcome) -> Request {
      .settle(range, of: scene.blob, outcome)
    }
    broker.ask(producer, settle(first, .fetched))
    #expect(broker.reply(back, wanted[0]) == .done)
    #expect(broker.ask(producer, .nextDemand(scene.blob.blob)) == .demanded(second))
    broker.ask(producer, settle(first, .failed("it failed once")))
    #expect(broker.reply(back, wanted[1]) == nil, "that was about another one")
    broker.ask(producer, settle(second, .fetched))
    #expect(broker.reply(back, wanted[1]) == .done)
    #expect(broker.ledger.transferCount == 0)
  }

  @Test func `a reader's demand waits for the source that comes after the one that has died`()
    throws
  {
    let scene = try Scene(others: 2, isOnDemand: true)
    var broker = scene.rig.killed(dead: [1])
    let reader = try scene.back(1, to: &broker, asks: false)
    let wanted = broker.post(
      reader, .demand(DemandRequest(generation: scene.generation, range: 0..<1)))
    let heir = try scene.back(0, to: &broker)
    let grant = try need(broker.reply(heir, scene.others[0].waiting)?.grant)
    #expect(
      broker.ask(heir, .nextDemand(grant.blob))
        == .demanded(0..<Self.piece))
    #expect(broker.reply(reader, wanted) == nil)
    broker.ask(heir, .fail(FailRequest(blob: grant.blob, cause: "no")))
    #expect(broker.reply(reader, wanted)?.error?.cause == "no")
  }
}
