// Fetching on demand: what is handed out, in which order, to whom the outcome is told, and what becomes of
// it when a source or a reader goes.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct DemandTests {
  private static let piece = 4096

  /// A blob of ten pieces, the last one short, with its source.
  private struct Scene {
    var rig: Rig
    let source: SessionID
    let blob: BlobGrant
    let reader: SessionID

    init(
      readAhead: Int = 0, fills: Bool = false, ownership: Ownership = .exclusive,
      adjust: (inout LedgerLimits) -> Void = { _ in }
    ) throws {
      rig = Rig(adjust: adjust)
      source = rig.connect(process: 1)
      reader = rig.connect(process: 2)
      var create = CreateRequest(key: "k")
      create.byteCount = 9 * piece + 100
      var terms = CreateTerms(ownership: ownership, idleLimit: nil, resumes: false)
      terms.demand = DemandTerms(pieceByteCount: piece, readAhead: readAhead, fills: fills)
      let reply = rig.ask(source, .createWith(create, terms))
      guard let grant = reply?.grant else { throw Missing() }
      blob = grant
      _ = rig.open(reader, "k")
    }
    struct Missing: Error {}

    mutating func want(_ range: Range<Int>, by session: SessionID? = nil) -> UInt64 {
      rig.post(
        session ?? reader,
        .demand(DemandRequest(generation: blob.blob.generation, range: range)))
    }

    mutating func next(_ fetched: Range<Int>? = nil, failure: String? = nil) -> UInt64 {
      if let fetched { settle(fetched, failure.map { .failed($0) } ?? .fetched) }
      return rig.post(source, .nextDemand(blob.blob))
    }

    mutating func settle(_ range: Range<Int>, _ outcome: SettleDemandRequest.Outcome) {
      rig.ask(source, .settle(range, of: blob, outcome))
    }

    func handedOut(_ number: UInt64) -> Range<Int>? {
      if case .demanded(let range) = rig.reply(source, number) { range } else { nil }
    }
  }

  private func piece(_ index: Int) -> Range<Int> {
    index * Self.piece..<min((index + 1) * Self.piece, 9 * Self.piece + 100)
  }

  @Test func `a source waits until something is wanted, and is given whole pieces`() throws {
    var scene = try Scene()
    #expect(scene.blob.demandPiece == Self.piece)
    let idle = scene.next()
    #expect(scene.rig.reply(scene.source, idle) == nil)
    let wanted = scene.want(5000..<5001)
    #expect(scene.handedOut(idle) == piece(1))
    #expect(scene.rig.reply(scene.reader, wanted) == nil)
    let last = scene.next(piece(1))
    #expect(scene.rig.reply(scene.reader, wanted) == .done)
    _ = scene.want(9 * Self.piece + 99..<9 * Self.piece + 100)
    #expect(scene.handedOut(last) == piece(9), "the last one is short")
  }

  @Test func `a piece that many want is handed out once, and all are told`() throws {
    var scene = try Scene()
    let others = (0..<5).map { scene.rig.connect(process: 10 + $0) }
    for other in others { _ = scene.rig.open(other, "k") }
    let first = scene.next()
    let second = scene.next()
    let numbers = others.map { scene.want(100..<200, by: $0) }
    #expect(scene.handedOut(first) == piece(0) && scene.rig.reply(scene.source, second) == nil)
    _ = scene.next(piece(0))
    for (other, number) in zip(others, numbers) { #expect(scene.rig.reply(other, number) == .done) }
    // It is there from now on.
    let late = scene.want(0..<1)
    #expect(scene.rig.reply(scene.reader, late) == .done)
    #expect(scene.rig.reply(scene.source, second) == nil)
  }

  @Test func `what a reader waits for comes before what it will, and that before the rest`() throws
  {
    var scene = try Scene(readAhead: 2 * Self.piece, fills: true)
    let first = scene.next()
    #expect(scene.handedOut(first) == piece(0), "there was nothing else to do")
    _ = scene.want(0..<1)
    _ = scene.want(7 * Self.piece..<7 * Self.piece + 1)
    var order: [Range<Int>?] = []
    var fetched = piece(0)
    for _ in 0..<9 {
      let number = scene.next(fetched)
      order.append(scene.handedOut(number))
      fetched = scene.handedOut(number) ?? fetched
    }
    #expect(order == [7, 1, 2, 3, 4, 5, 6, 8, 9].map(piece))
    let over = scene.next(fetched)
    #expect(scene.rig.reply(scene.source, over) == .done, "all is there")
  }

  @Test func `only who reads on is read ahead for`() throws {
    var scene = try Scene(readAhead: Self.piece)
    let slots = (0..<4).map { _ in scene.next() }
    _ = scene.want(5 * Self.piece..<5 * Self.piece + 1)
    #expect(slots.compactMap { scene.handedOut($0) } == [piece(5)])
    _ = scene.want(6 * Self.piece..<6 * Self.piece + 1)
    #expect(slots.compactMap { scene.handedOut($0) } == [piece(5), piece(6), piece(7)])
  }

  @Test func `a range of several pieces wants all, and its answer is about the first`() throws {
    var scene = try Scene()
    let slots = (0..<3).map { _ in scene.next() }
    let wanted = scene.want(4000..<3 * Self.piece)
    #expect(slots.map { scene.handedOut($0) } == [0, 1, 2].map(piece))
    _ = scene.next(piece(1), failure: "no route")
    #expect(scene.rig.reply(scene.reader, wanted) == nil)
    _ = scene.next(piece(0))
    #expect(scene.rig.reply(scene.reader, wanted) == .done)
  }

  @Test func `a fetch that fails is told to those that wait for it, and tried again when wanted`()
    throws
  {
    var scene = try Scene()
    let other = scene.rig.connect(process: 9)
    _ = scene.rig.open(other, "k")
    let slots = [scene.next(), scene.next()]
    let failing = scene.want(0..<1)
    let fine = scene.want(Self.piece..<Self.piece + 1, by: other)
    let next = scene.next(piece(0), failure: "no route")
    let error = try need(scene.rig.reply(scene.reader, failing)?.error)
    #expect(error.code == .inputOutput && error.cause == "no route")
    #expect(scene.rig.reply(other, fine) == nil)
    #expect(slots.compactMap { scene.handedOut($0) }.count == 2)
    let again = scene.want(0..<1)
    #expect(scene.handedOut(next) == piece(0))
    _ = scene.next(piece(0))
    #expect(scene.rig.reply(scene.reader, again) == .done)
  }

  @Test func `what nobody waits for any more is not fetched`() throws {
    var scene = try Scene()
    let first = scene.want(0..<1)
    let second = scene.want(Self.piece..<Self.piece + 1)
    scene.rig.ask(scene.reader, .cancel(CancelRequest(request: first)))
    #expect(scene.rig.reply(scene.reader, first) == .done)
    let next = scene.next()
    #expect(scene.handedOut(next) == piece(1))
    #expect(scene.rig.reply(scene.reader, second) == nil)
    let idle = scene.next()
    scene.rig.send(.hungUp(scene.reader))
    #expect(scene.rig.reply(scene.source, idle) == nil)
  }

  @Test func `what a lost source had begun is handed out to the next`() throws {
    var scene = try Scene(ownership: .produced)
    let opened = scene.rig.post(
      scene.reader, .open(OpenRequest(key: "k", waits: false, observes: false)))
    let waiting = scene.rig.post(
      scene.reader,
      .standBy(StandByRequest(generation: scene.blob.blob.generation, opened: opened)))
    let wanted = scene.want(0..<1)
    let begun = scene.next()
    #expect(scene.handedOut(begun) == piece(0))
    scene.rig.send(.exited(scene.source))
    let grant = try need(scene.rig.reply(scene.reader, waiting)?.grant)
    let next = scene.rig.ask(
      scene.reader, .nextDemand(grant.blob))
    #expect(next == .demanded(piece(0)))
    scene.rig.ask(
      scene.reader, .settle(piece(0), of: grant))
    #expect(scene.rig.reply(scene.reader, wanted) == .done)
    #expect(scene.rig.ledger.transferCount == 0)
  }

  @Test func `no more are under way than may be, of all blobs`() throws {
    var scene = try Scene { $0.transferLimit = 2 }
    let slots = (0..<3).map { _ in scene.next() }
    _ = scene.want(0..<5 * Self.piece)
    #expect(slots.compactMap { scene.handedOut($0) }.count == 2)
    _ = scene.next(piece(0), failure: "x")
    #expect(slots.compactMap { scene.handedOut($0) }.count == 3)
    scene.rig.ask(scene.source, .fail(FailRequest(blob: scene.blob.blob, cause: "enough")))
    #expect(scene.rig.ledger.transferCount == 0)
  }

  @Test func `when the blob ends everybody is told`() throws {
    for isSealed in [true, false] {
      var scene = try Scene()
      let wanted = scene.want(0..<1)
      let first = scene.next()
      let idle = scene.next()
      #expect(scene.handedOut(first) != nil)
      if isSealed {
        scene.rig.ask(
          scene.source, .seal(SealRequest(blob: scene.blob.blob, byteCount: 9 * Self.piece + 100)))
      } else {
        scene.rig.ask(scene.source, .fail(FailRequest(blob: scene.blob.blob, cause: "no")))
      }
      #expect((scene.rig.reply(scene.reader, wanted) == .done) == isSealed)
      #expect(scene.rig.reply(scene.source, idle) != nil)
    }
  }

  // MARK: The end

  private static let end = 9 * piece + 100

  @Test func `whoever waits for the end has all fetched that is not known to be there`() throws {
    var scene = try Scene()
    _ = scene.want(0..<1)
    let first = scene.next()
    #expect(scene.handedOut(first) == piece(0))
    var slot = scene.next(piece(0))
    #expect(scene.handedOut(slot) == nil)
    let atEnd = scene.want(Self.end..<Self.end)
    for index in 1..<10 {
      #expect(scene.handedOut(slot) == piece(index))
      #expect(scene.rig.reply(scene.reader, atEnd) == nil)
      slot = scene.next(piece(index))
    }
    #expect(scene.rig.reply(scene.source, slot) == .done)
    #expect(scene.rig.reply(scene.reader, atEnd) == .done)
    #expect(
      scene.rig.ask(
        scene.reader,
        .demand(
          DemandRequest(generation: scene.blob.blob.generation, range: Self.end..<Self.end)))
        == .done)
  }

  @Test func `what cannot be fetched is the end of a wait for the end, until the next one`() throws
  {
    var scene = try Scene()
    let atEnd = scene.want(Self.end..<Self.end)
    let first = scene.next()
    #expect(scene.handedOut(first) == piece(0))
    let slot = scene.next(piece(0), failure: "no")
    #expect(scene.rig.reply(scene.reader, atEnd)?.code == .inputOutput)
    #expect(scene.rig.reply(scene.source, slot) == nil, "nobody waits for it any more")
    let again = scene.want(Self.end..<Self.end)
    #expect(scene.handedOut(slot) == piece(0), "tried anew")
    #expect(scene.rig.reply(scene.reader, again) == nil)
  }

  @Test func `what a reader at the end has fetched stops when it goes, and comes behind the rest`()
    throws
  {
    var scene = try Scene()
    let atEnd = scene.want(Self.end..<Self.end)
    let slot = scene.next()
    #expect(scene.handedOut(slot) == piece(0))
    _ = scene.want(5 * Self.piece..<5 * Self.piece + 1)
    let second = scene.next()
    #expect(scene.handedOut(second) == piece(5), "first where somebody waits")
    scene.rig.ask(scene.reader, .cancel(CancelRequest(request: atEnd)))
    let third = scene.next(piece(0))
    #expect(scene.rig.reply(scene.source, third) == nil)
  }

  @Test func `a drain waits for what is wanted, and for no blob that is at rest`() throws {
    var scene = try Scene()
    let idle = scene.next()
    let wanted = scene.want(0..<1)
    #expect(scene.handedOut(idle) == piece(0))
    scene.rig.send(.drainBegan)
    #expect(!scene.rig.ledger.isDrained)
    _ = scene.next(piece(0))
    #expect(scene.rig.reply(scene.reader, wanted) == .done)
    #expect(scene.rig.ledger.isDrained)
    _ = scene.want(5000..<5001)
    #expect(!scene.rig.ledger.isDrained, "it has not ended yet, and somebody waits")
  }

  @Test func `a drain waits for the seal of a blob of which all is there`() throws {
    var scene = try Scene()
    let slots = [scene.next(), scene.next()]
    for index in 0..<10 {
      let wanted = scene.want(piece(index).lowerBound..<piece(index).lowerBound + 1)
      _ = scene.next(piece(index))
      #expect(scene.rig.reply(scene.reader, wanted) == .done)
    }
    #expect(slots.allSatisfy { scene.rig.reply(scene.source, $0) != nil })
    scene.rig.send(.drainBegan)
    #expect(!scene.rig.ledger.isDrained)
    scene.rig.ask(
      scene.source, .seal(SealRequest(blob: scene.blob.blob, byteCount: Self.end)))
    #expect(scene.rig.ledger.isDrained)
  }

  @Test func `a drain waits for a publisher that has stopped asking for something to do`() throws {
    var scene = try Scene()
    let idle = scene.next()
    scene.rig.ask(scene.source, .cancel(CancelRequest(request: idle)))
    #expect(scene.rig.reply(scene.source, idle) == .done)
    scene.rig.send(.drainBegan)
    #expect(!scene.rig.ledger.isDrained, "it may write something else")
    _ = scene.next()
    #expect(scene.rig.ledger.isDrained)
  }

  @Test func `a drain waits for a blob that becomes complete by itself`() throws {
    var scene = try Scene(fills: true)
    scene.rig.send(.drainBegan)
    _ = scene.next()
    for index in 0..<10 {
      #expect(!scene.rig.ledger.isDrained)
      _ = scene.next(piece(index))
    }
    scene.rig.ask(
      scene.source, .seal(SealRequest(blob: scene.blob.blob, byteCount: 9 * Self.piece + 100)))
    #expect(scene.rig.ledger.isDrained)
  }

  @Test func `a source that nobody asks for anything keeps its tenure`() throws {
    var rig = Rig()
    let (source, other) = (rig.connect(process: 1), rig.connect(process: 2))
    var create = CreateRequest(key: "k")
    create.byteCount = 3 * Self.piece
    var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: false)
    terms.production.tenure = .seconds(4)
    terms.demand = DemandTerms(pieceByteCount: Self.piece, readAhead: 0, fills: false)
    let request = OpenOrCreateRequest(create: create, terms: terms, standsBy: true)
    let blob = try need(rig.ask(source, .openOrCreate(request))?.grant)
    let opened = rig.post(other, .openOrCreate(request))
    let waiting = rig.post(
      other, .standBy(StandByRequest(generation: blob.blob.generation, opened: opened)))
    rig.ask(source, .nextDemand(blob.blob))
    func wait(_ rig: inout Rig) {
      for _ in 0..<8 {
        rig.pass(.seconds(1))
        rig.send(.tick)
      }
    }
    wait(&rig)
    #expect(rig.reply(other, waiting) == nil)
    rig.post(other, .demand(DemandRequest(generation: blob.blob.generation, range: 0..<1)))
    wait(&rig)
    #expect(rig.reply(other, waiting)?.grant != nil, "somebody waits, and nothing comes")
  }

  @Test func `terms of impossible pieces are refused, and demands of other blobs`() throws {
    var rig = Rig()
    let session = rig.connect()
    for piece in [1, 4095, 1 << 31] {
      var create = CreateRequest(key: "k")
      create.byteCount = 10
      var terms = CreateTerms.plain
      terms.demand = DemandTerms(pieceByteCount: piece, readAhead: 0, fills: false)
      #expect(rig.ask(session, .createWith(create, terms))?.code == .protocolViolation)
    }
    var terms = CreateTerms.plain
    terms.demand = DemandTerms(pieceByteCount: 4096, readAhead: 0, fills: false)
    #expect(
      rig.ask(session, .createWith(CreateRequest(key: "k"), terms))?.code == .protocolViolation)
    let plain = try need(rig.create(session, "plain") { $0.byteCount = 10 })
    _ = rig.open(session, "plain")
    let demand = DemandRequest(generation: plain.blob.generation, range: 0..<1)
    #expect(rig.ask(session, .demand(demand))?.code == .notPermitted)
    #expect(
      rig.ask(session, .nextDemand(plain.blob))?.code == .notPermitted)
  }

  // MARK: Bounds

  @Test func `what no source was asked for is no report`() throws {
    var scene = try Scene()
    let far = 1000 * Self.piece
    for range in [far..<far + Self.piece, far..<far, 0..<1, 1..<Self.piece + 1] {
      let number = scene.next(range)
      #expect(scene.rig.reply(scene.source, number) == nil)
    }
    #expect(scene.rig.ledger.transferCount == 0)
  }

  @Test func `demands that come and go leave nothing behind`() throws {
    var scene = try Scene(readAhead: 4 * Self.piece)
    for _ in 0..<1000 {
      let number = scene.want(0..<3 * Self.piece)
      scene.rig.ask(scene.reader, .cancel(CancelRequest(request: number)))
    }
    let demands = try need(scene.rig.ledger.blobs[scene.blob.blob.generation]?.demands)
    #expect(demands.wanted.isEmpty && demands.wanted.placeCount <= 200)
    #expect(demands.ahead.placeCount <= 200)
    scene.rig.close(scene.reader, scene.blob.reader)
    let idle = scene.next()
    #expect(scene.rig.reply(scene.source, idle) == nil, "nobody reads on")
  }

  @Test func `another user does not take all places of those that wait`() throws {
    var rig = Rig { $0.isShared = true }
    let source = rig.connect(process: 1)
    var create = CreateRequest(key: "k")
    create.byteCount = 10 * Self.piece
    create.mode = 0o644
    var terms = CreateTerms.plain
    terms.demand = DemandTerms(pieceByteCount: Self.piece, readAhead: 0, fills: false)
    let blob = try need(rig.ask(source, .createWith(create, terms))?.grant)
    let demand = Request.demand(DemandRequest(generation: blob.blob.generation, range: 0..<1))
    var refused = 0
    for process in [Int32(2), 3] {
      let stranger = rig.connect(process: process, uid: 2000)
      _ = rig.open(stranger, "k")
      for _ in 0..<Demands.askerLimit where rig.ask(stranger, demand)?.code == .limitReached {
        refused += 1
      }
    }
    #expect(refused == 2 * Demands.askerLimit - Demands.askersPerOtherUser)
    let reader = rig.connect(process: 4)
    _ = rig.open(reader, "k")
    #expect(rig.ask(reader, demand) == nil)
  }

  @Test func `what fails is not fetched again as the rest, before somebody wants it`() throws {
    var scene = try Scene(fills: true)
    var number = scene.next()
    for index in 0..<10 {
      #expect(scene.handedOut(number) == piece(index))
      number = scene.next(piece(index), failure: index == 3 ? "no" : nil)
    }
    #expect(scene.rig.reply(scene.source, number) == nil, "nothing is left but what has failed")
    _ = scene.want(3 * Self.piece..<3 * Self.piece + 1)
    #expect(scene.handedOut(number) == piece(3))
    number = scene.next(piece(3))
    #expect(scene.rig.reply(scene.source, number) == .done)
  }

  @Test func `what a lost source had begun is part of the rest`() throws {
    var scene = try Scene(fills: true, ownership: .joinable)
    let other = scene.rig.connect(process: 3)
    let joined = try need(scene.rig.join(other, "k")?.grant)
    let begun = scene.next()
    #expect(scene.handedOut(begun) == piece(0))
    scene.rig.send(.exited(scene.source))
    var order: [Range<Int>?] = []
    while case .demanded(let range) = scene.rig.ask(other, .nextDemand(joined.blob)) {
      order.append(range)
      scene.rig.ask(other, .settle(range, of: joined))
    }
    #expect(order == ([1, 2, 3, 4, 5, 6, 7, 8, 9, 0].map(piece)))
  }

  /// Sources of several blobs, each with one request for something to do.
  private func sources(
    of rig: inout Rig, _ keys: [BlobKey], fills: (Int) -> Bool
  ) throws -> [(session: SessionID, blob: BlobGrant)] {
    try keys.enumerated().map { place, key in
      let session = rig.connect(process: 10 + Int32(place))
      var create = CreateRequest(key: key)
      create.byteCount = 10 * Self.piece
      var terms = CreateTerms.plain
      terms.demand = DemandTerms(
        pieceByteCount: Self.piece, readAhead: 0, fills: fills(place))
      return (session, try need(rig.ask(session, .createWith(create, terms))?.grant))
    }
  }

  @Test func `where few may fetch at once each source has its turn`() throws {
    var rig = Rig { $0.transferLimit = 1 }
    let all = try sources(of: &rig, ["a", "b", "c"]) { _ in true }
    for source in all {
      rig.post(source.session, .nextDemand(source.blob.blob))
    }
    var turns = [0, 0, 0]
    var seen = 0
    for _ in 0..<15 {
      let given = rig.trace[seen...].firstIndex {
        if case .reply(_, _, .demanded, _) = $0 { true } else { false }
      }
      guard let given, case .reply(let session, _, .demanded(let range), _) = rig.trace[given],
        let place = all.firstIndex(where: { $0.session == session })
      else { break }
      seen = given + 1
      turns[place] += 1
      rig.post(session, .settle(range, of: all[place].blob))
      rig.post(session, .nextDemand(all[place].blob.blob))
    }
    #expect(turns == [5, 5, 5])
  }

  @Test func `where few may fetch at once what a reader waits for comes before other blobs' rest`()
    throws
  {
    var rig = Rig { $0.transferLimit = 1 }
    let all = try sources(of: &rig, ["a", "b", "c"]) { $0 < 2 }
    for source in all {
      rig.post(source.session, .nextDemand(source.blob.blob))
    }
    let reader = rig.connect(process: 2)
    _ = rig.open(reader, "c")
    rig.post(reader, .demand(DemandRequest(generation: all[2].blob.blob.generation, range: 0..<1)))
    let before = rig.trace.count
    rig.post(
      all[0].session,
      .settle(0..<Self.piece, of: all[0].blob))
    let next = rig.trace[before...].compactMap {
      if case .reply(let session, _, .demanded, _) = $0 { session } else { nil }
    }
    #expect(next == [all[2].session])
  }

  // MARK: Tenure

  /// A source with a tenure, whose heir comes and goes.
  private func heir(
    of blob: BlobGrant?, _ request: OpenOrCreateRequest, _ rig: inout Rig, process: Int32
  ) throws -> (session: SessionID, opened: UInt64, waiting: UInt64) {
    let session = rig.connect(process: process)
    let opened = rig.post(session, .openOrCreate(request))
    let generation = try need(blob?.blob.generation)
    let waiting = rig.post(
      session, .standBy(StandByRequest(generation: generation, opened: opened)))
    return (session, opened, waiting)
  }

  private static var tenured: OpenOrCreateRequest {
    var create = CreateRequest(key: "k")
    create.byteCount = 3 * piece
    var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: false)
    terms.production.tenure = .seconds(4)
    terms.demand = DemandTerms(pieceByteCount: piece, readAhead: 0, fills: false)
    return OpenOrCreateRequest(create: create, terms: terms, standsBy: true)
  }

  @Test func `a source that was not wanted for long has all of its tenure when it is`() throws {
    var rig = Rig()
    let source = rig.connect(process: 1)
    let blob = try need(rig.ask(source, .openOrCreate(Self.tenured))?.grant)
    rig.ask(source, .nextDemand(blob.blob))
    let first = try heir(of: blob, Self.tenured, &rig, process: 2)
    rig.ask(first.session, .cancel(CancelRequest(request: first.waiting)))
    for _ in 0..<100 {
      rig.pass(.seconds(1))
      rig.send(.tick)
    }
    rig.post(first.session, .demand(DemandRequest(generation: blob.blob.generation, range: 0..<1)))
    let second = try heir(of: blob, Self.tenured, &rig, process: 3)
    #expect(rig.reply(second.session, second.waiting) == nil)
    rig.pass(.seconds(3))
    rig.send(.tick)
    #expect(rig.reply(second.session, second.waiting) == nil)
    for _ in 0..<3 {
      rig.pass(.seconds(1))
      rig.send(.tick)
    }
    #expect(rig.reply(second.session, second.waiting)?.grant != nil)
  }

  @Test func `a source that waits for its turn keeps its tenure`() throws {
    var rig = Rig { $0.transferLimit = 1 }
    let other = try sources(of: &rig, ["other"]) { _ in true }[0]
    rig.ask(other.session, .nextDemand(other.blob.blob))
    let source = rig.connect(process: 1)
    let blob = try need(rig.ask(source, .openOrCreate(Self.tenured))?.grant)
    rig.ask(source, .nextDemand(blob.blob))
    let next = try heir(of: blob, Self.tenured, &rig, process: 2)
    rig.post(next.session, .demand(DemandRequest(generation: blob.blob.generation, range: 0..<1)))
    for _ in 0..<12 {
      rig.pass(.seconds(1))
      rig.send(.tick)
    }
    #expect(rig.reply(next.session, next.waiting) == nil)
  }
}
