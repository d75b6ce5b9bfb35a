// Several users on one ledger: who sees what, who may take what away, and what one of them may have.

import PatchbayLedger
import PatchbayTypes
import PatchbayWire
import Testing

@Suite struct OtherUserTests {
  private static let stranger: UInt32 = 2000
  private static let member: UInt32 = 3000

  private func shared(_ adjust: (inout LedgerLimits) -> Void = { _ in }) -> Rig {
    Rig {
      $0.isShared = true
      adjust(&$0)
    }
  }

  // MARK: Reading

  /// Who may read a blob of each mode whose owner is user 2000, group 200.
  @Test(
    arguments: [
      (0o600, uid: 3000, gid: 300, groups: [], false), (0o604, 3000, 300, [], true),
      (0o640, 3000, 300, [], false), (0o640, 3000, 200, [], true),
      (0o640, 3000, 300, [100, 200], true),
      // As for a file: the first class that fits decides.
      (0o604, 3000, 200, [], false), (0o604, 3000, 300, [200], false),
      (0o066, 2000, 300, [], true), (0o000, 1000, 300, [], true), (0o000, 0, 300, [], true),
      (0o622, 3000, 200, [], false),
    ] as [(UInt16, uid: UInt32, gid: UInt32, groups: [UInt32], Bool)])
  func `owner, group and mode decide who reads`(
    mode: UInt16, uid: UInt32, gid: UInt32, groups: [UInt32], isAllowed: Bool
  ) throws {
    var rig = shared()
    let owner = rig.connect(uid: 2000, gid: 200)
    for (key, inline) in [("ring", nil), ("inline", [1, 2])] as [(BlobKey, [UInt8]?)] {
      _ = try need(
        rig.create(owner, key) {
          $0.mode = mode
          $0.inlineBytes = inline
        })
    }
    let peer = rig.connect(uid: uid, gid: gid, groups: groups)
    for key in ["ring", "inline"] as [BlobKey] {
      #expect((rig.open(peer, key)?.code == .noSuchKey) == !isAllowed)
      #expect((rig.open(peer, key, observes: true)?.code == .noSuchKey) == !isAllowed)
      #expect((rig.info(peer, key) != nil) == isAllowed)
    }
    #expect(rig.list(peer)?.keys == (isAllowed ? ["inline", "ring"] : []))
  }

  @Test func `without sharing every other user is refused`() {
    var rig = Rig()
    for uid in [0, Self.stranger] {
      let session = rig.connectOnly(uid: uid)
      #expect(rig.reply(session, 0)?.code == .notPermitted)
    }
  }

  @Test func `the grant says whose the rings are`() throws {
    var rig = shared()
    let owner = rig.connect(uid: Self.stranger)
    let created = try need(rig.create(owner, "k") { $0.mode = 0o644 })
    #expect(!created.isForeign)
    let same = rig.connect(uid: Self.stranger)
    #expect(try need(rig.open(same, "k")?.grant).isForeign == false)
    for uid in [Rig.user, 0, Self.member] {
      let other = rig.connect(uid: uid)
      #expect(try need(rig.open(other, "k")?.grant).isForeign)
    }
  }

  @Test func `a wait for a key goes on while it has a blob that one may not read`() throws {
    var rig = shared()
    let owner = rig.connect(uid: Self.stranger)
    let peer = rig.connect(uid: Self.member)
    let early = rig.post(peer, .open(OpenRequest(key: "k", waits: true, observes: false)))
    _ = try need(rig.create(owner, "k") { $0.inlineBytes = [1] })
    let late = rig.post(peer, .open(OpenRequest(key: "k", waits: true, observes: false)))
    #expect(rig.reply(peer, early) == nil)
    #expect(rig.reply(peer, late) == nil)
    #expect(rig.ask(owner, .remove(RemoveRequest(key: "k", generation: nil))) == .done)
    _ = try need(
      rig.create(owner, "k") {
        $0.inlineBytes = [2]
        $0.mode = 0o644
      })
    #expect(rig.reply(peer, early)?.grant?.inlineBytes == [2])
    #expect(rig.reply(peer, late)?.grant?.inlineBytes == [2])
  }

  @Test func `a board is for those who may read its blobs`() throws {
    var rig = shared()
    let owner = rig.connect(uid: Self.stranger)
    let secret = try need(rig.create(owner, "secret"))
    let open = try need(rig.create(owner, "open") { $0.mode = 0o644 })
    #expect(secret.board != open.board)
    let peer = rig.connect(uid: Self.member)
    #expect(rig.ask(peer, .attachBoard(BoardRequest(board: secret.board)))?.code == .notPermitted)
    let number = rig.post(peer, .attachBoard(BoardRequest(board: open.board)))
    #expect(rig.descriptors(peer, number) == [.board(open.board), .doorbells(open.board)])
  }

