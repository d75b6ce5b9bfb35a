// A publisher that fetches on demand, is cancelled, and serves again: nothing that it had begun is lost.

import PatchbayBroker
import PatchbayTestSupport
import PatchbayTypes
import PatchbayWire
import Synchronization
import Testing

@testable import Patchbay

@Suite struct ServingTests {
  private static let piece = 4096

  /// Fetches the pattern, in small pieces.
  private static func source(
    _ fetch: @escaping @Sendable (Range<Int>, Publisher) async throws -> Void
  ) -> RangeSource {
    var source = RangeSource(fetch: fetch)
    source.pieceByteCount = piece
    return source
  }

  private static let good = source { range, publisher in
    try await publisher.write(pattern(range), at: range.lowerBound)
  }

  /// Of a blob that is stale as soon as it is sealed, and stays so.
  private static func soonStale(byteCount: Int) -> ProductionOptions {
    var options = ProductionOptions(BlobOptions(byteCount: byteCount))
    options.blob.timeToLive = .milliseconds(1)
    options.blob.grace = .seconds(3600)
    return options
  }

  /// How the task of a `serve` ended.
  private func outcome(of serving: Task<Void, any Error>) async -> String {
    switch await serving.result {
    case .success: "it is all there"
    case .failure(let error as PatchbayError): "\(error.code)"
    case .failure(let error): error is CancellationError ? "cancelled" : "\(error)"
    }
  }

  /// A broker that lets one piece be fetched at a time: what is not given back holds up all.
  private func withNarrowBroker(
    _ body: (Broker, PatchbayClient) async throws -> Void
  ) async throws {
    let directory = try TemporaryDirectory()
    var configuration = BrokerConfiguration(
      socketPath: directory.file("s"), memoryLimit: 64 << 20)
    configuration.transferLimit = 1
    try await Broker.withBroker(configuration) { broker in
      try await body(broker, try await broker.makeClient())
    }
  }

  @Test func `what a cancelled call had begun the next call fetches`() async throws {
    try await withNarrowBroker { (broker, client) async throws in
      let publisher = try await client.publisher(
        "k", BlobOptions(byteCount: 8 * Self.piece), fetching: Self.good)
      let reader = try await broker.makeClient().open("k")
      let range = 3 * Self.piece + 5..<3 * Self.piece + 10
      async let wanted = reader.readFully(range)
      let isFetching = Mutex(false)
      let hanging = Self.source { _, _ in
        isFetching.withLock { $0 = true }
        try await Task.sleep(for: .seconds(3600))
      }
      let serving = Task { try await publisher.serve(hanging) }
      try await eventually("it fetches") { isFetching.withLock { $0 } }
      serving.cancel()
      #expect(await outcome(of: serving) == "cancelled")
      let again = Task { try await publisher.serve(Self.good) }
      #expect(try await wanted == pattern(range))
      again.cancel()
      #expect(await outcome(of: again) == "cancelled")
      try await publisher.fail("over")
    }
  }

  @Test func `a source that is cancelled all the time loses nothing`() async throws {
    let count = 60 * Self.piece + 17
    try await withNarrowBroker { (broker, client) async throws in
      let publisher = try await client.publisher(
        "k", BlobOptions(byteCount: count), fetching: Self.good)
      let reader = try await broker.makeClient().open("k")
      async let all = reader.readFully(0..<count)
      let cancelled = Mutex(0)
      // However slowly this runs, the end is not there before some calls were cancelled.
      let source = Self.source { range, publisher in
        if range.upperBound == count, cancelled.withLock({ $0 }) < 10 {
          try await Task.sleep(for: .seconds(3600))
        }
        try await publisher.write(pattern(range), at: range.lowerBound)
      }
      while true {
        let serving = Task { try await publisher.serve(source) }
        // As long as a few pieces take, or none; longer and longer, so that any machine gets on.
        let most = 600 + 10 * cancelled.withLock { $0 }
        try await Task.sleep(for: .microseconds(Int.random(in: 0..<most)))
        serving.cancel()
        let outcome = await outcome(of: serving)
        if outcome == "it is all there" { break }
        #expect(outcome == "cancelled")
        cancelled.withLock { $0 += 1 }
      }
      try await publisher.seal()
      #expect(try await all == pattern(0..<count))
    }
  }

