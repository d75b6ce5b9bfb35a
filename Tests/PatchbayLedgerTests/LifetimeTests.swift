// Times: how long a complete blob stays, to the nanosecond, what becomes of it then, and how long a
// failure is told.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

extension Rig {
  static let instant = Duration.nanoseconds(1)

  /// Creates a blob whose time is limited and seals it.
  mutating func mortal(
    _ session: SessionID, _ key: BlobKey, _ adjust: (inout LifetimeTerms) -> Void
  ) throws -> BlobGrant {
    var request = CreateRequest(key: key)
    request.byteCount = 10_000
    var terms = CreateTerms.plain
    adjust(&terms.lifetime)
    let grant = try need(ask(session, .createWith(request, terms))?.grant)
    try #require(ask(session, .seal(SealRequest(blob: grant.blob, byteCount: 10_000))) == .done)
    return grant
  }

  /// The changes that were told of a key from a place of the trace on.
  func toldChanges(of key: BlobKey, from place: Int = 0) -> [BlobChange.Kind] {
    trace[place...].flatMap { action -> [BlobChange.Kind] in
      guard case .reply(_, _, .events(let page), _) = action else { return [] }
      return page.changes.filter { $0.key == key }.map(\.kind)
    }
  }

  mutating func watchAll(_ session: SessionID) {
    post(session, .watch(WatchRequest(prefix: [], after: nil, wantsProgress: false)))
  }
}

@Suite struct LifetimeTests {
  private static let minute = Duration.seconds(60)

  // MARK: Boundaries

