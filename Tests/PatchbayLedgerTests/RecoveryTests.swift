// A broker that is killed, and the one after it: what stays, who may come back to what, and what has to
// wait until everybody is back who may.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct RecoveryTests {
  /// A stream with two extents and its publisher, and the numbers of what was asked.
  private struct Stream {
    var rig: Rig
    let writer: SessionID
    let grant: BlobGrant
    let number: UInt64

    init(
      clientMemory: Int? = nil, _ adjust: (inout CreateRequest) -> Void = { _ in }
    ) throws {
      rig = Rig.spooling { $0.memoryPerClient = clientMemory }
      writer = rig.connect()
      var request = CreateRequest(key: "stream")
      request.order = .appendOnly
      request.firstExtent = Rig.extent
      request.extentLimit = Rig.extent
      adjust(&request)
      number = rig.post(writer, .create(request))
      grant = try need(rig.reply(writer, number)?.grant)
      rig.grow(writer, grant, 1)
    }
  }

  private func consistent(_ rig: Rig) { #expect(rig.ledger.inconsistency == nil) }

  // MARK: Coming back

  @Test func `a publisher comes back and goes on, on the same entry and under the same epoch`()
    throws
  {
    let before = try Stream()
    var rig = before.rig.killed()
    consistent(rig)
    let entry = try need(before.rig.posted(before.grant.blob.generation))
    let now = try need(rig.posted(before.grant.blob.generation))
    #expect(now.slot == entry.slot && now.post.epoch == entry.post.epoch)
    #expect(now.post.state == .open)
    let writer = try rig.comeBack(before.writer, from: before.rig)
    #expect(rig.ask(writer, ReattachRequest.publisher(before.grant, before.number)) == .done)
    #expect(rig.ask(writer, .reattached) == .done)
    #expect(!rig.ledger.isReturning)
    consistent(rig)
    let extent = try need(rig.grow(writer, before.grant, 2)?.extent)
    #expect(extent.index == 2 && extent.ringID > 1000, "no number is given twice")
    #expect(
      rig.ask(writer, .seal(SealRequest(blob: before.grant.blob, byteCount: 5))) == .done)
    consistent(rig)
  }

  @Test func `as many as may be connected come back at once`() throws {
    var before = Rig.spooling { $0.connectionsPerUser = 3 }
    let sessions = (0..<3).map { before.connect(process: 100 + $0) }
    for session in sessions { _ = before.ask(session, .ping) }
    var rig = before.killed()
    for (place, session) in sessions.enumerated() {
      _ = try rig.comeBack(session, from: before, process: 100 + Int32(place))
    }
    let stranger = rig.connectOnly(process: 200)
    #expect(rig.reply(stranger, 0)?.error?.code == .limitReached)
    consistent(rig)
  }

  @Test(arguments: [nil, 6 << 20])
  func `a stream longer than memory goes on through the disk, and no ring of before is reused`(
    clientMemory: Int?
  ) throws {
    let before = try Stream(clientMemory: clientMemory)
    var rig = before.rig.killed()
    let writer = try rig.comeBack(before.writer, from: before.rig)
    #expect(rig.ask(writer, ReattachRequest.publisher(before.grant, before.number)) == .done)
    #expect(rig.ask(writer, .reattached) == .done)
    for index in 2..<64 {
      #expect(rig.grow(writer, before.grant, index)?.extent?.index == index)
      #expect(rig.ledger.usedByteCount <= 16 << 20)
    }
    // What was granted since has only known holders.
    let retired = rig.trace.compactMap { if case .unlinkRing(let ring) = $0 { ring } else { nil } }
    #expect(retired.contains { $0.rawValue <= 1000 })
    #expect(retired.allSatisfy { $0.rawValue <= 1000 } && rig.pooledByteCount > 0)
    consistent(rig)
  }

  @Test func `what was answered is in the records: a second broker finds what the first had`()
    throws
  {
    let before = try Stream()
    let once = before.rig.killed()
    let twice = once.killed()
    #expect(once.journal.blobs == twice.journal.blobs)
    #expect(once.journal.clients == twice.journal.clients)
    #expect(before.rig.journal.blobs == once.journal.blobs, "nothing had to be written")
    consistent(twice)
  }

  @Test func `a publisher that died meanwhile has failed its blob, and nothing it writes counts`()
    throws
  {
    let before = try Stream()
    let rig = before.rig.killed(dead: [100])
    let (_, post) = try need(rig.posted(before.grant.blob.generation))
    #expect(post.state == .failed && post.causeCode == .abandoned)
    #expect(post.epoch == before.grant.blob.epoch + 1)
    #expect(!rig.ledger.isReturning)
    consistent(rig)
  }

  @Test func `who does not come back in time has hung up; its rings are never used again`() throws {
    let before = try Stream()
    var rig = before.rig.killed()
    rig.pass(.seconds(4))
    rig.send(.tick)
    #expect(rig.ledger.isReturning)
    rig.pass(.seconds(1))
    rig.send(.tick)
    #expect(!rig.ledger.isReturning)
    #expect(try need(rig.posted(before.grant.blob.generation)).post.state == .failed)
    consistent(rig)
    let other = rig.connect(process: 7)
    #expect(rig.ask(other, .remove(RemoveRequest(key: "stream", generation: nil))) == .done)
    #expect(rig.trace.unlinked.isEmpty, "its process lives")
    rig.send(.exited(SessionID(rawValue: 1000)))
    #expect(rig.trace.unlinked.count == 2 && rig.pooledByteCount == 0)
    consistent(rig)
  }

  @Test func `who only watches is not waited for`() throws {
    var rig = Rig()
    let watcher = rig.connect()
    let watch = WatchRequest(prefix: [], after: nil, wantsProgress: false)
    rig.post(watcher, .watch(watch))
    rig.post(watcher, .watch(watch))
    #expect(rig.journal.clients.isEmpty)
    #expect(!rig.killed().ledger.isReturning)
    _ = rig.ask(watcher, .ping)
    #expect(rig.killed().ledger.isReturning, "it may have something to come back to")
  }

  @Test func `a client that had asked for nothing holds nothing up, and is known when it comes`()
    throws
  {
    var before = try Stream()
    let (idle, lost) = (before.rig.connect(process: 8), before.rig.connect(process: 9))
    var rig = before.rig.killed()
    let writer = try rig.comeBack(before.writer, from: before.rig)
    #expect(rig.ask(writer, ReattachRequest.publisher(before.grant, before.number)) == .done)
    #expect(rig.ask(writer, .reattached) == .done)
    #expect(rig.ledger.returning == nil, "nobody else is waited for")
    let back = try rig.comeBack(idle, from: before.rig, process: 8)
    #expect(rig.ask(back, .reattached) == .done)
    consistent(rig)
    rig.pass(.seconds(5))
    rig.send(.tick)
    #expect(rig.ask(back, .ping) == .pong)
    #expect(!rig.ledger.isReturning)
    let gone = try need(before.rig.welcome(of: lost)).clientID
    #expect(rig.trace.contains(.eraseClient(gone)))
    consistent(rig)
  }

  @Test func `who comes too late is told that nobody knows it`() throws {
    let before = try Stream()
    var rig = before.rig.killed()
    rig.pass(.seconds(5))
    rig.send(.tick)
    let late = rig.connectOnly()
    let token = try need(before.rig.welcome(of: before.writer)).token
    rig.post(late, .hello(Rig.hello(token: token)))
    #expect(try need(rig.welcome(of: late)).isAwaited == false)
    #expect(
      rig.ask(late, ReattachRequest.publisher(before.grant, before.number))?.code == .closed)
  }

  @Test func `nobody comes back as another process, or with another user's token`() throws {
    let before = try Stream()
    var rig = before.rig.killed()
    let token = try need(before.rig.welcome(of: before.writer)).token
    let child = rig.connectOnly(process: 101)
    rig.post(child, .hello(Rig.hello(token: token)))
    #expect(try need(rig.welcome(of: child)).isAwaited == false)
    #expect(rig.ledger.isReturning)
    _ = try rig.comeBack(before.writer, from: before.rig)
  }

  @Test func `a handle that is not taken up again has been given up`() throws {
    let before = try Stream()
    var rig = before.rig.killed()
    let writer = try rig.comeBack(before.writer, from: before.rig)
    #expect(rig.ask(writer, .reattached) == .done)
    #expect(try need(rig.posted(before.grant.blob.generation)).post.state == .failed)
    consistent(rig)
  }

  @Test func `a handle that was never granted is not taken up`() throws {
    let before = try Stream()
    var rig = before.rig.killed()
    let writer = try rig.comeBack(before.writer, from: before.rig)
    #expect(
      rig.ask(writer, ReattachRequest.publisher(before.grant, before.number + 7))?.code
        == .closed)
    var later = before.grant
    later.blob.epoch += 1
    #expect(rig.ask(writer, ReattachRequest.publisher(later, before.number))?.code == .fenced)
    later.blob.generation = Generation(rawValue: 999)
    #expect(rig.ask(writer, ReattachRequest.reader(later, 3))?.code == .closed)
    consistent(rig)
  }

  @Test func `readers come back, also to a blob that was removed`() throws {
    var rig = Rig()
    let (writer, reader) = (rig.connect(), rig.connect(process: 8))
    let grant = try need(rig.sealed(writer, "k", byteCount: 5000))
    let opened = rig.post(reader, .open(OpenRequest(key: "k", waits: false, observes: false)))
    #expect(rig.reply(reader, opened)?.grant != nil)
    #expect(rig.ask(writer, .remove(RemoveRequest(key: "k", generation: nil))) == .done)
    var next = rig.killed()
    consistent(next)
    let back = try next.comeBack(reader, from: rig, process: 8)
    #expect(next.ask(back, ReattachRequest.reader(grant, opened)) == .done)
    #expect(next.ask(back, ReattachRequest.reader(grant, opened)) == .done, "twice is once")
    let other = try next.comeBack(writer, from: rig)
    for session in [back, other] { #expect(next.ask(session, .reattached) == .done) }
    #expect(next.info(other, "k") == nil)
    #expect(
      next.ask(back, .attachExtent(ExtentRequest(generation: grant.blob.generation, index: 0)))?
        .extent != nil)
    #expect(next.sealed(other, "k", byteCount: 10) != nil, "the key is free")
    next.close(back, BlobReference(generation: grant.blob.generation, epoch: 0))
    #expect(next.trace.contains(.eraseBlob(grant.blob.generation)))
    consistent(next)
  }

  // MARK: Asked again

  @Test func `requests whose answers were lost are answered again`() throws {
    var rig = Rig()
    let writer = rig.connect()
    var request = CreateRequest(key: "shared")
    let terms = CreateTerms(ownership: .joinable, idleLimit: nil, resumes: false)
    let created = rig.post(writer, .createWith(request, terms))
    let grant = try need(rig.reply(writer, created)?.grant)
    let second = rig.connect(process: 8)
    let joined = rig.post(second, .join(JoinRequest(key: "shared", generation: nil)))
    request = CreateRequest(key: "small")
    request.inlineBytes = [1, 2, 3]
    let inline = rig.post(writer, .create(request))
    let small = try need(rig.reply(writer, inline)?.grant)
    var next = rig.killed()
    let back = try next.comeBack(writer, from: rig)
    let other = try next.comeBack(second, from: rig, process: 8)
    next.send(.request(back, number: created, .createWith(CreateRequest(key: "shared"), terms)))
    #expect(next.reply(back, created)?.grant?.blob == grant.blob)
    next.send(.request(back, number: inline, .create(request)))
    #expect(next.reply(back, inline)?.grant?.blob == small.blob)
    next.send(
      .request(other, number: joined, .join(JoinRequest(key: "shared", generation: nil))))
    #expect(next.reply(other, joined)?.grant?.blob == grant.blob)
    for session in [back, other] { #expect(next.ask(session, .reattached) == .done) }
    consistent(next)
    #expect(try need(next.posted(grant.blob.generation)).post.state == .open)
    #expect(next.ask(back, .create(request))?.code == .keyExists, "another request is another")
  }

  @Test func `a seal that was not answered is answered, by the same client`() throws {
    var before = try Stream()
    let seal = Request.seal(SealRequest(blob: before.grant.blob, byteCount: 5))
    #expect(before.rig.ask(before.writer, seal) == .done)
    var rig = before.rig.killed()
    let writer = try rig.comeBack(before.writer, from: before.rig)
    #expect(rig.ask(writer, seal) == .done)
    consistent(rig)
  }

  // MARK: Meanwhile

  @Test func `a claim waits until those are back that may hold the range`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let created = rig.post(
      writer,
      .createWith(
        CreateRequest(key: "shared"),
        CreateTerms(ownership: .joinable, idleLimit: nil, resumes: false)))
    let grant = try need(rig.reply(writer, created)?.grant)
    let second = rig.connect(process: 8)
    let joined = rig.post(second, .join(JoinRequest(key: "shared", generation: nil)))
    #expect(rig.claim(writer, grant, 0..<100)?.code == nil)
    var next = rig.killed()
    let other = try next.comeBack(second, from: rig, process: 8)
    #expect(next.ask(other, ReattachRequest.publisher(grant, joined)) == .done)
    #expect(next.ask(other, .reattached) == .done)
    let overlapping = next.post(other, .claim(ClaimRequest(blob: grant.blob, range: 50..<150)))
    let apart = next.post(other, .claim(ClaimRequest(blob: grant.blob, range: 100..<150)))
    let seal = next.post(other, .seal(SealRequest(blob: grant.blob, byteCount: 4096)))
    #expect(next.reply(other, overlapping) == nil && next.reply(other, seal) == nil)
    let back = try next.comeBack(writer, from: rig)
    var request = ReattachRequest(blob: grant.blob, role: .publisher, number: created)
    request.claims = [ReattachRequest.Claim(number: 77, range: 0..<100)]
    #expect(next.ask(back, .reattach(request)) == .done)
    #expect(next.reply(other, overlapping) == nil, "it may have more")
    #expect(next.ask(back, .reattached) == .done)
    #expect(next.reply(other, overlapping)?.code == .rangeOverlap)
    #expect(next.reply(other, apart)?.code == nil && next.reply(other, apart) != nil)
    #expect(next.reply(other, seal)?.code == .rangeOverlap)
    consistent(next)
  }

  @Test func `whom a publisher waits for it is told when they are back`() throws {
    var rig = Rig()
    let writer = rig.connect()
    var request = CreateRequest(key: "window")
    request.order = .appendOnly
    request.policy = .backpressure
    let created = rig.post(writer, .create(request))
    let grant = try need(rig.reply(writer, created)?.grant)
    let reader = rig.connect(process: 8)
    let opened = rig.post(reader, .open(OpenRequest(key: "window", waits: false, observes: false)))
    let place = SubscriptionRequest(generation: grant.blob.generation, entry: 3)
    #expect(rig.ask(reader, .subscribe(place)) == .done)
    var next = rig.killed()
    let back = try next.comeBack(writer, from: rig)
    #expect(next.ask(back, ReattachRequest.publisher(grant, created)) == .done)
    #expect(next.ask(back, .reattached) == .done)
    let asked = next.post(back, .subscriptions(grant.blob))
    #expect(next.reply(back, asked) == nil, "one is out: it must not be overtaken")
    let again = try next.comeBack(reader, from: rig, process: 8)
    #expect(next.ask(again, ReattachRequest.reader(grant, opened)) == .done)
    #expect(next.ask(again, .subscribe(place)) == .done)
    #expect(next.ask(again, .reattached) == .done)
    guard case .subscriptions(let list) = try need(next.reply(back, asked)) else {
      Issue.record("no list")
      return
    }
    #expect(list.subscriptions.map(\.entry) == [3])
    #expect(list.version != 1, "no version of before")
    consistent(next)
  }

  @Test func `nothing of before is evicted or spilled while somebody is out; who needs room waits`()
    throws
  {
    var rig = Rig(memory: 8 << 20)
    let (writer, reader) = (rig.connect(), rig.connect(process: 8))
    let grant = try need(rig.sealed(writer, "old", byteCount: 5 << 20))
    let opened = rig.post(reader, .open(OpenRequest(key: "old", waits: false, observes: false)))
    var next = rig.killed()
    let back = try next.comeBack(writer, from: rig)
    #expect(next.ask(back, .reattached) == .done)
    var request = CreateRequest(key: "new")
    request.byteCount = 5 << 20
    let number = next.post(back, .create(request))
    #expect(next.reply(back, number) == nil)
    let again = try next.comeBack(reader, from: rig, process: 8)
    #expect(next.ask(again, ReattachRequest.reader(grant, opened)) == .done)
    #expect(next.ask(again, .reattached) == .done)
    #expect(next.reply(back, number)?.code == .noSpaceMemory, "it is being read")
    next.close(again, BlobReference(generation: grant.blob.generation, epoch: 0))
    #expect(next.ask(back, .create(request))?.grant != nil)
    consistent(next)
  }

  // MARK: Half done

  @Test func `a seal whose container is complete has happened`() throws {
    var rig = Rig.spooling()
    rig.holdsPersists = true
    let writer = rig.connect()
    let grant = try rig.begin(writer, "a", .retained)
    let seal = Request.seal(SealRequest(blob: grant.blob, byteCount: 9))
    let number = rig.post(writer, seal)
    var orders: [PersistOrder] = []
    for case .persist(let order) in rig.trace { orders.append(order) }
    var stored = try need(orders.first).blob
    stored.containerByteCount = 4096
    #expect(rig.reply(writer, number) == nil)
    var next = rig.killed(stored: [stored])
    #expect(try need(next.posted(grant.blob.generation)).post.state == .sealed)
    consistent(next)
    let back = try next.comeBack(writer, from: rig)
    next.send(.request(back, number: number, seal))
    #expect(next.reply(back, number) == .done)
    #expect(next.ask(back, .reattached) == .done)
    #expect(try need(next.info(back, "a")).byteCount == 9)
    consistent(next)
  }

  @Test func `a removal that had begun is finished`() throws {
    var rig = Rig.spooling()
    let writer = rig.connect()
    let grant = try rig.begin(writer, "a", .retained)
    #expect(rig.ask(writer, .seal(SealRequest(blob: grant.blob, byteCount: 9))) == .done)
    var stored: [StoredBlob] = []
    for case .persist(let order) in rig.trace { stored.append(order.blob) }
    #expect(rig.ask(writer, .remove(RemoveRequest(key: "a", generation: nil))) == .done)
    // All that had been written is the record: the container has its name, and rings are there.
    let gone = try need(rig.trace.place { $0 == .eraseBlob(grant.blob.generation) })
    let recorded = rig.trace[..<gone].last { action in
      if case .recordBlob = action { true } else { false }
    }
    guard case .recordBlob(var record) = try need(recorded) else { return }
    record.isNamed = false
    rig.trace.append(.recordBlob(record))
    let next = rig.killed(stored: stored)
    #expect(next.trace.contains(.withdrawContainer(grant.blob.generation)))
    #expect(next.ledger.owners["a"] == nil)
    consistent(next)
  }

  @Test func `what has nothing to stand on any more says so`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let grant = try need(rig.sealed(writer, "a", byteCount: 5000))
    let open = try need(rig.create(writer, "b"))
    var next = rig.killed { $0.loss = PatchbayError(.corrupt, "its ring is gone") }
    consistent(next)
    for generation in [grant, open].map(\.blob.generation) {
      let blob = try need(next.ledger.blobs[generation])
      #expect(blob.state == .failed && blob.cause == "its ring is gone")
    }
    let back = try next.comeBack(writer, from: rig)
    #expect(next.ask(back, .reattached) == .done)
    let again = next.ask(back, .create(CreateRequest(key: "a")))
    #expect(again?.grant != nil, "\(String(describing: again))")
    consistent(next)
  }
}