  /// Gets a blob and reads of it; nobody closes what it has opened.
  private func glance(_ client: PatchbayClient) async throws {
    let options = ProductionOptions(BlobOptions(byteCount: 8 * Self.piece))
    let reader = try await client.get("k", options, orFetch: Self.good)
    #expect(try await reader.readFully(0..<1) == pattern(0..<1))
  }

  @Test func `removed blobs that nobody reads leave no source behind`() async throws {
    try await withBroker { (broker, client) async throws in
      let other = try await broker.makeClient()
      for _ in 0..<20 {
        try await glance(client)
        try await glance(other)
        try await client.remove("k")
      }
      try await client.finishProducing(deadline: .after(.seconds(20)))
      try await eventually("the broker keeps nothing of them") {
        try await client.statistics().userMemoryByteCount == 0
      }
    }
  }

  @Test func `the successor of a stale blob is fetched whole, behind the back of who asks`()
    async throws
  {
    try await withBroker { (_, client) async throws in
      let options = Self.soonStale(byteCount: 3 * Self.piece)
      let isDown = Mutex(false)
      let count = Mutex(0)
      let source = Self.source { range, publisher in
        count.withLock { $0 += 1 }
        if isDown.withLock({ $0 }) { throw PatchbayError(.inputOutput, "It is down.") }
        try await Self.good.fetch(range, publisher)
      }
      let first = try await client.get("k", options, orFetch: source)
      #expect(try await first.readFully(0..<3 * Self.piece) == pattern(0..<3 * Self.piece))
      try await client.finishProducing(deadline: .after(.seconds(20)))
      isDown.withLock { $0 = true }
      try await eventually("it is stale, and the successor has been tried") {
        let stale = try await client.get("k", options, orFetch: source)
        #expect(stale.generation == first.generation)
        return count.withLock { $0 } > 3
      }
      try await client.finishProducing(deadline: .after(.seconds(20)))
      isDown.withLock { $0 = false }
      try await eventually("another one has been made") {
        _ = try await client.get("k", options, orFetch: source)
        try await client.finishProducing(deadline: .after(.seconds(20)))
        return try await client.info("k").generation != first.generation
      }
      let next = try await client.open("k")
      #expect(next.state == .sealed)
      #expect(try await next.readFully(0..<3 * Self.piece) == pattern(0..<3 * Self.piece))
    }
  }

  @Test func `who drops a stale blob reads it no more, though its successor is still being made`()
    async throws
  {
    try await withBroker { (_, client) async throws in
      let options = Self.soonStale(byteCount: Self.piece)
      let isGateOpen = Mutex(true)
      let count = Mutex(0)
      let source = Self.source { range, publisher in
        count.withLock { $0 += 1 }
        while !isGateOpen.withLock({ $0 }) { try await Task.sleep(for: .milliseconds(1)) }
        try await Self.good.fetch(range, publisher)
      }
      #expect(
        try await client.get("k", options, orFetch: source).readFully(0..<1) == pattern(0..<1))
      try await client.finishProducing(deadline: .standard)
      isGateOpen.withLock { $0 = false }
      try await eventually("its successor is being made") {
        _ = try await client.get("k", options, orFetch: source)
        return count.withLock { $0 } > 1
      }
      try await eventually("nobody reads it") { try await client.info("k").subscriberCount == 0 }
      isGateOpen.withLock { $0 = true }
      try await client.finishProducing(deadline: .standard)
    }
  }

  @Test func `a piece that is handed out to nobody any more is given back`() async throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let blob = BlobReference(generation: Generation(rawValue: 7), epoch: 3)
    let question = Task {
      try await client.session.connection.call(.nextDemand(blob), deadline: .never)
    }
    let asked = try peer.next()
    #expect(asked.request == .nextDemand(blob))
    question.cancel()
    let withdrawn = try peer.next().request
    #expect(withdrawn == .cancel(CancelRequest(request: asked.number)))
    // It had been handed out before.
    try peer.say(.demanded(0..<4096), to: asked.number)
    let returned = SettleDemandRequest(blob: blob, range: 0..<4096, outcome: .returned)
    #expect(try peer.next().request == .settleDemand(returned))
    #expect(await question.result.isFailure)
  }
}

extension Result {
  fileprivate var isFailure: Bool { if case .failure = self { true } else { false } }
}