  // MARK: Taking away

  @Test func `only the owner, the broker's user and root remove and replace`() throws {
    var rig = shared()
    let owner = rig.connect(uid: Self.stranger)
    let peer = rig.connect(uid: Self.member)
    func make(_ key: BlobKey, mode: UInt16) throws {
      _ = try need(
        rig.create(owner, key) {
          $0.inlineBytes = [1]
          $0.mode = mode
        })
    }
    try make("hidden", mode: 0o600)
    try make("read", mode: 0o666)
    for replaces in [false, true] {
      let error = rig.createError(peer, "hidden") { $0.replaces = replaces }
      #expect(error == .notPermitted)
    }
    #expect(rig.createError(peer, "read") == .keyExists)
    #expect(rig.createError(peer, "read") { $0.replaces = true } == .notPermitted)
    let remove = { (key: BlobKey) in Request.remove(RemoveRequest(key: key, generation: nil)) }
    #expect(rig.ask(peer, remove("hidden"))?.code == .noSuchKey)
    #expect(rig.ask(peer, remove("read"))?.code == .notPermitted)
    #expect(rig.list(owner)?.keys == ["hidden", "read"])
    #expect(rig.ask(rig.connect(), remove("hidden")) == .done)
    #expect(rig.ask(rig.connect(uid: 0), remove("read")) == .done)
  }

  @Test func `a failed blob of another user is not begun anew`() throws {
    var rig = shared()
    let owner = rig.connect(uid: Self.stranger)
    let grant = try need(rig.create(owner, "k") { $0.mode = 0o644 })
    rig.ask(owner, .abandon(grant.blob))
    let peer = rig.connect(uid: Self.member)
    #expect(rig.createError(peer, "k") == .notPermitted)
    #expect(rig.create(owner, "k") != nil)
  }

