// Blobs with several publishers, from tasks.

import Patchbay
import PatchbayBroker
import PatchbayTestSupport
import Testing

@Suite struct PatchingTaskTests {
  private func joinable(_ byteCount: Int? = nil) -> BlobOptions {
    var options = BlobOptions(byteCount: byteCount)
    options.isJoinable = true
    return options
  }

  private func withTasks(
    _ body: (PatchbayClient, PatchbayClient) async throws -> Void
  ) async throws {
    let directory = try TemporaryDirectory()
    try await Broker.withBroker(
      BrokerConfiguration(socketPath: directory.file("s"), memoryLimit: 64 << 20)
    ) { broker in
      let first = try await PatchbayClient(socketPath: broker.socketPath)
      let second = try await PatchbayClient(socketPath: broker.socketPath)
      try await body(first, second)
    }
  }

  @Test func `tasks of two publishers fill one blob, each byte once`() async throws {
    try await withTasks { first, second in
      let byteCount = 60_000
      let one = try await first.publisher("k", joinable(byteCount))
      let other = try await second.join("k")
      try await withThrowingTaskGroup(of: Int.self) { group in
        for (index, publisher) in [one, other, one, other].enumerated() {
          group.addTask {
            var written = 0
            var ranges = raggedRanges(byteCount, seed: UInt64(index)).shuffled()
            while let range = ranges.popLast() {
              do {
                written += try await publisher.write(
                  pattern(range), at: range.lowerBound, skippingCovered: true)
              } catch let error as PatchbayError {
                guard error.code == .rangeOverlap else { throw error }
                ranges.insert(range, at: 0)
              }
            }
            return written
          }
        }
        let written = try await group.reduce(0, +)
        #expect(written == byteCount)
      }
      let missing = try await one.missing()
      #expect(missing == [])
      try await other.leave()
      try await one.seal()
      let reader = try await first.open("k")
      let bytes = try await reader.readFully(0..<byteCount)
      #expect(bytes == pattern(0..<byteCount))
    }
  }

  @Test func `a claim, an ownerless blob and its length are the same from tasks`() async throws {
    try await withTasks { first, second in
      let generation = try await first.create("k")
      let again = try await second.create("k")
      #expect(again == generation)
      let one = try await first.join("k")
      let other = try await second.join("k")
      do {
        let claim = try await one.claim(0..<1000)
        let refused = await #expect(throws: PatchbayError.self) {
          try await other.write(pattern(999..<1001), at: 999)
        }
        #expect(refused?.code == .rangeOverlap)
        try await one.write(pattern(0..<1000), at: 0)
        withExtendedLifetime(claim) {}
      }
      try await first.ping()
      try await other.write(pattern(1000..<70_000), at: 1000)
      let written = try await one.writtenRanges(in: 500..<2000)
      #expect(written == [500..<2000])
      try await one.seal()
      let reader = try await second.open("k")
      #expect(reader.byteCount == 70_000)
    }
  }

  @Test func `a task whose write is cancelled while it claims leaves no claim`() async throws {
    try await withTasks { first, second in
      let one = try await first.publisher("k", joinable(100_000))
      let other = try await second.join("k")
      for round in 0..<20 {
        let range = round * 5000..<(round + 1) * 5000
        let task = Task { try await one.write(pattern(range), at: range.lowerBound) }
        if round % 2 == 0 { await Task.yield() }
        task.cancel()
        _ = await task.result
        // Whatever became of it, its claim is given back, if only when the broker's late answer came.
        try await eventually("its range is free") {
          await code {
            try await other.write(pattern(range), at: range.lowerBound, skippingCovered: true)
          } != .rangeOverlap
        }
      }
      try await other.seal()
      let bytes = try await first.open("k").readFully(0..<100_000)
      #expect(bytes == pattern(0..<100_000))
    }
  }

  @Test func `of many tasks exactly one creates, and a failed blob is resumed`() async throws {
    try await withTasks { first, second in
      let created = try await withThrowingTaskGroup(of: Publisher?.self) { group in
        for index in 0..<20 {
          group.addTask {
            let client = index % 2 == 0 ? first : second
            switch try await client.openOrCreate("k", BlobOptions(byteCount: 1000)) {
            case .created(let publisher, _): return publisher
            case .existing: return nil
            }
          }
        }
        var created: [Publisher] = []
        for try await publisher in group { if let publisher { created.append(publisher) } }
        return created
      }
      #expect(created.count == 1)
      try await created[0].write(pattern(0..<600), at: 0)
      try await created[0].fail("half way")
      var options = BlobOptions(byteCount: 1000)
      options.resumes = true
      let next = try await second.publisher("k", options)
      let missing = try await next.missing()
      #expect(missing == [600..<1000])
      try await next.write(pattern(600..<1000), at: 600)
      try await next.seal()
      let bytes = try await first.open("k").readFully(0..<1000)
      #expect(bytes == pattern(0..<1000))
    }
  }
}
