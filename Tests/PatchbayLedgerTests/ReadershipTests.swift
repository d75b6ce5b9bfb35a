// The last reader of a production leaves: it goes on, it stops, or its publisher waits.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct ReadershipTests {
  private static func asked(
    _ policy: UnreadPolicy, tenure: Duration? = nil, resumes: Bool = true,
    failureLifetime: Duration? = nil
  ) -> Request {
    var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: resumes)
    terms.production.whenUnread = policy
    terms.production.tenure = tenure
    terms.production.failureLifetime = failureLifetime
    var create = CreateRequest(key: "k")
    create.byteCount = 10_000
    return .openOrCreate(OpenOrCreateRequest(create: create, terms: terms, standsBy: false))
  }

  /// A producer that reads its own blob.
  private struct Scene {
    var rig = Rig()
    let producer: SessionID
    let opened: UInt64
    let blob: BlobGrant

    init(_ policy: UnreadPolicy, failureLifetime: Duration? = nil) throws {
      producer = rig.connect(process: 1)
      opened = rig.post(producer, asked(policy, failureLifetime: failureLifetime))
      blob = try need(rig.reply(producer, opened)?.grant)
    }

    var state: Blob? { rig.ledger.blobs[blob.blob.generation] }
    mutating func stopReading() { rig.close(producer, blob.reader) }
  }

  // MARK: Finish

  @Test func `by default a production that nobody reads goes on to its end`() throws {
    var scene = try Scene(.finish)
    #expect(!scene.blob.pausesUnread)
    scene.stopReading()
    #expect(scene.state?.state == .open && scene.state?.isPaused == false)
    #expect(
      scene.rig.ask(
        scene.producer, .seal(SealRequest(blob: scene.blob.blob, byteCount: 10_000))) == .done)
  }

  // MARK: Stop

  @Test func `a production is stopped when its last reader closes, and its publisher is fenced`()
    throws
  {
    var scene = try Scene(.stop)
    let reader = scene.rig.connect(process: 2)
    let other = try need(scene.rig.open(reader, "k")?.grant)
    scene.stopReading()
    #expect(scene.state?.state == .open, "somebody reads it")
    scene.rig.close(reader, other.blob)
    #expect(scene.state?.state == .failed && scene.state?.causeCode == .abandoned)
    #expect(scene.state?.cause == "its last reader left")
    #expect(scene.rig.posted(scene.blob.blob.generation)?.post.state == .failed)
    let seal = SealRequest(blob: scene.blob.blob, byteCount: 10_000)
    #expect(scene.rig.ask(scene.producer, .seal(seal))?.code == .fenced)
  }

  @Test func `it is stopped when the process of its last reader ends, too`() throws {
    var scene = try Scene(.stop)
    let reader = scene.rig.connect(process: 2)
    _ = scene.rig.open(reader, "k")
    scene.stopReading()
    scene.rig.send(.hungUp(reader))
    #expect(scene.state?.cause == "its last reader left")
  }

  @Test func `who only observes does not keep a production going`() throws {
    var scene = try Scene(.stop)
    let observer = scene.rig.connect(process: 2)
    #expect(scene.rig.open(observer, "k", observes: true)?.grant != nil)
    scene.stopReading()
    #expect(scene.state?.state == .failed)
  }

  @Test func `what was covered of a stopped production is resumed by the next`() throws {
    var scene = try Scene(.stop, failureLifetime: .seconds(60))
    scene.stopReading()
    let next = scene.rig.connect(process: 2)
    guard case .created(let grant) = scene.rig.ask(next, Self.asked(.stop)) else {
      Issue.record("a stop is no failure that is told")
      return
    }
    #expect(grant.blob.generation > scene.blob.blob.generation)
    #expect(scene.rig.trace.contains { if case .copy = $0 { true } else { false } })
  }

  @Test func `a production that nobody has ever read is not stopped`() throws {
    var rig = Rig()
    let session = rig.connect()
    guard case .openOrCreate(let request) = Self.asked(.stop) else { return }
    let grant = try need(rig.ask(session, .createWith(request.create, request.terms))?.grant)
    rig.pass(.seconds(60))
    rig.send(.tick)
    #expect(rig.ledger.blobs[grant.blob.generation]?.state == .open)
  }

  // MARK: Removed

  private func remove(_ scene: inout Scene) {
    scene.rig.ask(scene.producer, .remove(RemoveRequest(key: "k", generation: nil)))
  }

  @Test(arguments: [false, true])
  func `who is paused ends when the blob is removed, for nobody can read it again`(
    isRemovedFirst: Bool
  ) throws {
    var scene = try Scene(.pause)
    if isRemovedFirst { remove(&scene) }
    #expect(scene.state?.state == .open, "it is read")
    scene.stopReading()
    if !isRemovedFirst {
      #expect(scene.state?.isPaused == true)
      remove(&scene)
    }
    let seal = scene.rig.ask(
      scene.producer, .seal(SealRequest(blob: scene.blob.blob, byteCount: 10_000)))
    #expect(seal?.code != nil, "it has ended")
    scene.rig.ask(scene.producer, .quiesced(scene.blob.blob))
    #expect(scene.state == nil, "and left nothing")
  }

  @Test func `what finishes unread finishes without a key as well`() throws {
    var scene = try Scene(.finish)
    scene.stopReading()
    remove(&scene)
    #expect(
      scene.rig.ask(
        scene.producer, .seal(SealRequest(blob: scene.blob.blob, byteCount: 10_000))) == .done)
  }

  // MARK: Pause

  @Test func `a publisher is told on the board to wait while nobody reads`() throws {
    var scene = try Scene(.pause)
    #expect(scene.blob.pausesUnread && !scene.blob.reading.pausesUnread)
    let generation = scene.blob.blob.generation
    #expect(scene.rig.posted(generation)?.post.isPaused == false)
    #expect(scene.state?.info.isPaused == false)
    scene.stopReading()
    #expect(scene.rig.posted(generation)?.post.isPaused == true)
    #expect(scene.state?.info.isPaused == true)
    let reader = scene.rig.connect(process: 2)
    let place = scene.rig.trace.count
    #expect(scene.rig.open(reader, "k")?.grant != nil)
    let slot = try need(scene.rig.posted(generation)).slot
    let posted = scene.rig.trace[place...].firstIndex {
      if case .post(slot, let post) = $0 { !post.isPaused } else { false }
    }
    let rung = scene.rig.trace[place...].firstIndex(of: .ring(slot))
    #expect(try need(posted) < need(rung), "first the board, then the bell")
  }

  @Test(arguments: [true, false])
  func `a drain stops what waits for readers, of which none come any more`(
    _ isPausedBefore: Bool
  ) throws {
    var scene = try Scene(.pause)
    if isPausedBefore { scene.stopReading() }
    scene.rig.send(.drainBegan)
    #expect(scene.rig.ledger.isDrained == isPausedBefore)
    if !isPausedBefore { scene.stopReading() }
    #expect(scene.state?.state == .failed && scene.state?.causeCode == .abandoned)
    #expect(scene.rig.ledger.isDrained)
  }

  @Test func `a paused publisher may end its blob`() throws {
    var scene = try Scene(.pause)
    scene.stopReading()
    let seal = SealRequest(blob: scene.blob.blob, byteCount: 10_000)
    #expect(scene.rig.ask(scene.producer, .seal(seal)) == .done)
    #expect(scene.state?.isPaused == false)
  }

  @Test func `while it is paused a publisher's tenure does not count`() throws {
    var rig = Rig()
    rig.partial = [0]
    let producer = rig.connect(process: 1)
    let tenure = Duration.seconds(8)
    let first = try need(rig.ask(producer, Self.asked(.pause, tenure: tenure))?.grant)
    func standBy() -> (SessionID, UInt64, BlobGrant)? {
      let session = rig.connect(process: 2)
      let opened = rig.post(session, Self.asked(.pause, tenure: tenure))
      guard let grant = rig.reply(session, opened)?.grant else { return nil }
      let number = rig.post(
        session, .standBy(StandByRequest(generation: grant.blob.generation, opened: opened)))
      return (session, number, grant)
    }
    func pass(_ count: Int) {
      for _ in 0..<count {
        rig.pass(tenure / 4)
        rig.send(.tick)
      }
    }
    let (one, _, reader) = try need(standBy())
    pass(3)
    rig.close(producer, first.reader)
    rig.close(one, reader.reader)
    pass(20)
    let (two, number, _) = try need(standBy())
    pass(3)
    #expect(rig.reply(two, number) == nil, "it has its whole tenure from then on")
    pass(1)
    #expect(rig.reply(two, number)?.grant != nil)
  }

  // MARK: Another broker

  @Test func `the next broker knows who waits, and whom a reader that comes back wakes`() throws {
    var scene = try Scene(.pause)
    let reader = scene.rig.connect(process: 2)
    let opened = scene.rig.post(
      reader, .open(OpenRequest(key: "k", waits: false, observes: false)))
    let generation = scene.blob.blob.generation
    scene.stopReading()
    // Read: it is not paused, and is not while its reader may still come back.
    var broker = scene.rig.killed()
    let producer = try broker.comeBack(scene.producer, from: scene.rig, process: 1)
    broker.ask(producer, ReattachRequest.publisher(scene.blob, scene.opened))
    broker.ask(producer, .reattached)
    #expect(broker.posted(generation)?.post.isPaused == false)
    let back = try broker.comeBack(reader, from: scene.rig, process: 2)
    #expect(broker.ask(back, ReattachRequest.reader(scene.blob, opened)) == .done)
    broker.ask(back, .reattached)
    #expect(broker.ledger.blobs[generation]?.isPaused == false)
    broker.close(back, scene.blob.reader)
    #expect(broker.posted(generation)?.post.isPaused == true)
    // Paused: it stays so until somebody reads.
    var third = broker.killed()
    #expect(third.posted(generation)?.post.isPaused == true)
    let late = third.connect(process: 3)
    #expect(third.open(late, "k")?.grant != nil)
    #expect(third.posted(generation)?.post.isPaused == false)
  }

  @Test(arguments: [UnreadPolicy.stop, .pause])
  func `a reader that does not come back has left when nobody is waited for any more`(
    _ policy: UnreadPolicy
  ) throws {
    var scene = try Scene(policy)
    let reader = scene.rig.connect(process: 2)
    _ = scene.rig.open(reader, "k")
    scene.stopReading()
    let generation = scene.blob.blob.generation
    var broker = scene.rig.killed(dead: [2])
    #expect(broker.ledger.blobs[generation]?.state == .open)
    let producer = try broker.comeBack(scene.producer, from: scene.rig, process: 1)
    broker.ask(producer, ReattachRequest.publisher(scene.blob, scene.opened))
    broker.ask(producer, .reattached)
    let blob = try need(broker.ledger.blobs[generation])
    #expect(policy == .stop ? blob.state == .failed : blob.isPaused)
  }

  @Test(arguments: [true, false])
  func `a removed blob that pauses unread ends when nobody is waited for who may read it`(
    comesBack: Bool
  ) throws {
    var scene = try Scene(.pause)
    let reader = scene.rig.connect(process: 2)
    let opened = scene.rig.post(
      reader, .open(OpenRequest(key: "k", waits: false, observes: false)))
    remove(&scene)
    scene.stopReading()
    let generation = scene.blob.blob.generation
    var broker = scene.rig.killed()
    let producer = try broker.comeBack(scene.producer, from: scene.rig, process: 1)
    broker.ask(producer, ReattachRequest.publisher(scene.blob, scene.opened))
    broker.ask(producer, .reattached)
    let seal = Request.seal(SealRequest(blob: scene.blob.blob, byteCount: 10_000))
    if comesBack {
      let back = try broker.comeBack(reader, from: scene.rig, process: 2)
      #expect(broker.ask(back, ReattachRequest.reader(scene.blob, opened)) == .done)
      broker.ask(back, .reattached)
      #expect(broker.ledger.blobs[generation]?.state == .open)
      #expect(broker.ask(producer, seal) == .done)
    } else {
      #expect(broker.ledger.blobs[generation]?.state == .open, "it may be on its way")
      let absent = broker.ledger.sessions.first { $0.value.phase == .absent }
      broker.send(.exited(try need(absent).key))
      #expect(broker.ask(producer, seal)?.code != nil, "it has ended")
    }
  }
}
