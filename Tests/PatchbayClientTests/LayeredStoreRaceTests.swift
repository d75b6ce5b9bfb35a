// Layers of which one is slow, or stops at the wrong moment: what was removed or replaced must not come back,
// and no layer above the lowest may hold a read up for long.

import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import Patchbay

/// A layer that is told when it is asked what it knows of a blob, and that hands copies on in time.
private struct Staged: BlobStore {
  /// How often it was asked.
  private final class Count: Sendable {
    private let count = Mutex(0)
    func next() -> Int {
      count.withLock { count in
        count += 1
        return count
      }
    }
  }

  let client: PatchbayClient
  /// Called with the number of each question, from 1 on.
  var before: @Sendable (Int) async -> Void = { _ in }
  var after: @Sendable (Int) async -> Void = { _ in }
  private let count = Count()

  init(_ client: PatchbayClient) { self.client = client }

  func info(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) -> BlobInfo {
    let number = count.next()
    await before(number)
    let info = try await client.info(key, deadline: deadline)
    await after(number)
    return info
  }

  func get(
    _ key: BlobKey, _ options: ProductionOptions, deadline: Deadline,
    orProduce produce:
      nonisolated(nonsending) @escaping @Sendable (Production) async throws -> Void
  ) async throws(PatchbayError) -> Subscriber {
    var options = options
    options.stallTimeout = .milliseconds(50)
    return try await client.get(key, options, deadline: deadline, orProduce: produce)
  }

  func open(_ key: BlobKey, waitUntil: Deadline?) async throws(PatchbayError) -> Subscriber {
    try await client.open(key, waitUntil: waitUntil)
  }

  func publisher(
    _ key: BlobKey, _ options: BlobOptions, deadline: Deadline
  ) async throws(PatchbayError) -> Publisher {
    try await client.publisher(key, options, deadline: deadline)
  }

  func list(
    prefix: [UInt8], after: BlobKey?, limit: Int, deadline: Deadline
  ) async throws(PatchbayError) -> BlobPage {
    try await client.list(prefix: prefix, after: after, limit: limit, deadline: deadline)
  }

  func remove(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) {
    try await client.remove(key, deadline: deadline)
  }
}

/// A layer whose broker was stopped: nothing is ever answered.
private struct Silent: BlobStore {
  private func wait<Answer>(_ deadline: Deadline) async throws(PatchbayError) -> Answer {
    let never = Awaited<Void>()
    try await never.value(
      until: deadline, timedOut: PatchbayError(.timedOut, "no answer"),
      cancelled: PatchbayError(.cancelled, "cancelled"))
    throw PatchbayError(.timedOut, "no answer")
  }

  func open(_ key: BlobKey, waitUntil: Deadline?) async throws(PatchbayError) -> Subscriber {
    try await wait(waitUntil ?? .never)
  }

  func publisher(
    _ key: BlobKey, _ options: BlobOptions, deadline: Deadline
  ) async throws(PatchbayError) -> Publisher { try await wait(deadline) }

  func get(
    _ key: BlobKey, _ options: ProductionOptions, deadline: Deadline,
    orProduce produce:
      nonisolated(nonsending) @escaping @Sendable (Production) async throws -> Void
  ) async throws(PatchbayError) -> Subscriber { try await wait(deadline) }

  func info(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) -> BlobInfo {
    try await wait(deadline)
  }

  func list(
    prefix: [UInt8], after: BlobKey?, limit: Int, deadline: Deadline
  ) async throws(PatchbayError) -> BlobPage { try await wait(deadline) }

  func remove(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) {
    let _: Never = try await wait(deadline)
  }
}

@Suite struct LayeredStoreRaceTests {
  @Test func `a copy that another goes on with has no more time than the blob below`() async throws
  {
    try await withLayers { layers in
      let end = Awaited<Void>()
      defer { end.finish(.success(())) }
      var below = Staged(layers.lower)
      // Its last look at its source, when all is copied.
      below.before = { if $0 == 3 { _ = await end.outcome {} } }
      let first = LayeredStore(Staged(try await layers.brokers[0].makeClient()), over: below)

      var options = inOrder(5)
      options.timeToLive = .seconds(3600)
      let publisher = try await layers.lower.publisher("k", options)
      try await publisher.append([1, 2])
      let begun = try await first.open("k")
      try await publisher.append([3, 4, 5])
      try await publisher.seal()
      try await eventually("all is copied") {
        try await layers.upper.info("k").coveredByteCount == 5
      }
      // A copy that this one began would have the time that is left. The other one stands still.
      let reader = try await layers.store.open("k")
      #expect(reader.generation == begun.generation)
      #expect(try await reader.waitUntilSealed() == 5)
      if try await layers.upper.exists("k") {
        #expect(try await layers.upper.info("k").expires != nil)
      }
    }
  }

