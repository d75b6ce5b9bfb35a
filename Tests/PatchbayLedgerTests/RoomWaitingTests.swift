// Who waits for memory is answered, whoever else does what; and nobody pays for what another asks.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct RoomWaitingTests {
  private static let stranger: UInt32 = 2000

  private func rig(
    memory: Int = 64 << 20, spool: Int = 1 << 30, adjust: (inout LedgerLimits) -> Void = { _ in }
  ) -> Rig {
    Rig(memory: memory) { limits in
      limits.isShared = true
      limits.spool = SpoolTerms(byteCount: spool, compression: .none)
      adjust(&limits)
    }
  }

  private func state(_ rig: Rig) -> String {
    let spilling = rig.ledger.spilling
    return "\(spilling.line.scopes) wait, \(spilling.underWay) and \(spilling.retracting) leave, "
      + "candidates \(spilling.candidates.mapValues(\.count))"
  }

  @Test func `who grows while its own extents are not complete is answered`() throws {
    for perClient in [nil, 8 << 20] {
      var rig = rig { $0.memoryPerClient = perClient }
      rig.spillResult = .incomplete
      let writer = rig.connect()
      let blob = try rig.begin(writer, "stream", .visible)
      let (index, answer) = try rig.growToEnd(writer, blob)
      #expect(answer != nil, "index \(index): \(state(rig))")
    }
  }

  @Test func `who has used up its share of memory and of the disk is answered`() throws {
    var rig = rig(spool: 8 << 20) { $0.memoryPerOtherUser = 8 << 20 }
    let other = rig.connect(uid: Self.stranger)
    let blob = try rig.begin(other, "stream", .visible)
    let (index, answer) = try rig.growToEnd(other, blob)
    #expect(answer != nil, "index \(index): \(state(rig))")
  }

  @Test func `who could be served by evicting its own idle blobs is, with its disk share full`()
    throws
  {
    var rig = rig(spool: 8 << 20) { $0.memoryPerOtherUser = 8 << 20 }
    let other = rig.connect(uid: Self.stranger)
    let blob = try rig.begin(other, "stream", .visible)
    for number in 0..<4 {
      _ = try need(rig.sealed(other, try BlobKey("idle\(number)"), byteCount: 1 << 20))
    }
    let (index, answer) = try rig.growToEnd(other, blob)
    #expect(answer != nil, "index \(index): \(state(rig)) evictions \(rig.ledger.evictionCount)")
  }

  @Test func `who stands behind such a one is served by eviction`() throws {
    var rig = rig()
    rig.spillResult = .incomplete
    let (greedy, other) = (rig.connect(), rig.connect(process: 101))
    // 20 MiB that eviction could free, and that cannot be spilled: failed blobs.
    for number in 0..<20 {
      let grant = try need(
        rig.create(other, try BlobKey("failed\(number)")) { $0.byteCount = 1 << 20 })
      rig.abandon(other, grant.blob)
    }
    let stream = try rig.begin(greedy, "stream", .visible)
    let (index, answer) = try rig.growToEnd(greedy, stream)
    #expect(answer != nil, "index \(index): \(state(rig)) idle \(rig.ledger.idleByteCount)")
    var request = CreateRequest(key: "small")
    request.byteCount = 1 << 20
    let number = rig.post(other, .create(request))
    for _ in 0..<60 {
      rig.pass(.seconds(1))
      rig.send(.tick)
      _ = rig.ask(other, .ping)
    }
    #expect(rig.reply(other, number) != nil, "\(state(rig)) idle \(rig.ledger.idleByteCount)")
  }

  @Test func `who waits for one share and then for another is answered`() throws {
    var rig = rig { $0.memoryPerClient = 8 << 20 }
    rig.holdsSpills = true
    let (first, second) = (rig.connect(), rig.connect(process: 101))
    let shared = try need(
      rig.create(first, "shared", as: .joinable, idle: .seconds(60)) {
        $0.order = .any
        $0.firstExtent = 1 << 20
        $0.extentLimit = 1 << 20
      }?.grant)
    #expect(rig.join(second, "shared")?.grant != nil)
    let a = try rig.begin(first, "a", .visible)
    for index in 1..<3 { _ = rig.grow(first, a, index) }
    for index in 1..<4 {
      _ = rig.grow(first, shared, index)
    }
    // The second's own: 4 MiB
    let s = try rig.begin(second, "s", .visible)
    for index in 1..<5 { _ = rig.grow(second, s, index) }
    let number = rig.post(second, .grow(GrowRequest(blob: shared.blob, index: 4)))
    #expect(rig.ask(first, .leave(shared.blob)) == .done)
    for _ in 0..<20 {
      guard let next = rig.ledger.spilling.underWay.first else { break }
      let isShared = next == shared.blob.generation
      rig.send(.spilled(next, isShared ? .done(containerByteCount: Rig.extent) : .incomplete))
    }
    #expect(rig.reply(second, number) != nil, "\(state(rig))")
  }

  @Test func `whoever seals durably in parallel waits for its seals`() throws {
    var rig = rig { $0.memoryPerClient = 8 << 20 }
    rig.holdsPersists = true
    let writer = rig.connect()
    var grants: [BlobGrant] = []
    for number in 0..<7 {
      let grant = try need(
        rig.create(writer, try BlobKey("k\(number)")) {
          $0.byteCount = 1 << 20
          $0.acknowledgement = .durable
        })
      rig.post(writer, .seal(SealRequest(blob: grant.blob, byteCount: 1 << 20)))
      grants.append(grant)
    }
    var request = CreateRequest(key: "k7")
    request.byteCount = 1 << 20
    let number = rig.post(writer, .create(request))
    #expect(rig.reply(writer, number)?.error == nil)
  }

  @Test func `who asks for more than its share makes nobody else's blobs leave`() throws {
    var rig = rig { $0.memoryPerOtherUser = 8 << 20 }
    let (own, other) = (rig.connect(), rig.connect(uid: Self.stranger))
    for number in 0..<40 {
      _ = try need(rig.sealed(own, try BlobKey("own\(number)"), byteCount: 1 << 20))
    }
    #expect(rig.spilled.isEmpty)
    let error = rig.createError(other, "window") {
      $0.order = .appendOnly
      $0.policy = .dropOldest
      $0.firstExtent = 32 << 20
    }
    #expect(error == .noSpaceMemory)
    #expect(rig.spilled.isEmpty, "\(rig.spilled.count) of another's blobs left")
  }

  @Test func `a client asks for an extent larger than its share and nobody else's leave`() throws {
    var rig = rig { $0.memoryPerClient = 8 << 20 }
    let (own, other) = (rig.connect(), rig.connect(process: 101))
    for number in 0..<40 {
      _ = try need(rig.sealed(own, try BlobKey("own\(number)"), byteCount: 1 << 20))
    }
    let blob = try need(
      rig.create(other, "stream") {
        $0.order = .appendOnly
        $0.firstExtent = 1 << 20
        $0.extentLimit = 32 << 20
      })
    let reply = rig.ask(other, .grow(GrowRequest(blob: blob.blob, index: 5)))
    #expect(reply?.error?.code == .noSpaceMemory)
    #expect(rig.spilled.isEmpty, "\(rig.spilled.count) of another's blobs left")
  }

  @Test func `an extent that can never fit makes nothing leave memory`() throws {
    var rig = rig()
    let own = rig.connect()
    for number in 0..<40 {
      _ = try need(rig.sealed(own, try BlobKey("own\(number)"), byteCount: 1 << 20))
    }
    let error = rig.createError(own, "stream") {
      $0.order = .appendOnly
      $0.firstExtent = 128 << 20
    }
    #expect(error == .noSpaceMemory)
    #expect(rig.spilled.isEmpty, "\(rig.spilled.count) blobs left")
    #expect(rig.ledger.evictionCount == 0)
  }

  @Test func `who is over its share is told so`() throws {
    var rig = rig { $0.memoryPerClient = 8 << 20 }
    rig.spillResult = .failed(
      PatchbayError(.noSpaceSpool, "the spool is full"), containerByteCount: nil)
    let (own, other) = (rig.connect(), rig.connect(process: 101))
    let stream = try rig.begin(other, "stream", .visible)
    for index in 1..<7 { _ = rig.grow(other, stream, index) }
    #expect(rig.ledger.spilling.pause != nil)
    let error = rig.ask(
      own,
      .create(
        {
          var r = CreateRequest(key: "w"); r.order = .appendOnly; r.policy = .dropOldest;
          r.firstExtent = 9 << 20
          return r
        }()))?.error
    #expect(error?.code == .noSpaceMemory, "\(String(describing: error))")
  }

  @Test func `who joins and leaves again and again leaves nothing in the queue`() throws {
    var rig = rig { $0.memoryPerClient = 8 << 20 }
    let writer = rig.connect()
    let reply = rig.create(writer, "shared", as: .joinable, idle: .seconds(60)) {
      $0.order = .any
      $0.firstExtent = Rig.extent / 4
      $0.extentLimit = Rig.extent / 4
    }
    let blob = try need(reply?.grant)
    for index in 1..<4 { _ = rig.grow(writer, blob, index) }
    for _ in 0..<500 {
      #expect(rig.ask(writer, .leave(blob.blob)) == .done)
      #expect(rig.join(writer, "shared")?.grant != nil)
    }
    let count = rig.ledger.spilling.candidates[.client(writer)]?.count ?? 0
    #expect(count < 70, "\(count)")
  }

  @Test func `many waiters of one user`() throws {
    for pipelined in [10, 100] {
      var rig = rig(spool: 1 << 40) {
        $0.memoryPerOtherUser = 16 << 20; $0.memoryPerClient = 16 << 20
      }
      rig.holdsSpills = true
      let (own, other) = (rig.connect(), rig.connect(uid: Self.stranger))
      let streams = [try rig.begin(other, "a", .visible), try rig.begin(other, "b", .visible)]
      for index in 1..<(8 + pipelined) {
        for stream in streams { _ = rig.grow(other, stream, index) }
      }
      let mine = try rig.begin(own, "mine", .visible)
      for index in 1..<16 { _ = rig.grow(own, mine, index) }
      var steps = 0
      while !rig.spilled.contains(mine.blob.generation), steps < 5000 {
        guard let next = rig.ledger.spilling.underWay.first else { break }
        _ = rig.send(.spilled(next, .done(containerByteCount: Rig.extent)))
        steps += 1
      }
      #expect(steps <= 4, "\(pipelined) waiters: \(steps) extents of the other user's go first")
    }
  }

  @Test func `one client does not fill the line`() throws {
    var rig = rig {
      $0.memoryPerOtherUser = 8 << 20; $0.memoryPerClient = 8 << 20
    }
    rig.holdsSpills = true
    let (own, other) = (rig.connect(), rig.connect(uid: Self.stranger))
    let theirs = try rig.begin(other, "theirs", .visible)
    _ = try rig.growToEnd(other, theirs)
    let mine = try rig.begin(own, "mine", .visible)
    for index in 1..<7 { _ = rig.grow(own, mine, index) }
    var refusals = 0
    for _ in 0..<600 {
      let number = rig.post(other, .grow(GrowRequest(blob: theirs.blob, index: 8)))
      if rig.reply(other, number)?.error?.code == .limitReached { refusals += 1 }
    }
    #expect(rig.ledger.spilling.line.count <= 1 + RoomLine.sessionLimit && refusals > 300)
    let answer = rig.grow(own, mine, 7)
    #expect(answer?.error == nil, "\(rig.ledger.canSpill(in: .client(own)))")
  }

  @Test func `hang ups of another user keep nobody waiting`() throws {
    var rig = rig {
      $0.memoryPerOtherUser = 8 << 20; $0.memoryPerClient = 8 << 20
    }
    let own = rig.connect()
    _ = try need(
      rig.create(own, "window") {
        $0.order = .appendOnly
        $0.policy = .dropOldest
        $0.firstExtent = 7 << 20
      })
    func haunt(_ number: Int) throws {
      let other = rig.connect(process: Int32(1000 + number), uid: Self.stranger)
      let grant = rig.create(other, try BlobKey("g\(number)"), as: .joinable, idle: .seconds(600)) {
        $0.order = .any
        $0.firstExtent = 1 << 18
        $0.extentLimit = 1 << 18
      }
      #expect(grant?.grant != nil)
      rig.send(.hungUp(other))
    }
    try haunt(0)
    var request = CreateRequest(key: "more")
    request.order = .appendOnly
    request.policy = .dropOldest
    request.firstExtent = 2 << 20
    let number = rig.post(own, .create(request))
    #expect(rig.reply(own, number)?.error?.code == .noSpaceMemory, "0 s: \(state(rig))")
    for second in 1..<20 {
      rig.pass(.milliseconds(1900))
      try haunt(second)
      rig.send(.tick)
    }
    #expect(rig.reply(own, number)?.error?.code == .noSpaceMemory, "36 s: \(state(rig))")
  }

  @Test func `a request that is given up leaves the line at once`() throws {
    var rig = rig { $0.memoryPerClient = 8 << 20 }
    rig.holdsSpills = true
    let client = rig.connect()
    let stream = try rig.begin(client, "stream", .visible)
    for index in 1..<7 { _ = rig.grow(client, stream, index) }
    var request = CreateRequest(key: "late")
    request.byteCount = 1 << 20
    let number = rig.post(client, .create(request))
    #expect(rig.reply(client, number) == nil && rig.ledger.spilling.line.count == 1)
    #expect(rig.ask(client, .cancel(CancelRequest(request: number))) == .done)
    #expect(rig.reply(client, number)?.error?.code == .timedOut)
    #expect(rig.ledger.spilling.line.count == 0 && rig.ledger.spilling.line.counts.isEmpty)
    while let next = rig.ledger.spilling.underWay.first {
      rig.send(.spilled(next, .done(containerByteCount: Rig.extent)))
    }
    #expect(rig.info(client, "late") == nil, "it was not served late")
  }

  @Test func `who waits behind a seal that waits for the device is not evicted for, nor refused`()
    throws
  {
    var rig = rig(memory: 16 << 20)
    rig.holdsPersists = true
    let client = rig.connect()
    for number in 0..<13 {
      let grant = try need(
        rig.create(client, try BlobKey("k\(number)")) {
          $0.byteCount = 1 << 20
          $0.acknowledgement = .durable
        })
      rig.post(client, .seal(SealRequest(blob: grant.blob, byteCount: 1 << 20)))
    }
    var request = CreateRequest(key: "next")
    request.byteCount = 2 << 20
    let number = rig.post(client, .create(request))
    #expect(rig.reply(client, number) == nil, "it waits")
    rig.send(.persisted(Generation(rawValue: 1), .done(containerByteCount: 1 << 20)))
    rig.send(.persisted(Generation(rawValue: 2), .done(containerByteCount: 1 << 20)))
    #expect(rig.reply(client, number)?.grant != nil)
    #expect(rig.ledger.evictionCount == 0)
  }

  @Test func `when who blocks the line gives up, who stood behind is served at once`() throws {
    var rig = rig { $0.memoryPerOtherUser = 8 << 20 }
    rig.holdsSpills = true
    let (own, other) = (rig.connect(), rig.connect(uid: Self.stranger))
    for number in 0..<40 {
      _ = try need(rig.sealed(own, try BlobKey("k\(number)"), byteCount: 1 << 20))
    }
    var request = CreateRequest(key: "window")
    request.order = .appendOnly
    request.policy = .dropOldest
    request.firstExtent = 60 << 20
    let large = rig.post(own, .create(request))
    #expect(rig.reply(own, large) == nil, "it waits for memory as a whole")
    let stream = try rig.begin(other, "stream", .visible)
    let (index, answer) = try rig.growToEnd(other, stream)
    #expect(answer == nil, "it waits for its share")
    while rig.ledger.spilling.underWay.contains(where: { $0 != stream.blob.generation }) {
      guard let next = rig.ledger.spilling.underWay.first(where: { $0 != stream.blob.generation })
      else { break }
      if rig.ledger.spilling.underWay.contains(stream.blob.generation) { break }
      rig.send(.spilled(next, .done(containerByteCount: Rig.extent)))
    }
    rig.send(.spilled(stream.blob.generation, .done(containerByteCount: Rig.extent)))
    #expect(rig.reply(own, large) == nil)
    #expect(rig.trace.grants(of: index, to: other) == 0, "the one before has to wait on")
    #expect(rig.ask(own, .cancel(CancelRequest(request: large))) == .done)
    #expect(rig.trace.grants(of: index, to: other) == 1)
  }
}

extension [LedgerAction] {
  /// How often an extent was granted to a session.
  fileprivate func grants(of index: Int, to session: SessionID) -> Int {
    count { action in
      if case .reply(session, _, .extent(let extent), _) = action {
        extent.index == index
      } else {
        false
      }
    }
  }
}
