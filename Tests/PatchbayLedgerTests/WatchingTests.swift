// Watchers of the ledger: what they are told, in which order, and that nothing grows with one that
// does not read.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

extension Rig {
  fileprivate mutating func watch(
    _ session: SessionID, _ prefix: String = "", after: EventPosition? = nil,
    progress: Bool = false
  ) -> UInt64 {
    post(
      session,
      .watch(WatchRequest(prefix: Array(prefix.utf8), after: after, wantsProgress: progress)))
  }

  fileprivate func pages(_ session: SessionID, _ number: UInt64) -> [EventPage] {
    trace.compactMap {
      if case .reply(session, number, .events(let page), _) = $0 { page } else { nil }
    }
  }

  fileprivate func changes(_ session: SessionID, _ number: UInt64) -> [BlobChange] {
    pages(session, number).flatMap(\.changes)
  }

  /// What was told, as words.
  fileprivate func told(_ session: SessionID, _ number: UInt64) -> [String] {
    changes(session, number).map { "\($0.kind) \($0.key)" }
  }

  /// Ticks until nothing is due at once.
  fileprivate mutating func settle() {
    while let deadline = ledger.nextDeadline, deadline <= now.monotonicNanoseconds { send(.tick) }
  }

  fileprivate mutating func remove(_ session: SessionID, _ key: BlobKey) {
    post(session, .remove(RemoveRequest(key: key, generation: nil)))
  }

  fileprivate mutating func seal(_ session: SessionID, _ grant: BlobGrant, _ byteCount: Int) {
    post(session, .seal(SealRequest(blob: grant.blob, byteCount: byteCount)))
  }
}

