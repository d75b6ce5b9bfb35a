// Producing once: who of those that ask for a missing key gets to write it, who goes on when that one is
// lost, and what a publisher that was fenced can still do.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct ProductionTests {
  private static func terms(_ tenure: Duration? = nil) -> CreateTerms {
    var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: true)
    terms.production.tenure = tenure
    return terms
  }

  private static func request(
    _ tenure: Duration? = nil, standsBy: Bool = true,
    _ adjust: (inout CreateRequest) -> Void = { _ in }
  ) -> Request {
    var create = CreateRequest(key: "k")
    create.byteCount = 10_000
    adjust(&create)
    return .openOrCreate(
      OpenOrCreateRequest(create: create, terms: terms(tenure), standsBy: standsBy))
  }

  /// A producer, and readers that stand by, each with the number of its `standBy`.
  private struct Scene {
    var rig = Rig()
    let producer: SessionID
    let blob: BlobGrant
    var others: [(session: SessionID, opened: UInt64, waiting: UInt64)] = []

    init(
      others count: Int = 2, tenure: Duration? = nil,
      _ adjust: (inout CreateRequest) -> Void = { _ in }
    ) throws {
      producer = rig.connect(process: 1)
      guard case .created(let grant) = rig.ask(producer, request(tenure, adjust)) else {
        throw Missing()
      }
      blob = grant
      for index in 0..<count {
        let session = rig.connect(process: 10 + Int32(index))
        let opened = rig.post(session, request(tenure, adjust))
        guard case .opened = rig.reply(session, opened) else { throw Missing() }
        let waiting = rig.post(
          session, .standBy(StandByRequest(generation: grant.blob.generation, opened: opened)))
        others.append((session, opened, waiting))
      }
    }
    struct Missing: Error {}

    func reply(_ index: Int) -> Reply? { rig.reply(others[index].session, others[index].waiting) }
    mutating func seal(_ session: SessionID, _ blob: BlobReference) -> Reply? {
      rig.ask(session, .seal(SealRequest(blob: blob, byteCount: 10_000)))
    }
  }

  // MARK: Once

  @Test func `of two hundred that ask at once one creates, and all have readers of one generation`()
    throws
  {
    var rig = Rig()
    rig.holdsRings = true
    let sessions = (0..<200).map { rig.connect(process: $0) }
    let numbers = sessions.map { rig.post($0, Self.request()) }
    #expect(zip(sessions, numbers).allSatisfy { rig.reply($0, $1) == nil }, "it is not born yet")
    rig.holdsRings = false
    for case .createRing(let ring, _, _, _, _) in rig.trace {
      rig.send(.ringCreated(ring, inode: 1))
    }
    let replies = zip(sessions, numbers).map { rig.reply($0, $1) }
    #expect(replies.count { if case .created = $0 { true } else { false } } == 1)
    #expect(Set(replies.map { $0?.grant?.blob.generation }).count == 1)
    #expect(rig.info(sessions[0], "k")?.subscriberCount == 200)
    #expect(rig.info(sessions[0], "k")?.publisherCount == 1)
  }

  @Test func `when the first creation comes to nothing the next that asked creates`() throws {
    var rig = Rig()
    rig.holdsRings = true
    let (first, second) = (rig.connect(process: 1), rig.connect(process: 2))
    let one = rig.post(first, Self.request())
    let two = rig.post(second, Self.request())
    rig.send(.hungUp(first))
    rig.holdsRings = false
    for case .createRing(let ring, _, _, _, _) in rig.trace {
      rig.send(.ringCreated(ring, inode: 1))
    }
    #expect(rig.reply(first, one) == nil)
    guard case .created = rig.reply(second, two) else {
      Issue.record("\(String(describing: rig.reply(second, two)))")
      return
    }
  }

  @Test func `asked again by the same request it is the same creation`() throws {
    var rig = Rig()
    let session = rig.connect()
    let number = rig.post(session, Self.request())
    let first = rig.reply(session, number)
    let before = rig.trace.count
    rig.send(.request(session, number: number, Self.request()))
    guard
      case .reply(session, number, let second, _) = rig.trace[before...].last(where: {
        if case .reply = $0 { true } else { false }
      })
    else {
      Issue.record("no reply")
      return
    }
    #expect(first == second)
    #expect(rig.info(session, "k")?.subscriberCount == 1)
  }

  @Test func `what is sealed is opened, what has failed is created anew`() throws {
    var scene = try Scene(others: 0)
    #expect(scene.seal(scene.producer, scene.blob.blob) == .done)
    guard case .opened(let opened) = scene.rig.ask(scene.producer, Self.request()) else {
      Issue.record("not opened")
      return
    }
    #expect(opened.blob.generation == scene.blob.blob.generation && opened.state == .sealed)

    var failed = try Scene(others: 1)
    let blob = failed.blob.blob
    failed.rig.ask(failed.producer, .fail(FailRequest(blob: blob, cause: "no")))
    #expect(failed.reply(0)?.error?.cause == "no", "who stands by is told")
    let other = failed.others[0].session
    guard case .created(let created) = failed.rig.ask(other, Self.request()) else {
      Issue.record("not created")
      return
    }
    #expect(created.blob.generation > blob.generation)
  }

  @Test func `a creator that gives back its reader goes on as publisher`() throws {
    var scene = try Scene(others: 0)
    scene.rig.close(scene.producer, scene.blob.reader)
    #expect(scene.rig.info(scene.producer, "k")?.subscriberCount == 0)
    #expect(scene.seal(scene.producer, scene.blob.blob) == .done)
  }

  @Test func `a grant that did not arrive leaves neither publisher nor reader`() throws {
    var rig = Rig()
    let (first, second) = (rig.connect(process: 1), rig.connect(process: 2))
    let number = rig.post(first, Self.request())
    _ = rig.ask(second, Self.request())
    rig.send(.undelivered(first, number: number))
    let info = try need(rig.info(second, "k"))
    #expect(info.state == .suspended && info.subscriberCount == 1 && info.publisherCount == 0)
  }

  // MARK: Take-over

  @Test func `the first that stands by goes on when the publisher's process is gone`() throws {
    var scene = try Scene()
    let before = scene.rig.trace.count
    scene.rig.send(.exited(scene.producer))
    let grant = try need(scene.reply(0)?.grant)
    #expect(grant.blob.generation == scene.blob.blob.generation && grant.state == .open)
    #expect(grant.blob.epoch == scene.blob.blob.epoch + 1)
    #expect(grant.extent?.ringID == scene.blob.extent?.ringID, "nobody else can write there")
    #expect(scene.reply(1) == nil)
    let states = scene.rig.trace[before...].compactMap {
      if case .post(_, let post) = $0 { post.state } else { nil }
    }
    #expect(states.first == .suspended && states.last == .open)
    let writer = scene.others[0].session
    #expect(scene.seal(writer, grant.blob) == .done)
    #expect(scene.reply(1) == .done)
  }

  @Test func `a drain waits for who goes on, and not for a production that nobody goes on with`()
    throws
  {
    for count in [1, 0] {
      var scene = try Scene(others: count)
      scene.rig.send(.drainBegan)
      scene.rig.send(.hungUp(scene.producer))
      #expect(scene.rig.ledger.isDrained == (count == 0))
      scene.rig.send(.exited(scene.producer))
      guard count > 0 else { continue }
      let grant = try need(scene.reply(0)?.grant)
      #expect(!scene.rig.ledger.isDrained)
      let writer = scene.others[0].session
      #expect(scene.seal(writer, grant.blob) == .done)
      #expect(scene.rig.ledger.isDrained)
    }
  }

  @Test func `after a hang-up the end of the process is waited for, and nothing is copied`() throws
  {
    var scene = try Scene()
    scene.rig.partial = [0]
    scene.rig.send(.hungUp(scene.producer))
    #expect(scene.reply(0) == nil)
    #expect(scene.rig.info(scene.others[0].session, "k")?.state == .suspended)
    scene.rig.send(.exited(scene.producer))
    #expect(scene.reply(0)?.grant?.extent?.ringID == scene.blob.extent?.ringID)
  }

  @Test func `a process that hung up and lives is fenced: its incomplete rings are replaced`()
    throws
  {
    var scene = try Scene()
    scene.rig.partial = [0]
    scene.rig.send(.hungUp(scene.producer))
    scene.rig.pass(Production.exitPatience)
    let before = scene.rig.trace.count
    scene.rig.send(.tick)
    let grant = try need(scene.reply(0)?.grant)
    #expect(grant.extent?.ringID != scene.blob.extent?.ringID)
    let actions = scene.rig.trace[before...]
    let refit = try need(actions.firstIndex { if case .refit = $0 { true } else { false } })
    let unlink = try need(actions.firstIndex { if case .unlinkRing = $0 { true } else { false } })
    #expect(refit < unlink)
    #expect(scene.rig.pooledByteCount == 0, "what it may write is nobody's next ring")
  }

  @Test func `complete extents stay where they are`() throws {
    var scene = try Scene()
    scene.rig.send(.hungUp(scene.producer))
    scene.rig.pass(Production.exitPatience)
    scene.rig.send(.tick)
    #expect(scene.reply(0)?.grant?.extent?.ringID == scene.blob.extent?.ringID)
  }

  @Test func `readers find nothing in an extent while it is copied, and then the new ring`() throws
  {
    var scene = try Scene()
    scene.rig.partial = [0]
    scene.rig.holdsCopies = true
    scene.rig.send(.hungUp(scene.producer))
    scene.rig.pass(Production.exitPatience)
    scene.rig.send(.tick)
    let attach = Request.attachExtent(
      ExtentRequest(generation: scene.blob.blob.generation, index: 0))
    let reader = scene.others[1].session
    #expect(scene.rig.ask(reader, attach)?.code == .rangeOutOfBounds)
    let copy = try need(
      scene.rig.trace.compactMap { if case .refit(let copy, _) = $0 { copy } else { nil } }.first)
    scene.rig.send(.copied(copy, nil))
    let granted = try need(scene.rig.ask(reader, attach)?.extent)
    #expect(granted.ringID == scene.reply(0)?.grant?.extent?.ringID)
    #expect(granted.ringID != scene.blob.extent?.ringID)
  }

  @Test func `where the copy fails the blob has failed, and nobody else writes it`() throws {
    var scene = try Scene()
    scene.rig.partial = [0]
    scene.rig.holdsCopies = true
    scene.rig.send(.hungUp(scene.producer))
    scene.rig.pass(Production.exitPatience)
    scene.rig.send(.tick)
    let copy = try need(
      scene.rig.trace.compactMap { if case .refit(let copy, _) = $0 { copy } else { nil } }.first)
    scene.rig.send(.copied(copy, PatchbayError(.inputOutput, "no")))
    #expect(scene.reply(0)?.code == .inputOutput && scene.reply(1)?.code == .inputOutput)
    #expect(scene.rig.info(scene.others[0].session, "k")?.state == .failed)
  }

  @Test func `where nobody stands by the blob has failed`() throws {
    var scene = try Scene(others: 0)
    let reader = scene.rig.connect()
    _ = scene.rig.open(reader, "k")
    scene.rig.send(.exited(scene.producer))
    let info = try need(scene.rig.info(reader, "k"))
    #expect(info.state == .failed && info.causeCode == .abandoned)
  }

  @Test func `one that was only told to stand by is waited for`() throws {
    var scene = try Scene(others: 0)
    let other = scene.rig.connect(process: 2)
    let opened = scene.rig.post(other, Self.request())
    scene.rig.send(.exited(scene.producer))
    #expect(scene.rig.info(other, "k")?.state == .suspended)
    let grant = scene.rig.ask(
      other,
      .standBy(StandByRequest(generation: scene.blob.blob.generation, opened: opened)))?.grant
    #expect(grant?.state == .open)
  }

  @Test func `when the last that would go on closes, or takes too long, the blob has failed`()
    throws
  {
    for isClosing in [true, false] {
      var scene = try Scene(others: 0)
      let (other, reader) = (scene.rig.connect(process: 2), scene.rig.connect(process: 3))
      let opened = try need(scene.rig.ask(other, Self.request())?.grant)
      _ = scene.rig.open(reader, "k")
      scene.rig.send(.exited(scene.producer))
      if isClosing {
        scene.rig.close(other, opened.reader)
      } else {
        scene.rig.pass(Production.candidatePatience)
        scene.rig.send(.tick)
      }
      #expect(scene.rig.info(reader, "k")?.causeCode == .abandoned)
    }
  }

  @Test func `who closes its reader stands by no more, and is told`() throws {
    var scene = try Scene()
    scene.rig.close(scene.others[0].session, scene.blob.reader)
    #expect(scene.reply(0) == .done)
    scene.rig.send(.exited(scene.producer))
    #expect(scene.reply(1)?.grant != nil)
  }

  @Test func `who cancels stands by no more, and reads on`() throws {
    var scene = try Scene()
    let first = scene.others[0]
    scene.rig.ask(first.session, .cancel(CancelRequest(request: first.waiting)))
    #expect(scene.reply(0) == .done)
    #expect(scene.rig.info(first.session, "k")?.subscriberCount == 3)
    scene.rig.send(.exited(scene.producer))
    #expect(scene.reply(1)?.grant != nil)
  }

  @Test func `a producer that leaves hands on`() throws {
    var scene = try Scene()
    scene.rig.ask(scene.producer, .leave(scene.blob.blob))
    #expect(scene.reply(0)?.grant?.state == .open)
  }

  @Test func `who abandons the blob has failed it, whoever stands by`() throws {
    var scene = try Scene()
    scene.rig.abandon(scene.producer, scene.blob.blob)
    #expect(scene.reply(0)?.code == .abandoned)
  }

  @Test func `a removed blob is produced to its end for those that read it`() throws {
    var scene = try Scene()
    scene.rig.ask(scene.producer, .remove(RemoveRequest(key: "k", generation: nil)))
    scene.rig.send(.exited(scene.producer))
    let grant = try need(scene.reply(0)?.grant)
    #expect(scene.seal(scene.others[0].session, grant.blob) == .done)
    #expect(scene.rig.info(scene.others[1].session, "k") == nil)
  }

  // MARK: Tenure

  private static let tenure = Duration.seconds(8)

  @Test func `a publisher that covers nothing for its tenure is fenced`() throws {
    var scene = try Scene(tenure: Self.tenure)
    scene.rig.partial = [0]
    for _ in 0..<3 {
      scene.rig.pass(Self.tenure / 4)
      scene.rig.send(.tick)
    }
    #expect(scene.reply(0) == nil)
    scene.rig.pass(Self.tenure / 4)
    scene.rig.send(.tick)
    let grant = try need(scene.reply(0)?.grant)
    #expect(grant.extent?.ringID != scene.blob.extent?.ringID)
    // The old one wakes up.
    let old = scene.blob.blob
    #expect(scene.seal(scene.producer, old)?.code == .fenced)
    let grow = Request.grow(GrowRequest(blob: old, index: 0))
    #expect(scene.rig.ask(scene.producer, grow)?.code == .fenced)
    let fail = Request.fail(FailRequest(blob: old, cause: "x"))
    #expect(scene.rig.ask(scene.producer, fail)?.code == .fenced)
    #expect(scene.rig.ask(scene.producer, .quiesced(old)) == .done)
    #expect(scene.seal(scene.others[0].session, grant.blob) == .done)
  }

  @Test
  func `whoever stalls where the one before did has twice its time, until something is covered`()
    throws
  {
    var scene = try Scene(others: 4, tenure: Self.tenure)
    scene.rig.partial = [0]
    var quarters: [Int] = []
    for index in 0..<4 {
      // The third one covers something, and stalls then, a quarter later: it has the plain tenure.
      if index == 2 { scene.rig.coveredByteCount = 100 }
      var count = 0
      while scene.reply(index) == nil, count < 100 {
        scene.rig.pass(Self.tenure / 4)
        scene.rig.send(.tick)
        count += 1
      }
      quarters.append(count)
    }
    #expect(quarters == [4, 8, 5, 8])
  }

  @Test func `whoever covers something keeps its tenure, and so does who waits for the broker`()
    throws
  {
    var scene = try Scene(tenure: Self.tenure) { $0.byteCount = nil }
    for step in 1...12 {
      scene.rig.coveredByteCount = step
      scene.rig.pass(Self.tenure / 4)
      scene.rig.send(.tick)
    }
    #expect(scene.reply(0) == nil)
    scene.rig.holdsRings = true
    let grow = scene.rig.post(
      scene.producer, .grow(GrowRequest(blob: scene.blob.blob, index: 1)))
    for _ in 0..<12 {
      scene.rig.pass(Self.tenure / 4)
      scene.rig.send(.tick)
    }
    #expect(scene.rig.reply(scene.producer, grow) == nil && scene.reply(0) == nil)
  }

  @Test func `whoever repeats covered bytes keeps its tenure`() throws {
    var scene = try Scene(tenure: Self.tenure)
    for _ in 0..<12 {
      scene.rig.pass(Self.tenure / 4)
      #expect(scene.rig.ask(scene.producer, .renew(scene.blob.blob)) == .done)
      scene.rig.send(.tick)
    }
    #expect(scene.reply(0) == nil)
    for _ in 0..<5 {
      scene.rig.pass(Self.tenure / 4)
      scene.rig.send(.tick)
    }
    #expect(scene.reply(0)?.grant != nil)
    #expect(scene.rig.ask(scene.producer, .renew(scene.blob.blob))?.code == .fenced)
  }

  @Test func `while nobody stands by nobody is measured`() throws {
    var scene = try Scene(others: 0, tenure: Self.tenure)
    for _ in 0..<12 {
      scene.rig.pass(Self.tenure / 4)
      scene.rig.send(.tick)
    }
    #expect(!scene.rig.trace.contains { if case .measure = $0 { true } else { false } })
    #expect(scene.seal(scene.producer, scene.blob.blob) == .done)
  }

  @Test func `one that was fenced and comes back as the next publisher is not taken for quiescent`()
    throws
  {
    var scene = try Scene(others: 0, tenure: Self.tenure)
    let opened = scene.rig.post(scene.producer, Self.request(Self.tenure))
    let waiting = scene.rig.post(
      scene.producer,
      .standBy(StandByRequest(generation: scene.blob.blob.generation, opened: opened)))
    for _ in 0..<5 {
      scene.rig.pass(Self.tenure / 4)
      scene.rig.send(.tick)
    }
    let grant = try need(scene.rig.reply(scene.producer, waiting)?.grant)
    scene.rig.ask(scene.producer, .quiesced(scene.blob.blob))
    let generation = scene.blob.blob.generation
    #expect(scene.rig.ledger.blobs[generation]?.writers[scene.producer] != nil)
    #expect(scene.seal(scene.producer, grant.blob) == .done)
  }

  @Test func `one that leaves and stands by behind itself is not taken for quiescent`() throws {
    var scene = try Scene(others: 0)
    let generation = scene.blob.blob.generation
    let opened = scene.rig.post(scene.producer, Self.request())
    let waiting = scene.rig.post(
      scene.producer, .standBy(StandByRequest(generation: generation, opened: opened)))
    #expect(scene.rig.ask(scene.producer, .leave(scene.blob.blob)) == .done)
    #expect(try need(scene.rig.reply(scene.producer, waiting)?.grant).blob.epoch == 2)
    #expect(scene.rig.ledger.blobs[generation]?.writers[scene.producer] != nil)
  }

  // MARK: Refusals

  @Test func `terms that contradict each other are refused`() throws {
    var rig = Rig()
    let session = rig.connect()
    var idle = Self.terms()
    idle.idleLimit = .seconds(1)
    var plain = CreateTerms.plain
    plain.production.tenure = .seconds(1)
    for terms in [idle, plain, CreateTerms(ownership: .ownerless, idleLimit: nil, resumes: false)] {
      let request = OpenOrCreateRequest(
        create: CreateRequest(key: "k"), terms: terms, standsBy: false)
      #expect(rig.ask(session, .openOrCreate(request))?.code == .protocolViolation)
    }
    #expect(rig.info(session, "k") == nil)
  }

  @Test func `nobody stands by for what it does not read, or what is not produced`() throws {
    var scene = try Scene(others: 0)
    let other = scene.rig.connect()
    let generation = scene.blob.blob.generation
    #expect(
      scene.rig.ask(other, .standBy(StandByRequest(generation: generation, opened: 1)))?.code
        == .closed)
    let plain = try need(scene.rig.create(other, "plain"))
    let opened = scene.rig.post(
      other, .open(OpenRequest(key: "plain", waits: false, observes: false)))
    #expect(
      scene.rig.ask(
        other, .standBy(StandByRequest(generation: plain.blob.generation, opened: opened)))?.code
        == .notPermitted)
  }

  @Test func `another user's key is taken, and its bytes are not told`() throws {
    var rig = Rig { $0.isShared = true }
    let (owner, other) = (rig.connect(), rig.connect(uid: 2000))
    _ = rig.ask(owner, Self.request())
    #expect(rig.ask(other, Self.request())?.code == .notPermitted)
  }
}