  @Test func `another user cannot publish under a stolen reference`() throws {
    var rig = shared()
    let owner = rig.connect(uid: Self.stranger)
    let grant = try need(rig.create(owner, "k") { $0.mode = 0o666 })
    let peer = rig.connect(uid: Self.member)
    #expect(rig.ask(peer, .seal(SealRequest(blob: grant.blob, byteCount: 0)))?.code == .closed)
    #expect(rig.ask(peer, .abandon(grant.blob))?.code == .closed)
    #expect(rig.ask(peer, .grow(GrowRequest(blob: grant.blob, index: 1)))?.code == .closed)
    let ring = Request.attachExtent(
      ExtentRequest(generation: grant.blob.generation, index: 0))
    #expect(rig.ask(peer, ring)?.code == .closed)
    _ = rig.open(peer, "k")
    let number = rig.post(peer, ring)
    for case .ring(_, let isWritable) in rig.descriptors(peer, number) { #expect(!isWritable) }
    #expect(rig.info(owner, "k")?.state == .open)
  }

  // MARK: Shares

  @Test func `one user takes no more memory than its share, and is told whose it is`() throws {
    var rig = shared { $0.memoryPerOtherUser = 200_000 }
    let peer = rig.connect(uid: Self.stranger)
    _ = try need(rig.create(peer, "a") { $0.byteCount = 100_000 })
    var request = CreateRequest(key: "b")
    request.byteCount = 100_000
    let error = try need(rig.ask(peer, .create(request))?.error)
    #expect(error.code == .noSpaceMemory)
    #expect(error.message.contains("user 2000"))
    #expect(error.message.contains("200000"))
    for uid in [Rig.user, 0, Self.member] {
      let other = rig.connect(uid: uid)
      let grant = rig.create(other, try BlobKey("of\(uid)")) { $0.byteCount = 100_000 }
      #expect(grant != nil)
    }
  }

  @Test func `half of the memory is one user's share by default`() throws {
    var rig = Rig(memory: 4 << 20) { $0.isShared = true }
    let peer = rig.connect(uid: Self.stranger)
    #expect(rig.createError(peer, "big") { $0.byteCount = 2 << 20 } == .noSpaceMemory)
    #expect(rig.create(peer, "small") { $0.byteCount = 1 << 20 } != nil)
    #expect(rig.create(rig.connect(), "own") { $0.byteCount = 2 << 20 } != nil)
  }

  @Test func `a full share evicts the user's own blobs, least recently read first`() throws {
    var rig = shared { $0.memoryPerOtherUser = 220_000 }
    let writer = rig.connect()
    _ = rig.sealed(writer, "own", byteCount: 60_000)
    let peer = rig.connect(uid: Self.stranger)
    for key in ["a", "b", "c"] as [BlobKey] { _ = rig.sealed(peer, key, byteCount: 60_000) }
    #expect(rig.list(writer)?.keys == ["b", "c", "own"])
    let grow = try need(
      rig.create(peer, "d") {
        $0.firstExtent = 4096
        $0.extentLimit = 65536
      })
    _ = rig.ask(peer, .grow(GrowRequest(blob: grow.blob, index: 4)))
    #expect(rig.list(writer)?.keys == ["c", "d", "own"])
  }

  private func userBytes(_ rig: inout Rig, _ session: SessionID) throws -> UInt64 {
    try need(rig.statistics(session)).userMemoryByteCount
  }

  private func remove(_ rig: inout Rig, _ session: SessionID, _ key: BlobKey) {
    rig.ask(session, .remove(RemoveRequest(key: key, generation: nil)))
  }

  @Test func `a ring in the pool is charged to nobody, and to its user when it is taken`() throws {
    var rig = shared { $0.memoryPerOtherUser = 200_000 }
    let peer = rig.connect(uid: Self.stranger)
    let first = try need(rig.sealed(peer, "a", byteCount: 100_000))
    let (charged, used) = (try userBytes(&rig, peer), rig.ledger.usedByteCount)
    remove(&rig, peer, "a")
    #expect(try userBytes(&rig, peer) == 0)
    #expect(rig.ledger.usedByteCount == used && rig.pooledByteCount > 100_000)
    let second = try need(rig.sealed(peer, "b", byteCount: 100_000))
    #expect(second.extent?.ringID == first.extent?.ringID && second.extent?.useNumber == 2)
    #expect(try userBytes(&rig, peer) == charged && rig.ledger.usedByteCount == used)
    // Held by a reader it is in use, whatever became of its key.
    _ = rig.open(peer, "b")
    remove(&rig, peer, "b")
    #expect(rig.createError(peer, "c") { $0.byteCount = 100_000 } == .noSpaceMemory)
  }

  @Test func `no user gets the ring of another, however alike`() throws {
    var rig = shared()
    let owner = rig.connect(uid: Self.stranger)
    _ = try need(rig.sealed(owner, "a", byteCount: 100_000))
    remove(&rig, owner, "a")
    for (uid, gid) in [(Self.member, 100), (Rig.user, 100), (0, 100), (Self.stranger, 7)]
      as [(UInt32, UInt32)]
    {
      let other = rig.connect(uid: uid, gid: gid)
      #expect(rig.sealed(other, try BlobKey("of\(uid)-\(gid)"), byteCount: 100_000) != nil)
    }
    #expect(rig.trace.reused.isEmpty)
    #expect(rig.sealed(owner, "b", byteCount: 100_000) != nil)
    #expect(rig.trace.reused.count == 1)
  }

  @Test func `with a full share the blob that is evicted gives its ring to the next`() throws {
    var rig = shared { $0.memoryPerOtherUser = 220_000 }
    let writer = rig.connect()
    _ = rig.sealed(writer, "own", byteCount: 60_000)
    let peer = rig.connect(uid: Self.stranger)
    for number in 0..<20 {
      #expect(rig.sealed(peer, try BlobKey("k\(number)"), byteCount: 60_000) != nil)
      #expect(try userBytes(&rig, peer) <= 220_000)
    }
    #expect(rig.trace.reused.count == 18 && rig.trace.unlinked.isEmpty)
    #expect(rig.list(writer)?.keys == ["k18", "k19", "own"])
  }

  /// The user comes and goes with blobs of all sizes, so that nothing of the pool is of use to it.
  @Test func `what one user leaves in the pool makes room for others before any blob goes`() throws
  {
    var rig = Rig(memory: 2 << 20) {
      $0.isShared = true
      $0.memoryPerOtherUser = 300_000
    }
    let writer = rig.connect()
    _ = rig.sealed(writer, "own", byteCount: 200_000)
    let peer = rig.connect(uid: Self.stranger)
    for pages in 1...40 {
      #expect(rig.sealed(peer, "k", byteCount: pages * 4096) != nil)
      remove(&rig, peer, "k")
      #expect(rig.ledger.usedByteCount <= 2 << 20)
    }
    #expect(rig.pooledByteCount > 1_000_000 && rig.trace.unlinked.count > 0, "the pool was full")
    #expect(rig.sealed(writer, "large", byteCount: 1_500_000) != nil)
    #expect(rig.list(writer)?.keys == ["large", "own"])
  }

  @Test func `a reader of another user that hung up keeps a ring from the pool while it lives`()
    throws
  {
    var rig = shared()
    let writer = rig.connect()
    var request = CreateRequest(key: "k")
    request.byteCount = 100_000
    request.mode = 0o644
    let blob = try need(rig.ask(writer, .create(request))?.grant).blob
    #expect(rig.ask(writer, .seal(SealRequest(blob: blob, byteCount: 100_000))) == .done)
    let readers = [Self.stranger, Self.member].map { rig.connect(uid: $0) }
    for reader in readers { #expect(rig.open(reader, "k")?.grant?.isForeign == true) }
    remove(&rig, writer, "k")
    rig.send(.hungUp(readers[0]))
    rig.send(.exited(readers[1]))
    rig.pass(.seconds(60))
    rig.send(.tick)
    #expect(rig.freed.isEmpty && rig.pooledByteCount == 0, "it has the ring's descriptor")
    rig.send(.exited(readers[0]))
    #expect(rig.freed.count == 1 && rig.pooledByteCount > 100_000)
  }

  @Test func `handles, waits, blobs, connections and modes of one user are bounded`() throws {
    var rig = shared {
      $0.handlesPerOtherUser = 3
      $0.waitingOpensPerOtherUser = 2
      $0.blobsPerOtherUser = 4
      $0.connectionsPerOtherUser = 2
      $0.accessClassesPerOtherUser = 1
    }
    let first = rig.connect(uid: Self.stranger)
    let second = rig.connect(uid: Self.stranger)
    let third = rig.connectOnly(uid: Self.stranger)
    #expect(rig.reply(third, 0)?.code == .limitReached)
    let a = try need(rig.create(first, "a")).blob
    _ = try need(rig.create(first, "b"))
    let c = try need(rig.create(second, "c")).blob
    #expect(rig.createError(second, "d") == .limitReached)
    rig.abandon(first, a)
    #expect(rig.createError(second, "d") { $0.mode = 0o644 } == .limitReached)
    #expect(rig.create(second, "d") != nil)
    #expect(rig.createError(second, "e") == .limitReached, "three handles again")
    rig.abandon(second, c)
    for key in ["e", "f"] as [BlobKey] {
      #expect(rig.createError(second, key) { $0.inlineBytes = [] } == nil, "a failed one leaves")
    }
    _ = rig.post(first, .open(OpenRequest(key: "x", waits: true, observes: false)))
    _ = rig.post(second, .open(OpenRequest(key: "y", waits: true, observes: false)))
    #expect(rig.open(second, "z", waits: true)?.code == .limitReached)
    let member = rig.connect(uid: Self.member)
    #expect(rig.create(member, "m") { $0.mode = 0o640 } != nil)
    #expect(rig.list(rig.connect())?.keys == ["b", "d", "e", "f", "m"])
  }

  // MARK: Holding a publisher

  private func window(_ rig: inout Rig, _ writer: SessionID) throws -> BlobGrant {
    try need(
      rig.create(writer, "w") {
        $0.policy = .backpressure
        $0.order = .appendOnly
        $0.mode = 0o644
      })
  }

  private func subscriptions(
    _ rig: inout Rig, _ writer: SessionID, _ blob: BlobReference
  ) throws -> [Subscription] {
    guard case .subscriptions(let list) = rig.ask(writer, .subscriptions(blob)) else { return [] }
    return list.subscriptions
  }

  @Test func `another user that held a publisher for too long holds it no more`() throws {
    var rig = shared()
    let writer = rig.connect()
    let blob = try window(&rig, writer).blob
    let generation = blob.generation
    func subscribe(_ session: SessionID, _ entry: Int) -> Reply? {
      rig.ask(session, .subscribe(SubscriptionRequest(generation: generation, entry: entry)))
    }
    let peers = [Self.stranger, Self.stranger, Self.member, Rig.user, 0].map {
      rig.connect(uid: $0)
    }
    for peer in peers {
      _ = rig.open(peer, "w")
      #expect(subscribe(peer, 1) == .done)
      #expect(subscribe(peer, 2) == .done)
    }
    for (peer, left) in [(peers[0], 6), (peers[2], 4), (peers[3], 3), (peers[4], 2)] {
      let slow = Subscription(clientID: rig.clientID(of: peer), entry: 1)
      let before = try subscriptions(&rig, writer, blob)
      #expect(before.contains(slow))
      #expect(rig.ask(writer, .detach(DetachRequest(blob: blob, subscription: slow))) == .done)
      let after = try subscriptions(&rig, writer, blob)
      #expect(after.count == left)
    }
    // They may come back and read, but are not waited for; who owns the broker is.
    for (peer, isHeld) in zip(peers, [false, false, false, true, true]) {
      let before = try subscriptions(&rig, writer, blob).count
      #expect(subscribe(peer, 7) == .done)
      let after = try subscriptions(&rig, writer, blob).count
      #expect(after == before + (isHeld ? 1 : 0))
    }
  }

  @Test func `one user takes a bounded part of the places of those that hold a publisher`() throws {
    var rig = shared { $0.subscriptionsPerOtherUser = 3 }
    let writer = rig.connect()
    let blob = try window(&rig, writer).blob
    let peers = [Self.stranger, Self.stranger, Self.member, Rig.user].map { rig.connect(uid: $0) }
    for peer in peers { _ = rig.open(peer, "w") }
    func subscribe(_ session: SessionID, _ entry: Int) -> PatchbayError.Code? {
      rig.ask(
        session, .subscribe(SubscriptionRequest(generation: blob.generation, entry: entry)))?.code
    }
    for entry in 0..<2 { #expect(subscribe(peers[0], entry) == nil) }
    #expect(subscribe(peers[1], 0) == nil)
    #expect(subscribe(peers[1], 1) == .limitReached)
    #expect(subscribe(peers[2], 0) == nil)
    for entry in 0..<5 { #expect(subscribe(peers[3], entry) == nil) }
  }

  // MARK: Asking

  @Test func `statistics tell each user what it has and may have`() throws {
    var rig = Rig(memory: 4 << 20) { $0.isShared = true }
    let peer = rig.connect(uid: Self.stranger)
    let other = rig.connect(uid: Self.member)
    _ = try need(rig.create(peer, "k") { $0.byteCount = 100_000 })
    let own = try need(rig.statistics(peer))
    #expect(own.userMemoryByteCount > 100_000 && own.userMemoryLimit == 2 << 20)
    #expect(own.userCount == 2)
    #expect(try need(rig.statistics(other)).userMemoryByteCount == 0)
    #expect(try need(rig.statistics(rig.connect())).userMemoryLimit == 4 << 20)
  }

  @Test func `why tells who waits for a key only to those who see its blob`() throws {
    var rig = shared()
    let owner = rig.connect(uid: Self.stranger, name: "owner")
    let peer = rig.connect(uid: Self.member, name: "peer")
    let host = rig.connect(name: "host")
    for session in [owner, peer] {
      _ = rig.post(session, .open(OpenRequest(key: "k", waits: true, observes: false)))
    }
    func names(_ session: SessionID, _ key: BlobKey) -> [String] {
      let number = rig.post(session, .why(WhyRequest(key: key)))
      for case .explain(session, number, let situation, _) in rig.trace {
        let parties = situation.publishers + situation.subscribers
        return (parties.map(\.name) + situation.waits.map(\.name)).sorted()
      }
      return ["none"]
    }
    #expect(names(peer, "k") == ["peer"])
    #expect(names(host, "k") == ["owner", "peer"])
    _ = try need(rig.create(owner, "hidden"))
    #expect(names(peer, "hidden") == [])
    #expect(names(host, "hidden") == ["owner"])
    _ = try need(rig.create(owner, "seen") { $0.mode = 0o644 })
    #expect(names(peer, "seen") == ["owner"])
  }

  @Test func `a watch tells of blobs that its user may read`() throws {
    var rig = shared()
    let owner = rig.connect(uid: Self.stranger)
    let peer = rig.connect(uid: Self.member)
    let number = rig.post(peer, .watch(WatchRequest(prefix: [], after: nil, wantsProgress: false)))
    for (key, mode) in [("hidden", 0o600), ("seen", 0o644)] as [(BlobKey, UInt16)] {
      _ = try need(
        rig.create(owner, key) {
          $0.inlineBytes = [1]
          $0.mode = mode
        })
      #expect(rig.ask(owner, .remove(RemoveRequest(key: key, generation: nil))) == .done)
    }
    var told: [BlobKey] = []
    for case .reply(peer, number, .events(let page), _) in rig.trace {
      told += page.changes.map(\.key)
    }
    #expect(!told.isEmpty && Set(told) == ["seen"])
  }
}

extension Rig {
  fileprivate func clientID(of session: SessionID) -> UInt64 {
    for case .reply(session, _, .welcome(let welcome), _) in trace { return welcome.clientID }
    return 0
  }
}