  @Test func `a time to live counts from the seal, and ends to the nanosecond`() throws {
    var rig = Rig()
    let session = rig.connect()
    var request = CreateRequest(key: "k")
    request.byteCount = 10_000
    var terms = CreateTerms.plain
    terms.lifetime.timeToLive = Self.minute
    let grant = try need(rig.ask(session, .createWith(request, terms))?.grant)
    // What is being written has all the time.
    rig.pass(.seconds(3600))
    #expect(rig.info(session, "k")?.expires == nil)
    #expect(rig.ask(session, .seal(SealRequest(blob: grant.blob, byteCount: 10_000))) == .done)
    #expect(
      rig.info(session, "k")?.expires?.rawValue
        == rig.now.wall.rawValue + Self.minute.wholeNanoseconds)
    rig.pass(Self.minute - Rig.instant)
    rig.send(.tick)
    #expect(rig.open(session, "k")?.grant != nil)
    rig.pass(Rig.instant)
    // No tick came, and nothing is served late all the same.
    #expect(rig.open(session, "k")?.code == .noSuchKey)
    #expect(rig.info(session, "k") == nil)
    #expect(rig.list(session)?.keys == [])
  }

  @Test func `a blob is taken away at its moment, and watchers are told that it has expired`()
    throws
  {
    var rig = Rig()
    let session = rig.connect()
    rig.watchAll(session)
    let grant = try rig.mortal(session, "k") { $0.timeToLive = Self.minute }
    #expect(
      rig.ledger.nextDeadline
        == rig.now.monotonicNanoseconds + Self.minute.wholeNanoseconds,
      "the loop is told when to look")
    rig.pass(Self.minute - Rig.instant)
    rig.send(.tick)
    #expect(rig.ledger.blobs[grant.blob.generation] != nil)
    rig.pass(Rig.instant)
    let place = rig.trace.count
    rig.send(.tick)
    #expect(rig.toldChanges(of: "k", from: place) == [.expired])
    #expect(rig.ledger.blobs[grant.blob.generation] == nil)
    #expect(rig.trace[place...].contains(.eraseBlob(grant.blob.generation)))
    #expect(rig.ledger.lifetimes.count == 0)
  }

  @Test func `an idle expiry counts from the last open, or from the seal`() throws {
    var rig = Rig()
    let session = rig.connect()
    _ = try rig.mortal(session, "k") { $0.idleExpiry = Self.minute }
    rig.pass(Self.minute - Rig.instant)
    let reader = try need(rig.open(session, "k")?.grant)
    rig.close(session, reader.blob)
    rig.pass(Self.minute - Rig.instant)
    rig.send(.tick)
    #expect(rig.open(session, "k", observes: true)?.grant != nil, "observing is no reading")
    rig.pass(Rig.instant)
    #expect(rig.open(session, "k")?.code == .noSuchKey)
  }

  @Test func `of both times the one counts that is over first`() throws {
    var rig = Rig()
    let session = rig.connect()
    _ = try rig.mortal(session, "k") {
      $0.timeToLive = Self.minute
      $0.idleExpiry = .seconds(40)
    }
    rig.pass(.seconds(39))
    #expect(rig.open(session, "k")?.grant != nil)
    rig.pass(.seconds(21))
    #expect(rig.open(session, "k")?.code == .noSuchKey, "it was read, and had its minute")
  }

  @Test func `bytes that come with their creation have a time as well`() throws {
    var rig = Rig()
    let session = rig.connect()
    var request = CreateRequest(key: "k")
    request.inlineBytes = [1, 2, 3]
    var terms = CreateTerms.plain
    terms.lifetime.timeToLive = Self.minute
    #expect(rig.ask(session, .createWith(request, terms))?.grant != nil)
    rig.pass(Self.minute - Rig.instant)
    #expect(rig.open(session, "k")?.grant?.inlineBytes == [1, 2, 3])
    rig.pass(Rig.instant)
    #expect(rig.open(session, "k")?.code == .noSuchKey)
  }

  // MARK: Who is spared

  @Test func `who has it open finishes undisturbed, and the key is free at once`() throws {
    var rig = Rig()
    let session = rig.connect()
    let grant = try rig.mortal(session, "k") { $0.timeToLive = Self.minute }
    let reader = try need(rig.open(session, "k")?.grant)
    rig.pass(Self.minute)
    #expect(rig.create(session, "k") != nil)
    #expect(
      rig.ask(session, .attachExtent(ExtentRequest(generation: grant.blob.generation, index: 0)))?
        .extent != nil)
    rig.close(session, reader.blob)
    #expect(rig.ledger.blobs[grant.blob.generation] == nil)
  }

  @Test func `what is pinned does not expire, and goes when it is unpinned`() throws {
    var rig = Rig()
    let session = rig.connect()
    _ = try rig.mortal(session, "k") { $0.timeToLive = Self.minute }
    rig.ask(session, .pin(PinRequest(key: "k", isPinned: true)))
    #expect(rig.info(session, "k")?.expires == nil)
    rig.pass(.seconds(3600))
    rig.send(.tick)
    #expect(rig.open(session, "k")?.grant != nil)
    rig.ask(session, .pin(PinRequest(key: "k", isPinned: false)))
    #expect(rig.open(session, "k")?.code == .noSuchKey)
  }

  @Test func `a removed blob's successor does not inherit its time`() throws {
    var rig = Rig()
    let session = rig.connect()
    _ = try rig.mortal(session, "k") { $0.timeToLive = Self.minute }
    rig.ask(session, .remove(RemoveRequest(key: "k", generation: nil)))
    _ = try rig.mortal(session, "k") { $0.timeToLive = Self.minute * 2 }
    rig.pass(Self.minute * 2 - Rig.instant)
    rig.send(.tick)
    #expect(rig.open(session, "k")?.grant != nil)
  }

  @Test func `times that were forgotten with their blobs leave nothing behind`() throws {
    var rig = Rig()
    let session = rig.connect()
    for _ in 0..<500 {
      _ = try rig.mortal(session, "k") { $0.timeToLive = .seconds(1_000_000) }
      rig.ask(session, .remove(RemoveRequest(key: "k", generation: nil)))
    }
    #expect(rig.ledger.lifetimes.count <= 66)
  }

  // MARK: Terms

  @Test func `a grace without an end, and a window with a time, are refused`() {
    var rig = Rig()
    let session = rig.connect()
    var terms = CreateTerms.plain
    terms.lifetime.grace = Self.minute
    #expect(
      rig.ask(session, .createWith(CreateRequest(key: "k"), terms))?.code == .protocolViolation)
    terms.lifetime = LifetimeTerms()
    terms.lifetime.timeToLive = Self.minute
    var window = CreateRequest(key: "k")
    window.policy = .dropOldest
    window.order = .appendOnly
    #expect(rig.ask(session, .createWith(window, terms))?.code == .protocolViolation)
  }

  @Test func `the longest time there is never ends`() throws {
    var rig = Rig()
    let session = rig.connect()
    _ = try rig.mortal(session, "k") {
      $0.timeToLive = .nanoseconds(Int64.max)
      $0.grace = .nanoseconds(Int64.max)
    }
    rig.pass(.seconds(1_000_000_000))
    rig.send(.tick)
    #expect(rig.open(session, "k")?.grant != nil)
  }

  // MARK: Another broker

  @Test func `the next broker knows how much time there is left`() throws {
    var rig = Rig()
    let session = rig.connect()
    _ = try rig.mortal(session, "ttl") { $0.timeToLive = Self.minute }
    _ = try rig.mortal(session, "idle") { $0.idleExpiry = Self.minute }
    rig.pass(.seconds(30))
    #expect(rig.open(session, "idle")?.grant != nil)
    rig.send(.hungUp(session))
    rig.send(.exited(session))
    var next = rig.killed()
    let other = next.connect()
    next.pass(.seconds(30) - Rig.instant)
    #expect(next.open(other, "ttl")?.grant != nil)
    next.pass(Rig.instant)
    #expect(next.open(other, "ttl")?.code == .noSuchKey)
    next.pass(.seconds(30) - Rig.instant)
    #expect(next.info(other, "idle") != nil, "its last open was recorded")
    next.pass(Rig.instant)
    #expect(next.open(other, "idle")?.code == .noSuchKey)
  }

  @Test func `what expires while there is no broker is not served by the next`() throws {
    var rig = Rig()
    let session = rig.connect()
    _ = try rig.mortal(session, "k") { $0.timeToLive = Self.minute }
    rig.pass(Self.minute)
    var next = rig.killed()
    let other = next.connect()
    #expect(next.open(other, "k")?.code == .noSuchKey)
  }

  @Test func `what was found on disk is as old as the wall clock says, never older than that`()
    throws
  {
    func broker(after duration: Duration) throws -> (Rig, SessionID) {
      var rig = Rig.spooling()
      var request = CreateRequest(key: "k")
      request.acknowledgement = .durable
      var stored = StoredBlob(
        request: request, generation: Generation(rawValue: 1),
        access: Access(uid: Rig.user, gid: 100, mode: 0o600),
        plan: try ExtentPlan(first: Rig.extent, limit: Rig.extent), byteCount: 100,
        segmentByteCount: 1 << 18, created: rig.now.wall, modified: rig.now.wall,
        containerByteCount: 100)
      stored.lifetime.timeToLive = Self.minute
      rig.pass(duration)
      rig.send(.found([stored], last: stored.generation))
      let session = rig.connect()
      return (rig, session)
    }
    var (young, session) = try broker(after: Self.minute - Rig.instant)
    #expect(young.open(session, "k")?.grant != nil)
    young.pass(Rig.instant)
    #expect(young.open(session, "k")?.code == .noSuchKey)
    var (old, other) = try broker(after: Self.minute)
    #expect(old.open(other, "k")?.code == .noSuchKey)
    // A clock that was set back makes nothing live longer than its whole time from now on.
    var (ahead, third) = try broker(after: .seconds(-3))
    ahead.pass(Self.minute)
    #expect(ahead.open(third, "k")?.code == .noSuchKey)
  }

  // MARK: Failures

  private func production(_ failureLifetime: Duration?) -> Request {
    var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: false)
    terms.production.failureLifetime = failureLifetime
    return .openOrCreate(
      OpenOrCreateRequest(create: CreateRequest(key: "k"), terms: terms, standsBy: false))
  }

  @Test func `a failure is told for as long as it was said, then production begins anew`() throws {
    var rig = Rig()
    let session = rig.connect()
    let grant = try need(rig.ask(session, production(Self.minute))?.grant)
    rig.ask(session, .fail(FailRequest(blob: grant.blob, code: .contentDiverged, cause: "no")))
    rig.pass(Self.minute - Rig.instant)
    let refusal = rig.ask(session, production(Self.minute))?.error
    #expect(refusal?.code == .contentDiverged && refusal?.cause == "no")
    rig.pass(Rig.instant)
    guard case .created(let next) = rig.ask(session, production(Self.minute)) else {
      Issue.record("not created")
      return
    }
    #expect(next.blob.generation > grant.blob.generation)
  }

  @Test
  func `without a lifetime a failure holds nobody back, and it never holds a plain creation back`()
    throws
  {
    for lifetime in [nil, Self.minute] {
      var rig = Rig()
      let session = rig.connect()
      let grant = try need(rig.ask(session, production(lifetime))?.grant)
      rig.ask(session, .fail(FailRequest(blob: grant.blob, cause: "no")))
      if lifetime == nil {
        #expect(rig.ask(session, production(nil))?.grant != nil)
      } else {
        #expect(rig.create(session, "k") != nil)
      }
    }
  }

  @Test func `the next broker goes on telling a failure, no longer than the one before`() throws {
    var rig = Rig()
    let session = rig.connect()
    let grant = try need(rig.ask(session, production(Self.minute))?.grant)
    rig.ask(session, .fail(FailRequest(blob: grant.blob, cause: "no")))
    rig.pass(.seconds(30))
    var next = rig.killed()
    let other = next.connect()
    next.pass(.seconds(30) - Rig.instant)
    #expect(next.ask(other, production(Self.minute))?.error?.cause == "no")
    next.pass(Rig.instant)
    guard case .created = next.ask(other, production(Self.minute)) else {
      Issue.record("not created")
      return
    }
  }

  @Test func `failures that are told are the first to go when memory is short`() throws {
    var rig = Rig(memory: 2 << 20)
    let session = rig.connect()
    #expect(rig.sealed(session, "a", byteCount: 1 << 16) != nil)
    let grant = try need(rig.ask(session, production(Self.minute))?.grant)
    rig.ask(session, .fail(FailRequest(blob: grant.blob, cause: "no")))
    rig.ask(session, .quiesced(grant.blob))
    rig.close(session, grant.reader)
    var count = 0
    while rig.info(session, "k") != nil {
      count += 1
      let key = try BlobKey(Array("b\(count)".utf8))
      try #require(count < 99 && rig.sealed(session, key, byteCount: 1 << 16) != nil)
    }
    #expect(rig.info(session, "a") != nil, "\(rig.list(session)?.keys ?? [])")
  }
}
