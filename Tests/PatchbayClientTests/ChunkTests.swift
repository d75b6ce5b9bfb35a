// A blob as a sequence of leases.

import PatchbayTestSupport
import Testing

@testable import Patchbay

@Suite struct ChunkTests {
  @Test(arguments: [0, 1, 16_384, 500_000, 3_000_001])
  func `chunks give every byte once, in order and within bounds`(length: Int) async throws {
    try await withBroker { broker, client in
      var options = BlobOptions(order: .appendOnly)
      options.firstExtentByteCount = 4096
      options.extentByteLimit = 1 << 20
      let publisher = try await client.publisher("k", options)
      try await client.publish(pattern(0..<length), as: "whole")
      let reader = try await broker.makeClient().open("k")
      let writer = Task {
        var random = SeededRandom(seed: 7)
        var at = 0
        while at < length {
          let end = min(length, at + Int.random(in: 1...50_000, using: &random))
          try await publisher.append(pattern(at..<end))
          at = end
        }
        try await publisher.seal()
      }
      for subscriber in [reader, try await client.open("whole")] {
        var at = 0
        for try await chunk in subscriber.chunks(byteLimit: 30_000) {
          #expect(chunk.range.lowerBound == at && (1...30_000).contains(chunk.range.count))
          #expect(chunk.withBytes { firstWrong($0, 1, at: at) } == nil)
          at = chunk.range.upperBound
        }
        #expect(at == length)
      }
      try await writer.value
    }
  }

  @Test func `chunks begin at the start, at a position, or at the live end`() async throws {
    try await withBroker { _, client in
      let publisher = try await client.publisher("k", BlobOptions(byteCount: 1000))
      try await publisher.write(pattern(0..<300), at: 0)
      try await publisher.write(pattern(400..<500), at: 400)
      let reader = try await client.open("k")
      func first(_ start: StartPoint) async throws -> Range<Int>? {
        for try await chunk in reader.chunks(from: start) { return chunk.range }
        return nil
      }
      #expect(try await first(.start) == 0..<300)
      #expect(try await first(.position(450)) == 450..<500)
      #expect(await code { _ = try await first(.position(-1)) } == .rangeOutOfBounds)
      async let live = first(.live)
      try await eventually("the live one waits") {
        reader.waiterCount.load(ordering: .relaxed) == 1
      }
      try await publisher.write(pattern(300..<350), at: 300)
      #expect(try await live == 300..<350)
      try await publisher.write(pattern(0..<1000), at: 0, skippingCovered: true)
      try await publisher.seal()
      #expect(try await first(.live) == nil)
      #expect(try await first(.position(1000)) == nil)
    }
  }

  @Test func `a loop holds one lease at a time, and whoever keeps more than four is refused`()
    async throws
  {
    try await withBroker { _, client in
      try await client.withPublisher("k") { try await $0.append(pattern(0..<100_000)) }
      let reader = try await client.open("k")
      var count = 0
      for try await chunk in reader.chunks(byteLimit: 1000) { count += chunk.range.count }
      #expect(count == 100_000)
      var kept: [Lease] = []
      let refusal = await code {
        for try await chunk in reader.chunks(byteLimit: 1000) { kept.append(chunk) }
      }
      #expect(refusal == .limitReached && kept.count == 4)
      kept = []
      let lease = try await reader.lease(0..<1)
      #expect(lease.range == 0..<1)
    }
  }

  @Test func `chunks of a blob that fails end with its cause, after what was there`() async throws {
    try await withBroker { _, client in
      let publisher = try await client.publisher("k")
      try await publisher.append(pattern(0..<100))
      let reader = try await client.open("k")
      try await publisher.fail("no good")
      var seen = 0
      let end = await code { for try await chunk in reader.chunks() { seen += chunk.range.count } }
      #expect(end == .blobFailed && seen == 100)
    }
  }
}
