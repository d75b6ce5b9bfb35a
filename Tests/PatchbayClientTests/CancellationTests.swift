// A task that waits can be cancelled, whatever it waits for, and leaves nothing behind.

import Glibc
import PatchbayRing
import PatchbayTestSupport
import Synchronization
import Testing

@testable import Patchbay

/// A call that waits for bytes or for an end that do not come.
private struct WaitingCall: CustomTestStringConvertible, Sendable {
  let testDescription: String
  let make: @Sendable (Subscriber) async throws -> Void

  init(_ name: String, _ make: @escaping @Sendable (Subscriber) async throws -> Void) {
    testDescription = name
    self.make = make
  }

  static let all = [
    WaitingCall("read") { _ = try await $0.read(upTo: 10, at: 100) },
    WaitingCall("readFully") { _ = try await $0.readFully(0..<500) },
    WaitingCall("a part of an extent that is not there") {
      _ = try await $0.readFully(1_000_000..<1_000_001)
    },
    WaitingCall("lease") { _ = try await $0.lease(50..<150) },
    WaitingCall("withWholeBlob") { try await $0.withWholeBlob { _ in } },
    WaitingCall("waitForByteCount") { _ = try await $0.waitForByteCount() },
    WaitingCall("waitUntilSealed") { try await $0.waitUntilSealed() },
    WaitingCall("a cursor's read") { subscriber in
      var cursor = subscriber.cursor(from: 100)
      _ = try await cursor.read(upTo: 1)
    },
    WaitingCall("a cursor's seek to the end") { subscriber in
      var cursor = subscriber.cursor()
      try await cursor.seek(to: .end)
    },
    WaitingCall("chunks") { for try await _ in $0.chunks() {} },
    WaitingCall("live chunks") { for try await _ in $0.chunks(from: .live) {} },
    WaitingCall("copy") { subscriber in
      let null = open("/dev/null", O_WRONLY | O_CLOEXEC)
      defer { _ = close(null) }
      try await subscriber.copy(to: null)
    },
  ]
}

@Suite(.serialized) struct CancellationTests {
  /// A blob of 100 bytes of which more may come, with a waiting call on its way.
  private func withWaitingCall(
    _ call: WaitingCall, _ body: (Subscriber, Task<Void, any Error>) async throws -> Void
  ) async throws {
    try await withBroker { broker, client in
      var options = BlobOptions()
      options.firstExtentByteCount = 65_536
      let publisher = try await client.publisher("k", options)
      try await publisher.append(pattern(0..<100))
      let readers = try await broker.makeClient()
      let subscriber = try await readers.open("k")
      let task = Task { try await call.make(subscriber) }
      try await eventually("the call waits") { BellWaiters.shared.waitCount == 1 }
      try await body(subscriber, task)
      try await eventually("no wait is left") { BellWaiters.shared.waitCount == 0 }
      #expect(subscriber.waiterCount.load(ordering: .relaxed) == 0)
      subscriber.close()
      try await eventually("no reader is left") {
        try await client.info("k").subscriberCount == 0
      }
      #expect(readers.session.connection.pendingCount == 0)
      try await publisher.seal()
    }
  }

  @Test(arguments: WaitingCall.all)
  private func `cancelling a waiting call ends it with cancelled and leaves nothing`(
    call: WaitingCall
  ) async throws {
    try await withWaitingCall(call) { _, task in
      task.cancel()
      #expect(await code { try await task.value } == .cancelled)
    }
  }

  @Test(arguments: WaitingCall.all)
  private func `closing a subscriber ends its waiting tasks with closed`(
    call: WaitingCall
  ) async throws {
    try await withWaitingCall(call) { subscriber, task in
      subscriber.close()
      #expect(await code { try await task.value } == .closed)
    }
  }

