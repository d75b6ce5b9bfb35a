// Shares of memory: of a client, and of a user over a spool. Who has used up its own waits for its own
// blobs to leave, and nobody else notices.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct ShareTests {
  private static let stranger: UInt32 = 2000

  /// A broker with 64 MiB, a spool unless told otherwise, and 8 MiB for a client or another user.
  private func rig(
    hasSpool: Bool = true, adjust: (inout LedgerLimits) -> Void
  ) -> Rig {
    Rig(memory: 64 << 20) { limits in
      limits.isShared = true
      if hasSpool { limits.spool = SpoolTerms(byteCount: 1 << 30, compression: .none) }
      adjust(&limits)
    }
  }

  private func rigWithClientShare(hasSpool: Bool = true) -> Rig {
    rig(hasSpool: hasSpool) { $0.memoryPerClient = 8 << 20 }
  }

  private func paid(_ rig: inout Rig, _ session: SessionID) throws -> UInt64 {
    try need(rig.statistics(session)).clientMemoryByteCount
  }

  // MARK: A client's

  @Test func `a client writes no more at once than its share, and is told the figures`() throws {
    var rig = rigWithClientShare(hasSpool: false)
    let (greedy, other) = (rig.connect(process: 4711), rig.connect())
    let blob = try rig.begin(greedy, "greedy", .visible)
    let (count, answer) = try rig.growToEnd(greedy, blob)
    #expect(count == 7, "eight extents with their headers are more than 8 MiB")
    let error = try need(answer?.error)
    #expect(error.code == .noSpaceMemory)
    for part in ["4711", "\(8 << 20)", "--client-memory"] { #expect(error.message.contains(part)) }
    #expect(rig.createError(greedy, "next") { $0.byteCount = 2 << 20 } == .noSpaceMemory)
    #expect(try paid(&rig, greedy) > 7 << 20)
    #expect(try paid(&rig, other) == 0)
    // Nobody else is short of anything, and what is sealed counts no more.
    _ = try rig.begin(other, "other", .visible)
    let seal = SealRequest(blob: blob.blob, byteCount: 7 * Rig.extent)
    #expect(rig.ask(greedy, .seal(seal)) == .done)
    #expect(try paid(&rig, greedy) == 0)
    _ = try rig.begin(greedy, "next", .visible)
  }

  @Test func `without a limit a client may have all of it, and statistics say so`() throws {
    var rig = rig(hasSpool: false) { _ in }
    let client = rig.connect()
    _ = try need(rig.create(client, "most") { $0.byteCount = 40 << 20 })
    let statistics = try need(rig.statistics(client))
    #expect(statistics.clientMemoryLimit == 64 << 20)
    #expect(statistics.clientMemoryByteCount >= 40 << 20)
  }

  @Test(arguments: [WriteOrder.appendOnly, .any])
  func `a stream longer than its client's share goes on, and only its own blobs leave`(
    order: WriteOrder
  ) throws {
    var rig = rigWithClientShare()
    let (other, writer) = (rig.connect(), rig.connect(process: 101))
    let kept = try need(rig.sealed(other, "kept", byteCount: 1 << 20))
    let blob = try rig.begin(writer, "stream", .visible) { $0.order = order }
    for index in 1..<64 {
      #expect(rig.grow(writer, blob, index)?.extent?.index == index)
      #expect(try paid(&rig, writer) <= 8 << 20)
      guard order == .any else { continue }
      let giveBack = GiveBackRequest(blob: blob.blob, index: index, isFull: true)
      #expect(rig.ask(writer, .giveBack(giveBack)) == .done)
    }
    #expect(Set(rig.spilled) == [blob.blob.generation])
    #expect(rig.info(other, "kept")?.residentByteCount ?? 0 >= 1 << 20)
    #expect(rig.ledger.blobs[kept.blob.generation]?.spooled.isEmpty == true)
  }

  @Test func `who comes second to a shared blob pays when the first has left`() throws {
    var rig = rigWithClientShare()
    let (first, second) = (rig.connect(), rig.connect(process: 101))
    let terms = CreateTerms(ownership: .joinable, idleLimit: nil, resumes: false)
    var request = CreateRequest(key: "shared")
    request.byteCount = 4 << 20
    let blob = try need(rig.ask(first, .createWith(request, terms))?.grant)
    #expect(rig.ask(second, .join(JoinRequest(key: "shared", generation: nil)))?.grant != nil)
    let bytes = try paid(&rig, first)
    #expect(bytes > 0)
    #expect(try paid(&rig, second) == 0)
    #expect(rig.ask(first, .leave(blob.blob)) == .done)
    #expect(try paid(&rig, first) == 0)
    #expect(try paid(&rig, second) == bytes)
    rig.send(.hungUp(second))
    #expect(rig.ledger.inconsistency == nil)
  }

  // MARK: A user's, over a spool

  @Test func `a user whose blobs cannot leave is refused, and nobody else's leave for it`() throws {
    var rig = rig { $0.memoryPerOtherUser = 8 << 20 }
    let (own, other) = (rig.connect(), rig.connect(uid: Self.stranger))
    for number in 0..<8 {
      _ = try need(rig.sealed(own, try BlobKey("own\(number)"), byteCount: 1 << 20))
    }
    let window = rig.create(other, "window") {
      $0.order = .appendOnly
      $0.policy = .dropOldest
      $0.firstExtent = 7 << 20
    }
    #expect(window != nil)
    let error = try need(
      rig.createError(other, "more") {
        $0.order = .appendOnly
        $0.policy = .dropOldest
        $0.firstExtent = 2 << 20
      })
    #expect(error == .noSpaceMemory)
    #expect(rig.spilled.isEmpty)
  }

  @Test func `who waits for its user's share holds nobody else up`() throws {
    var rig = rig { $0.memoryPerOtherUser = 8 << 20 }
    rig.holdsSpills = true
    let (own, other) = (rig.connect(), rig.connect(uid: Self.stranger))
    let stream = try rig.begin(other, "theirs", .visible)
    let (stuck, answer) = try rig.growToEnd(other, stream)
    #expect(stuck == 7 && answer == nil, "it waits")
    #expect(rig.ledger.spilling.line.scopes == [.user(Self.stranger)])
    // Enough that the next one has to wait for memory as a whole.
    var index = 1
    let mine = try rig.begin(own, "mine", .visible)
    while rig.grow(own, mine, index) != nil { index += 1 }
    #expect(index > 40)
    #expect(rig.ledger.spilling.line.scopes == [.user(Self.stranger), .broker])
    #expect(Set(rig.spilled) == [stream.blob.generation, mine.blob.generation])
    let before = rig.trace.count
    rig.send(.spilled(mine.blob.generation, .done(containerByteCount: Rig.extent)))
    var served: [SessionID] = []
    for case .reply(let session, _, .extent, _) in rig.trace[before...] { served.append(session) }
    #expect(served == [own], "it came later, and did not wait for the same")
    #expect(rig.ledger.spilling.line.scopes == [.user(Self.stranger)])
  }

  @Test func `a full share sends the user's own blobs to disk before it evicts any`() throws {
    var rig = rig { $0.memoryPerOtherUser = 8 << 20 }
    let other = rig.connect(uid: Self.stranger)
    for number in 0..<32 {
      #expect(rig.sealed(other, try BlobKey("k\(number)"), byteCount: 1 << 20) != nil)
      #expect(try need(rig.statistics(other)).userMemoryByteCount <= 8 << 20)
    }
    let statistics = try need(rig.statistics(other))
    #expect(statistics.evictionCount == 0 && statistics.blobCount == 32)
    #expect(statistics.spillCount >= 24)
  }

  // MARK: In vain

  @Test func `a length that can never fit makes nothing leave memory`() throws {
    var rig = rig { _ in }
    let writer = rig.connect()
    for number in 0..<8 {
      _ = try need(rig.sealed(writer, try BlobKey("k\(number)"), byteCount: 1 << 20))
    }
    let error = rig.createError(writer, "window") {
      $0.order = .appendOnly
      $0.policy = .dropOldest
      $0.firstExtent = 128 << 20
    }
    #expect(error == .noSpaceMemory)
    #expect(rig.spilled.isEmpty)
  }

  @Test func `blobs that come and go leave nothing in the queues`() throws {
    var rig = rigWithClientShare()
    let writer = rig.connect()
    for _ in 0..<400 {
      _ = try need(rig.sealed(writer, "k", byteCount: 4096))
      rig.ask(writer, .remove(RemoveRequest(key: "k", generation: nil)))
    }
    for queue in rig.ledger.spilling.candidates.values { #expect(queue.count <= 65) }
  }

  @Test func `clients and users that come and go leave no queues`() throws {
    var rig = rigWithClientShare()
    for number in 0..<20 {
      let peer = rig.connect(process: Int32(500 + number), uid: Self.stranger + UInt32(number))
      let blob = try rig.begin(peer, "k", .visible)
      for index in 1..<6 { _ = rig.grow(peer, blob, index) }
      #expect(rig.ledger.spilling.candidates.count == 3, "the broker's, the user's, the client's")
      rig.ask(peer, .remove(RemoveRequest(key: "k", generation: nil)))
      rig.send(.exited(peer))
      #expect(rig.ledger.spilling.candidates.count == 1)
      #expect(rig.ledger.inconsistency == nil)
    }
  }

  @Test func `who waits in vain is told although others before it wait on`() throws {
    var rig = rig { $0.memoryPerOtherUser = 8 << 20 }
    rig.holdsSpills = true
    let (own, other) = (rig.connect(), rig.connect(uid: Self.stranger))
    for number in 0..<44 {
      _ = try need(rig.sealed(own, try BlobKey("k\(number)"), byteCount: 1 << 20))
    }
    let window = rig.createError(own, "window") {
      $0.order = .appendOnly
      $0.policy = .dropOldest
      $0.firstExtent = 40 << 20
    }
    #expect(window == nil, "it waits")
    let stream = try rig.begin(other, "stream", .visible)
    #expect(try rig.growToEnd(other, stream).answer == nil, "it waits, too")
    #expect(rig.ledger.spilling.line.scopes == [.broker, .user(Self.stranger)])
    // Both who spill are the broker's; the next one is for who has none.
    let last = try need(rig.ledger.spilling.underWay.last)
    rig.send(.spilled(last, .done(containerByteCount: Rig.extent)))
    #expect(rig.ledger.spilling.underWay.last == stream.blob.generation)
    // Its container is broken: nothing of it can leave.
    let before = rig.trace.count
    let failed = SpillResult.failed(PatchbayError(.corrupt, "broken"), containerByteCount: nil)
    rig.send(.spilled(stream.blob.generation, failed))
    var refused: [SessionID] = []
    for case .reply(let session, _, .failure(let error), _) in rig.trace[before...] {
      #expect(error.code == .noSpaceMemory && error.message.contains("user \(Self.stranger)"))
      refused.append(session)
    }
    #expect(refused == [other])
    #expect(rig.ledger.spilling.line.scopes == [.broker])
  }
}