@Suite struct WatchingTests {
  @Test func `a watch is told at once where it stands, and nothing that was before`() throws {
    var rig = Rig()
    let client = rig.connect()
    _ = rig.sealed(client, "old", byteCount: 10)
    let watch = rig.watch(client)
    let page = try need(rig.pages(client, watch).first)
    #expect(
      page
        == EventPage(
          hasGap: false, position: EventPosition(instance: 7, number: 2), changes: []))
  }

  @Test func `each change of state is told in order, with what it needs`() throws {
    var rig = Rig()
    let client = rig.connect()
    let watch = rig.watch(client)
    _ = rig.sealed(client, "a", byteCount: 10)
    let failing = try need(rig.create(client, "b"))
    rig.post(client, .fail(FailRequest(blob: failing.blob, cause: "no paper")))
    var small = CreateRequest(key: "c")
    small.inlineBytes = [1, 2, 3]
    rig.post(client, .create(small))
    rig.remove(client, "a")
    #expect(
      rig.told(client, watch) == [
        "created a", "sealed a", "created b", "failed b", "sealed c", "removed a",
      ])
    let changes = rig.changes(client, watch)
    #expect(changes.map(\.position.number) == [1, 2, 3, 4, 5, 6])
    #expect(changes[1].byteCount == 10 && changes[1].coveredByteCount == 10)
    #expect(changes[3].causeCode == .blobFailed && changes[3].cause == "no paper")
    #expect(changes[4].byteCount == 3 && changes[5].generation == changes[0].generation)
    #expect(changes[5].coveredByteCount == 10)
    #expect(changes.allSatisfy { $0.time == rig.now.wall })
  }

  @Test func `eviction and replacement are told as what they are`() throws {
    var rig = Rig(memory: 400_000)
    let client = rig.connect()
    let watch = rig.watch(client)
    _ = rig.sealed(client, "a", byteCount: 200_000)
    rig.close(client, BlobReference(generation: Generation(rawValue: 1), epoch: 0))
    _ = rig.sealed(client, "b", byteCount: 200_000)
    _ = rig.create(client, "b") { $0.replaces = true }
    let told = rig.told(client, watch)
    #expect(
      told == [
        "created a", "sealed a", "evicted a", "created b", "sealed b", "removed b", "created b",
      ])
  }

  @Test func `a blob without a writer is told as suspended, and as progress when it has one again`()
    throws
  {
    var rig = Rig()
    let client = rig.connect()
    let watch = rig.watch(client)
    rig.post(
      client,
      .createWith(
        CreateRequest(key: "a"),
        CreateTerms(ownership: .ownerless, idleLimit: .seconds(5), resumes: false)))
    #expect(rig.told(client, watch) == ["suspended a"])
    let writer = rig.connect()
    rig.post(writer, .join(JoinRequest(key: "a", generation: nil)))
    rig.send(.hungUp(writer))
    rig.pass(.seconds(6))
    rig.send(.tick)
    #expect(
      rig.told(client, watch) == ["suspended a", "progress a", "suspended a", "failed a"])
  }

  @Test func `a broker is idle without clients, open blobs, and blobs that wait for a writer`() {
    var rig = Rig()
    #expect(rig.ledger.isIdle)
    let client = rig.connect()
    #expect(!rig.ledger.isIdle)
    _ = rig.sealed(client, "sealed", byteCount: 1)
    rig.post(
      client,
      .createWith(
        CreateRequest(key: "a"),
        CreateTerms(ownership: .ownerless, idleLimit: .seconds(5), resumes: false)))
    rig.send(.hungUp(client))
    #expect(!rig.ledger.isIdle, "it waits for whoever joins")
    rig.pass(.seconds(6))
    rig.send(.tick)
    #expect(rig.ledger.isIdle)
  }

  @Test func `a watcher hears of the keys with its prefix only`() throws {
    var rig = Rig()
    let client = rig.connect()
    let watch = rig.watch(client, "models/")
    _ = rig.sealed(client, "models/a", byteCount: 1)
    _ = rig.sealed(client, "model", byteCount: 1)
    rig.remove(client, "model")
    rig.remove(client, "models/a")
    #expect(
      rig.told(client, watch) == ["created models/a", "sealed models/a", "removed models/a"])
  }

  @Test func `nobody hears of blobs of another user`() throws {
    let rig = Rig()
    let access = Access(uid: 7, gid: 7, mode: 0o600)
    #expect(rig.ledger.mayRead(Peer(process: 1, uid: 7, gid: 8), access))
    #expect(!rig.ledger.mayRead(Peer(process: 1, uid: 8, gid: 7), access))
  }

  @Test func `from the start a watcher is told all that exists, and no removal`() throws {
    var rig = Rig()
    let client = rig.connect()
    _ = rig.sealed(client, "a", byteCount: 1)
    _ = rig.create(client, "b")
    _ = rig.sealed(client, "c", byteCount: 1)
    rig.remove(client, "a")
    let watch = rig.watch(client, after: .start)
    #expect(rig.told(client, watch) == ["created b", "sealed c"])
    #expect(rig.pages(client, watch).allSatisfy { !$0.hasGap })
    rig.remove(client, "c")
    #expect(rig.told(client, watch).last == "removed c")
  }

  @Test func `a watcher that goes on where it was misses nothing`() throws {
    var rig = Rig()
    let client = rig.connect()
    let first = rig.watch(client)
    _ = rig.sealed(client, "a", byteCount: 1)
    let blob = try need(rig.create(client, "b"))
    let position = try need(rig.changes(client, first).last?.position)
    rig.post(client, .cancel(CancelRequest(request: first)))
    rig.seal(client, blob, 0)
    rig.remove(client, "a")
    _ = rig.create(client, "c")
    let second = rig.watch(client, after: position)
    #expect(rig.told(client, second) == ["sealed b", "removed a", "created c"])
    #expect(rig.pages(client, second).allSatisfy { !$0.hasGap })
  }

  @Test func `a position of another run, of the future, or behind what is forgotten is a gap`()
    throws
  {
    var rig = Rig { $0.removalCount = 2 }
    let client = rig.connect()
    _ = rig.sealed(client, "kept", byteCount: 1)
    for index in 0..<3 {
      _ = rig.sealed(client, BlobKey(stringLiteral: "gone\(index)"), byteCount: 1)
      rig.remove(client, BlobKey(stringLiteral: "gone\(index)"))
    }
    for (instance, number, hasGap) in [
      (8, 3, true), (7, 99, true), (7, 4, true), (7, 5, false),
    ] as [(UInt64, UInt64, Bool)] {
      let watch = rig.watch(client, after: EventPosition(instance: instance, number: number))
      #expect(rig.pages(client, watch).first?.hasGap == hasGap, "\(instance) \(number)")
      let told = rig.told(client, watch)
      #expect(told == (hasGap ? ["sealed kept"] : ["removed gone1", "removed gone2"]))
      rig.post(client, .cancel(CancelRequest(request: watch)))
    }
  }

  @Test func `a watcher that does not read costs nothing, and learns the last state`() throws {
    var rig = Rig { $0.removalCount = 100 }
    let client = rig.connect()
    let slow = rig.connect()
    let watch = rig.watch(slow)
    rig.send(.congested(slow))
    let kept = try need(rig.create(client, "kept"))
    for index in 0..<5000 {
      let key = BlobKey(stringLiteral: "k\(index % 50)")
      _ = rig.sealed(client, key, byteCount: 1)
      if index < 4990 { rig.remove(client, key) }
      if index % 50 == 0 {
        #expect(rig.pages(slow, watch).count <= 1, "nothing but its start was sent")
        rig.trace = []
      }
    }
    rig.seal(client, kept, 0)
    #expect(rig.pages(slow, watch).isEmpty)
    #expect(rig.ledger.watching.log.placeCount <= 2 * 11 + 64)
    #expect(rig.ledger.watching.log.removalCount == 100)
    rig.send(.relieved(slow))
    rig.settle()
    let pages = rig.pages(slow, watch)
    #expect(pages.first?.hasGap == true && pages.dropFirst().allSatisfy { !$0.hasGap })
    let expected = (4990..<5000).map { "sealed k\($0 % 50)" } + ["sealed kept"]
    #expect(rig.told(slow, watch) == expected)
  }

  @Test func `of several changes between two messages the last one is told`() throws {
    var rig = Rig()
    let client = rig.connect()
    let slow = rig.connect()
    let watch = rig.watch(slow)
    let blob = try need(rig.create(client, "a"))
    rig.send(.congested(slow))
    rig.seal(client, blob, 0)
    _ = rig.create(client, "b")
    _ = rig.create(client, "b") { $0.replaces = true }
    rig.remove(client, "a")
    rig.send(.relieved(slow))
    #expect(
      rig.told(slow, watch) == ["created a", "removed b", "created b", "removed a"])
  }

  @Test func `what does not fit one message follows in the next ones`() throws {
    var rig = Rig()
    let client = rig.connect()
    let long = String(repeating: "k", count: 1000)
    for index in 100..<300 {
      _ = rig.sealed(client, BlobKey(stringLiteral: "\(long)\(index)"), byteCount: 1)
    }
    for index in 100..<300 {
      _ = rig.sealed(client, BlobKey(stringLiteral: "\(index)"), byteCount: 1)
    }
    let watch = rig.watch(client, after: .start)
    rig.settle()
    let pages = rig.pages(client, watch)
    #expect(pages.flatMap(\.changes).count == 400)
    #expect(pages.allSatisfy { $0.changes.count <= WireLimit.pageChanges })
    #expect(
      pages.allSatisfy { Frame.encode(.events($0), request: watch).count <= Frame.byteLimit })
    #expect(pages.contains { $0.changes.count == WireLimit.pageChanges })
    #expect(rig.ledger.nextDeadline == nil, "nothing is left to tell")
  }

  @Test func `a cancelled watch is answered last, and told nothing more`() throws {
    var rig = Rig()
    let client = rig.connect()
    let watch = rig.watch(client)
    #expect(rig.ask(client, .cancel(CancelRequest(request: watch))) == .done)
    let replies = rig.trace.compactMap {
      if case .reply(client, watch, let reply, _) = $0 { reply.kind } else { nil }
    }
    #expect(replies == [.events, .done])
    _ = rig.create(client, "a")
    #expect(rig.told(client, watch) == [])
  }

  @Test func `a connection has a bounded number of watches, each with a number of its own`() throws
  {
    var rig = Rig { $0.watchesPerSession = 2 }
    let client = rig.connect()
    let request = WatchRequest(prefix: [], after: nil, wantsProgress: false)
    let first = rig.watch(client)
    rig.send(.request(client, number: first, .watch(request)))
    #expect(
      rig.trace.contains {
        if case .reply(client, first, .failure(let error), _) = $0 {
          error.code == .protocolViolation
        } else {
          false
        }
      })
    _ = rig.watch(client)
    #expect(rig.ask(client, .watch(request))?.code == .limitReached)
    let other = rig.connect()
    #expect(rig.ask(other, .watch(request))?.code == nil)
    rig.send(.hungUp(client))
    rig.send(.hungUp(other))
    #expect(rig.ledger.watching.watchers.isEmpty)
  }

  // MARK: Progress

  private func samples(_ actions: [LedgerAction]) -> [[Generation]] {
    actions.compactMap {
      if case .sample(let reports) = $0 { reports.map(\.info.generation) } else { nil }
    }
  }

  @Test func `nobody looks how far blobs are unless somebody wants to know`() throws {
    var rig = Rig()
    let client = rig.connect()
    _ = rig.create(client, "a")
    _ = rig.watch(client)
    rig.settle()
    #expect(rig.ledger.nextDeadline == nil)
    let watch = rig.watch(client, "b", progress: true)
    rig.settle()
    rig.pass(.seconds(1))
    #expect(samples(rig.send(.tick)).isEmpty, "no blob concerns it")
    rig.post(client, .cancel(CancelRequest(request: watch)))
    #expect(rig.ledger.nextDeadline == nil)
  }

  @Test func `progress is the latest value, at a bounded rate, and ends with the seal`() throws {
    var rig = Rig()
    let client = rig.connect()
    let watch = rig.watch(client, progress: true)
    let blob = try need(rig.create(client, "a") { $0.byteCount = 1000 })
    let generation = blob.blob.generation
    rig.settle()
    #expect(samples(rig.trace) == [[generation]])
    rig.pass(.seconds(10))
    #expect(samples(rig.send(.tick)).isEmpty, "one look at a time")
    func sampled(_ covered: Int) -> LedgerEvent {
      .sampled([BlobSample(generation: generation, frontier: 5, coveredByteCount: covered)])
    }
    rig.send(sampled(10))
    rig.settle()
    rig.send(sampled(10))
    var looks = 0
    let end = rig.now.monotonicNanoseconds + Duration.seconds(1).wholeNanoseconds
    while let next = rig.ledger.nextDeadline, next <= end {
      rig.pass(.nanoseconds(next - rig.now.monotonicNanoseconds))
      looks += samples(rig.send(.tick)).count
      rig.send(sampled(10 + looks))
    }
    #expect(looks == 10, "ten a second")
    #expect(rig.told(client, watch) == ["created a"] + Array(repeating: "progress a", count: 11))
    #expect(rig.changes(client, watch).last?.coveredByteCount == 20)
    rig.seal(client, blob, 1000)
    rig.send(sampled(999))
    let last = try need(rig.changes(client, watch).last)
    #expect(last.kind == .sealed && last.coveredByteCount == 1000 && last.byteCount == 1000)
    #expect(rig.ledger.nextDeadline == nil, "nothing is open")
  }

  @Test func `many open blobs are looked at by turns`() throws {
    var rig = Rig(memory: 1 << 30)
    let client = rig.connect()
    _ = rig.watch(client, progress: true)
    for index in 0..<150 { _ = rig.create(client, BlobKey(stringLiteral: "\(index)")) }
    var seen: [Generation] = []
    while seen.count < 300, let next = rig.ledger.nextDeadline {
      rig.pass(.nanoseconds(max(0, next - rig.now.monotonicNanoseconds)))
      for look in samples(rig.send(.tick)) {
        #expect(look.count <= Sampling.blobsPerLook)
        seen += look
        rig.send(.sampled([]))
      }
    }
    let generations = rig.ledger.watching.log.open
    #expect(seen == generations + generations)
  }

  @Test func `a seal takes no part of what a slow watcher has yet to hear of the blob`() throws {
    var rig = Rig()
    let client = rig.connect()
    let watch = rig.watch(client, progress: true)
    let blob = try need(rig.create(client, "a"))
    rig.send(.congested(client))
    for covered in 1...100 {
      rig.send(
        .sampled([
          BlobSample(
            generation: blob.blob.generation, frontier: covered, coveredByteCount: covered)
        ]))
    }
    #expect(rig.ledger.watching.log.placeCount <= 2 + 64 + 1)
    rig.send(.relieved(client))
    let last = try need(rig.changes(client, watch).last)
    #expect(last.kind == .progress && last.coveredByteCount == 100)
    #expect(rig.told(client, watch) == ["created a", "progress a"])
  }
}