  /// A reader that has found a blob when something else becomes of its key, and that makes a copy of it only
  /// then; its copy is there, and has not looked at its source yet, when `body` is called.
  private func withLateCopy(
    _ layers: Layers, _ change: @escaping @Sendable () async throws -> Void,
    _ body: () async throws -> Void
  ) async throws {
    let end = Awaited<Void>()
    defer { end.finish(.success(())) }
    try await layers.lower.publish([1, 1, 1], as: "k", inOrder(3))
    var below = Staged(layers.lower)
    below.after = { if $0 == 1 { await #expect(throws: Never.self) { try await change() } } }
    below.before = { if $0 == 2 { _ = await end.outcome {} } }
    let late = LayeredStore(layers.upper, over: below)
    async let reader = late.open("k")
    try await eventually("the copy was begun") { try await layers.upper.exists("k") }
    try await body()
    end.finish(.success(()))
    #expect(try await reader.readFully(0..<3) == [1, 1, 1], "it came before")
    try await eventually("the copy has lost its key") {
      do throws(PatchbayError) {
        return try await layers.upper.open("k").readFully(0..<1) != [1]
      } catch {
        return error.code == .noSuchKey
      }
    }
  }

  @Test func `a copy that is begun behind a removal is nobody's who asks afterwards`() async throws
  {
    try await withLayers { layers in
      let store = layers.store
      try await withLateCopy(layers) {
        try await store.remove("k")
      } _: {
        #expect(await code { _ = try await store.open("k") } == .noSuchKey)
        let waiting = Deadline.after(.milliseconds(50))
        #expect(await code { _ = try await store.open("k", waitUntil: waiting) } == .timedOut)
        let anew = try await store.get("k", ProductionOptions(inOrder(1), start: .fromZero)) {
          job in
          try await job.publisher.append([2])
        }
        #expect(try await anew.waitUntilSealed() == 1)
        #expect(try await anew.readFully(0..<1) == [2])
      }
    }
  }

  @Test func `a copy that is begun behind a replacement is nobody's who asks afterwards`()
    async throws
  {
    try await withLayers { layers in
      let store = layers.store
      try await withLateCopy(layers) {
        try await store.publish([2, 2, 2], as: "k", BlobOptions(replaces: true))
      } _: {
        let bytes = try await store.open("k").readFully(0..<3)
        #expect(bytes == [2, 2, 2])
      }
      try await eventually("it is copied, too") {
        _ = try await store.open("k")
        return try await layers.upper.open("k").readFully(0..<3) == [2, 2, 2]
      }
    }
  }

  @Test(.timeLimit(.minutes(1)))
  func `an upper layer that does not answer holds no read up`() async throws {
    try await withBroker { (_, lower) async throws in
      let store = LayeredStore(Silent(), over: lower)
      try await lower.publish(pattern(0..<9000), as: "k")
      #expect(try await store.open("k").readFully(0..<9000) == pattern(0..<9000))
      let whole = try await store.get("k") { _ in Issue.record("it is there") }
      #expect(try await whole.waitUntilSealed() == 9000)
      #expect(try await store.info("k", deadline: .after(.seconds(5))).state == .sealed)
      let page = try await store.list(
        prefix: [], after: nil, limit: 9, deadline: .after(.seconds(5)))
      #expect(page.blobs.map(\.key) == ["k"])
      // Nothing there may be left behind, so what changes something is as slow as it is.
      let soon = Deadline.after(.milliseconds(50))
      #expect(
        await code { _ = try await store.publisher("new", BlobOptions(), deadline: soon) }
          == .timedOut)
      #expect(try await lower.info("new").state == .failed)
    }
  }
}
