// Blobs that keep their last bytes only, written and read by tasks.

import Glibc
import PatchbayRing
import PatchbayTestSupport
import Testing

@testable import Patchbay

private func window(_ policy: FlowPolicy) -> BlobOptions {
  var options = BlobOptions(policy: policy)
  options.ringByteCount = 4 * 4096
  options.segmentByteCount = 4096
  return options
}

@Suite(.serialized) struct WindowTaskTests {
  @Test(arguments: [1000, 4096, 100_000])
  func `tasks that read in sequence lose no byte of a publisher that waits for them`(
    piece: Int
  ) async throws {
    try await withBroker { broker, client in
      let length = 400_000
      let publisher = try await client.publisher("k", window(.backpressure))
      let readers = try await broker.makeClient()
      let subscriber = try await readers.open("k")
      let directory = try TemporaryDirectory()
      let path = directory.file("copy")
      var cursor = subscriber.cursor()
      try await cursor.attach()
      try await publisher.append(pattern(0..<1))
      let chunks = Task {
        var at = 0
        for try await chunk in subscriber.chunks(byteLimit: 3000) {
          #expect(chunk.range.lowerBound == at)
          #expect(chunk.withBytes { firstWrong($0, 1, at: at) } == nil)
          at = chunk.range.upperBound
        }
        return at
      }
      let copy = Task {
        let file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        defer { _ = close(file) }
        return try await subscriber.copy(to: file)
      }
      // Whoever has joined is waited for from here on.
      try await eventually("three read in sequence") {
        readers.session.table.positionCount == 3
          && readers.session.connection.pendingCount == 0
      }
      let writer = Task {
        for start in stride(from: 1, to: length, by: piece) {
          try await publisher.append(pattern(start..<min(start + piece, length)))
        }
        try await publisher.seal()
      }
      while let bytes = try await cursor.read(upTo: 5000) {
        #expect(firstWrong(bytes.span, 1, at: cursor.position - bytes.count) == nil)
      }
      #expect(cursor.position == length)
      #expect(try await chunks.value == length)
      #expect(try await copy.value == length)
      #expect(try readBytes(path) == pattern(0..<length))
      try await writer.value
    }
  }

  @Test func `an append that waits for a reader can be cancelled, and says how far it came`()
    async throws
  {
    try await withBroker { _, client in
      let publisher = try await client.publisher("k", window(.backpressure))
      var cursor = try await client.open("k").cursor()
      try await cursor.attach()
      let task = Task { try await publisher.append(pattern(0..<50_000)) }
      try await eventually("it waits") { BellWaiters.shared.waitCount == 1 }
      task.cancel()
      #expect(await code { try await task.value } == .cancelled)
      #expect(publisher.position == 4 * 4096)
      try await eventually("no wait is left") { BellWaiters.shared.waitCount == 0 }
      // The turn is free again.
      let next = Task { try await publisher.append(pattern(16_384..<20_480)) }
      #expect(try await cursor.read(upTo: 16_384) == pattern(0..<16_384))
      try await next.value
      let closing = Task { try await publisher.append(pattern(20_480..<90_000)) }
      try await eventually("it waits") { BellWaiters.shared.waitCount == 1 }
      publisher.close()
      #expect(await code { try await closing.value } == .closed)
    }
  }

  @Test func `a task that holds its publisher for too long is let go`() async throws {
    try await withBroker { _, client in
      var options = window(.backpressure)
      options.slowestLimit = .milliseconds(50)
      let publisher = try await client.publisher("k", options)
      var cursor = try await client.open("k").cursor()
      try await cursor.attach()
      try await publisher.append(pattern(0..<100_000))
      let late = await code { _ = try await cursor.read(upTo: 1) }
      #expect(late == .overrun && cursor.position == 0)
      try await publisher.seal()
    }
  }

  @Test func `chunks that come too late are told where to go on`() async throws {
    try await withBroker { _, client in
      let publisher = try await client.publisher("k", window(.dropOldest))
      try await publisher.append(pattern(0..<50_000))
      try await publisher.seal()
      let reader = try await client.open("k")
      do throws(PatchbayError) {
        for try await _ in reader.chunks() { Issue.record("a chunk came") }
        Issue.record("it ended")
        return
      } catch {
        #expect(error.code == .overrun)
        var at = try #require(error.resumePosition)
        for try await chunk in reader.chunks(from: .position(at)) {
          #expect(chunk.withBytes { firstWrong($0, 1, at: at) } == nil)
          at = chunk.range.upperBound
        }
        #expect(at == 50_000)
      }
    }
  }

  @Test func `live chunks begin at the last mark`() async throws {
    try await withBroker { _, client in
      let publisher = try await client.publisher("k", window(.dropOldest))
      try await publisher.append(pattern(0..<5000))
      try publisher.mark()
      try await publisher.append(pattern(5000..<5100))
      let reader = try await client.open("k")
      #expect(try await reader.position(of: .live) == 5000)
      var cursor = try await reader.cursor(from: .live)
      #expect(try await cursor.read(upTo: 1000) == pattern(5000..<5100))
      for try await chunk in reader.chunks(from: .live) {
        #expect(chunk.range == 5000..<5100)
        break
      }
      publisher.close()
    }
  }
}