  @Test func `a task that was cancelled before does not wait, and gets what is there`() async throws
  {
    try await withBroker { _, client in
      let publisher = try await client.publisher("k")
      try await publisher.append(pattern(0..<100))
      let reader = try await client.open("k")
      _ = try await reader.readFully(0..<1)
      let task = Task { () async throws in
        while !Task.isCancelled { await Task.yield() }
        #expect(try await reader.readFully(0..<100) == pattern(0..<100))
        #expect(await code { _ = try await reader.readFully(0..<101) } == .cancelled)
        #expect(await code { try await client.ping() } == .cancelled)
        #expect(await code { for try await _ in reader.chunks() {} } == .cancelled)
      }
      task.cancel()
      try await task.value
      try await eventually("no wait is left") { BellWaiters.shared.waitCount == 0 }
    }
  }

  @Test func `a cancelled open leaves no reader behind, whenever the key comes`() async throws {
    try await withBroker { broker, client in
      let opener = try await broker.makeClient()
      for round in 0..<200 {
        let key = try BlobKey("k\(round)")
        let task = Task { try await opener.open(key, waitUntil: .never) }
        if round % 2 == 0 {
          try await eventually("it waits") { opener.session.connection.pendingCount == 1 }
        }
        async let published: Generation = client.publish(pattern(0..<20_000), as: key)
        task.cancel()
        _ = try await published
        if let reader = try? await task.value { reader.close() }
        try await eventually("nobody reads \(key)") {
          try await client.info(key).subscriberCount == 0
        }
        try await client.remove(key)
      }
      try await eventually("no call is left") { opener.session.connection.pendingCount == 0 }
    }
  }

  @Test func `a cancelled source leaves a blob that failed, and a place to append`() async throws {
    try await withBroker { _, client in
      var ends: [Int32] = [0, 0]
      #expect(pipe(&ends) == 0)
      let readEnd = ends[0]
      _ = write(ends[1], [1, 2, 3] as [UInt8], 3)
      let publisher = try await client.publisher("k")
      let task = Task { try await publisher.append(from: readEnd) }
      try await eventually("the first bytes came") { publisher.position == 3 }
      task.cancel()
      #expect(await code { _ = try await task.value } == .cancelled)
      try await publisher.append([4])
      try await publisher.seal()
      #expect(try await client.open("k").readFully(0..<4) == [1, 2, 3, 4])
      _ = close(ends[0])
      _ = close(ends[1])
    }
  }

  @Test func `a body that is cancelled has failed its blob, and says so`() async throws {
    try await withBroker { _, client in
      let empty = try await client.publisher("empty")
      let reader = try await client.open("empty")
      let task = Task {
        try await client.withPublisher("k") { blob in
          try await blob.append([1])
          _ = try await reader.readFully(0..<1)
        }
      }
      try await eventually("the body waits") { BellWaiters.shared.waitCount == 1 }
      task.cancel()
      #expect(await code { try await task.value } == .cancelled)
      let info = try await client.info("k")
      #expect(info.state == .failed && info.causeCode == .blobFailed)
      try await empty.seal()
    }
  }

  @Test func `a writer that waits for another's range can be cancelled`() async throws {
    try await withBroker { _, client in
      let publisher = try await client.publisher("k")
      let loan = try await publisher.loan(byteCount: 1000)
      let writer = Task { try await publisher.write([1], at: 500) }
      let sealer = Task { try await publisher.write([1], at: 600) }
      let other = Task { try await publisher.write([7], at: 700) }
      try await eventually("all wait") { publisher.inFlight.waiterCount == 3 }
      writer.cancel()
      sealer.cancel()
      #expect(await code { _ = try await writer.value } == .cancelled)
      #expect(await code { _ = try await sealer.value } == .cancelled)
      #expect(publisher.inFlight.waiterCount == 1)
      loan.commit(byteCount: 700)
      #expect(try await other.value == 1)
      #expect(try await publisher.missing() == [])
      publisher.close()
    }
  }
}
