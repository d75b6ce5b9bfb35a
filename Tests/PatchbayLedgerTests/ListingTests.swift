// Listings, statistics, and the ordered structures behind them.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct ListingTests {
  @Test func `a listing is in byte order, by prefix, page by page`() throws {
    var rig = Rig()
    let writer = rig.connect()
    for key in ["b/2", "a", "b/10", "b", "c", "b/1"] as [BlobKey] {
      _ = rig.create(writer, key) { $0.inlineBytes = [1] }
    }
    #expect(rig.list(writer)?.keys == ["a", "b", "b/1", "b/10", "b/2", "c"])
    let first = try need(rig.list(writer, prefix: "b/", limit: 2))
    #expect(first.keys == ["b/1", "b/10"] && first.hasMore)
    let second = try need(rig.list(writer, prefix: "b/", after: "b/10", limit: 2))
    #expect(second.keys == ["b/2"] && !second.hasMore)
    #expect(rig.list(writer, prefix: "b/", after: "a")?.keys == ["b/1", "b/10", "b/2"])
    #expect(rig.list(writer, prefix: "b/", after: "c")?.keys == [])
    #expect(rig.list(writer, after: "b/1", limit: 0)?.keys == ["b/10"])
    #expect(rig.list(writer, prefix: "nothing")?.keys == [])
    #expect(rig.list(writer, prefix: String(repeating: "b", count: 2000))?.keys == [])
  }

  @Test func `a page fits one message however long its entries are`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let label = BlobInfo.Label(
      name: String(repeating: "n", count: 255), value: String(repeating: "v", count: 255))
    for index in 0..<20 {
      _ = rig.create(writer, try BlobKey("\(index)" + String(repeating: "k", count: 1000))) {
        $0.inlineBytes = [1]
        $0.type = String(repeating: "t", count: 255)
        $0.labels = Array(repeating: label, count: 32)
      }
    }
    var after: [UInt8] = []
    var seen = 0
    var hasMore = true
    while hasMore {
      let before = rig.trace.count
      rig.post(writer, .list(ListRequest(prefix: [], after: after, limit: 512)))
      guard case .report(_, _, .list(let more), let reports)? = rig.trace[before...].last else {
        Issue.record("no page")
        return
      }
      let page = Reply.list(ListPage(blobs: reports.map(\.info), hasMore: more))
      #expect(Frame.encode(page, request: 1).count <= Frame.byteLimit)
      #expect(!reports.isEmpty)
      seen += reports.count
      hasMore = more
      after = try #require(reports.last).info.key.bytes
    }
    #expect(seen == 20)
  }

  @Test func `the estimate of an entry is never below its size`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k") { $0.type = "text/plain" })
    rig.ask(writer, .fail(FailRequest(blob: blob.blob, cause: String(repeating: "x", count: 1024))))
    let info = try need(rig.info(writer, "k"))
    let empty = Frame.encode(.list(ListPage(blobs: [], hasMore: false)), request: 1).count
    let one = Frame.encode(.list(ListPage(blobs: [info], hasMore: false)), request: 1).count
    #expect(one - empty <= info.encodedByteCount)
  }

  @Test func `a description of an unsealed blob names the rings that know more`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    rig.post(writer, .info(InfoRequest(key: "k")))
    guard case .report(_, _, .info, let reports)? = rig.trace.last else {
      Issue.record("no report")
      return
    }
    #expect(reports.first?.liveExtents.map(\.ring.rawValue) == [blob.extent?.ringID ?? 0])
    rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: 3)))
    rig.post(writer, .info(InfoRequest(key: "k")))
    guard case .report(_, _, .info, let sealed)? = rig.trace.last else {
      Issue.record("no report")
      return
    }
    #expect(sealed.first?.liveExtents == [])
    #expect(sealed.first?.info.frontier == 3)
  }

  @Test func `a missing key is named`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let error = try need(rig.ask(writer, .info(InfoRequest(key: "lost")))?.error)
    #expect(error.code == .noSuchKey && error.message.contains("lost"))
  }

  @Test func `statistics count what is there`() throws {
    var rig = Rig()
    let writer = rig.connect()
    _ = rig.connectOnly()
    _ = rig.sealed(writer, "a", byteCount: 10)
    _ = rig.create(writer, "b") { $0.inlineBytes = [1] }
    rig.pass(.seconds(3))
    let statistics = try need(rig.statistics(writer))
    #expect(statistics.blobCount == 2 && statistics.ringCount == 1)
    #expect(statistics.clientCount == 1)
    #expect(statistics.memoryByteCount == UInt64(rig.ledger.usedByteCount))
    #expect(statistics.memoryLimit == 64 << 20)
    #expect(statistics.uptime == .seconds(3))
  }

  @Test func `the catalog is a sorted set under random insertions and removals`() throws {
    var generator = SeededGenerator(seed: 11)
    var catalog = KeyCatalog()
    var model: Set<BlobKey> = []
    for _ in 0..<4000 {
      let key = try BlobKey("\(Int.random(in: 0..<1500, using: &generator))")
      if Bool.random(using: &generator) || model.count < 600 {
        catalog.insert(key)
        model.insert(key)
      } else {
        catalog.remove(key)
        model.remove(key)
      }
    }
    for (prefix, after) in [("", ""), ("1", ""), ("1", "12"), ("", "5"), ("7", "9"), ("x", "")] {
      var visited: [BlobKey] = []
      catalog.visit(prefix: Array(prefix.utf8), after: Array(after.utf8)) { key in
        visited.append(key)
        return true
      }
      let expected = model.filter {
        $0.bytes.starts(with: Array(prefix.utf8))
          && (after.isEmpty || Array(after.utf8).lexicographicallyPrecedes($0.bytes))
      }
      #expect(visited == expected.sorted())
    }
    #expect(catalog.count == model.count)
  }

  @Test func `the eviction queue gives up its least entry first`() {
    var generator = SeededGenerator(seed: 12)
    var queue = EvictionQueue()
    var model: [EvictionQueue.Entry] = []
    for number in 1...500 {
      let entry = EvictionQueue.Entry(
        isFailed: Int.random(in: 0..<5, using: &generator) == 0,
        stamp: UInt64.random(in: 0..<300, using: &generator),
        generation: Generation(rawValue: UInt64(number)))
      queue.push(entry)
      model.append(entry)
    }
    queue.keep { $0.stamp % 3 != 0 }
    model.removeAll { $0.stamp % 3 == 0 }
    var popped: [EvictionQueue.Entry] = []
    while let entry = queue.pop() { popped.append(entry) }
    #expect(popped == model.sorted())
  }

  @Test func `queues stay bounded under endless churn`() {
    var rig = Rig()
    let writer = rig.connect()
    for _ in 0..<2000 {
      _ = rig.create(writer, "k") {
        $0.inlineBytes = [1]
        $0.replaces = true
      }
      rig.trace = []
    }
    #expect(rig.ledger.accounts[Rig.user]?.idleBlobs.count ?? 0 < 200)
    for _ in 0..<3000 {
      let session = rig.connect()
      rig.send(.hungUp(session))
      rig.trace = []
    }
    #expect(rig.ledger.sessions.count == 1)
    #expect(rig.ledger.ghosts.isEmpty)
  }
}
