// Tasks whose broker does not answer: they wait without holding a thread, end when they are told to,
// and what they asked for and no longer want is given back when the broker goes on.

import Glibc
import PatchbayTestSupport
import Testing

@testable import Patchbay

/// A call that waits for the broker.
private struct BrokerCall: CustomTestStringConvertible, Sendable {
  let testDescription: String
  let make: @Sendable (PatchbayClient, Publisher, Subscriber, Deadline) async throws -> Void

  init(
    _ name: String,
    _ make:
      @escaping @Sendable (PatchbayClient, Publisher, Subscriber, Deadline) async throws -> Void
  ) {
    testDescription = name
    self.make = make
  }

  static let all = [
    BrokerCall("init") { client, _, _, deadline in
      _ = try await PatchbayClient(socketPath: client.socketPath, deadline: deadline)
    },
    BrokerCall("publisher") { client, _, _, deadline in
      try await client.publisher("new", deadline: deadline).close()
    },
    BrokerCall("publish") { client, _, _, deadline in
      try await client.publish([1], as: "new", deadline: deadline)
    },
    BrokerCall("withPublisher") { client, _, _, deadline in
      try await client.withPublisher("new", deadline: deadline) { _ in }
    },
    BrokerCall("open") { client, _, _, deadline in
      try await client.open("k", waitUntil: deadline).close()
    },
    BrokerCall("observe") { client, _, _, deadline in
      _ = try await client.observe("k", deadline: deadline)
    },
    BrokerCall("info") { client, _, _, deadline in
      _ = try await client.info("k", deadline: deadline)
    },
    BrokerCall("exists") { client, _, _, deadline in
      _ = try await client.exists("k", deadline: deadline)
    },
    BrokerCall("list") { client, _, _, deadline in _ = try await client.list(deadline: deadline) },
    BrokerCall("remove") { client, _, _, deadline in
      try await client.remove("nothing", deadline: deadline)
    },
    BrokerCall("statistics") { client, _, _, deadline in
      _ = try await client.statistics(deadline: deadline)
    },
    BrokerCall("ping") { client, _, _, deadline in try await client.ping(deadline: deadline) },
    BrokerCall("seal") { _, publisher, _, deadline in
      try await publisher.seal(deadline: deadline)
    },
    BrokerCall("fail") { _, publisher, _, deadline in
      try await publisher.fail("no good", deadline: deadline)
    },
    BrokerCall("a read that needs an extent") { _, _, subscriber, deadline in
      _ = try await subscriber.readFully(5000..<5010, deadline: deadline)
    },
  ]
}

@Suite(.serialized) struct StoppedBrokerTaskTests {
  /// A stopped broker, and a blob of three extents that a client writes and reads.
  private func withStoppedBroker(
    _ body: (BrokerProcess, PatchbayClient, Publisher, Subscriber) async throws -> Void
  ) async throws {
    let broker = try BrokerProcess()
    do {
      let client = try await PatchbayClient(socketPath: broker.socket)
      var options = BlobOptions(order: .appendOnly)
      options.firstExtentByteCount = 4096
      options.extentByteLimit = 4096
      let publisher = try await client.publisher("k", options)
      try await publisher.append(oracleBytes(1, 0..<10_000))
      let subscriber = try await client.open("k")
      try broker.suspend()
      defer { broker.process.kill(SIGCONT) }
      try await body(broker, client, publisher, subscriber)
    }
    try broker.stop()
  }

  private func code(of body: () async throws -> Void) async -> PatchbayError.Code? {
    do {
      try await body()
      return nil
    } catch {
      return (error as? PatchbayError)?.code
    }
  }

  @Test(arguments: BrokerCall.all)
  private func `a call to a stopped broker can be cancelled, and nothing stays of it`(
    call: BrokerCall
  ) async throws {
    try await withStoppedBroker { broker, client, publisher, subscriber in
      let timedOut = await code {
        try await call.make(client, publisher, subscriber, .after(.milliseconds(30)))
      }
      // A read has the broker's answer to one question in any case.
      #expect(timedOut == .timedOut)
      let task = Task { try await call.make(client, publisher, subscriber, .never) }
      // With `init` the call is another connection's.
      for _ in 0..<100 where client.session.connection.pendingCount == 0 { await Task.yield() }
      task.cancel()
      #expect(await code { try await task.value } == .cancelled)
      broker.process.kill(SIGCONT)
      subscriber.close()
      publisher.close()
      try await eventually("no call is left") { client.session.connection.pendingCount == 0 }
      try await eventually("nobody reads or writes") {
        try await client.list().blobs.allSatisfy { blob in
          blob.subscriberCount == 0 && blob.publisherCount == 0
        }
      }
      try await eventually("only this client is connected") {
        try await client.statistics().clientCount == 1
      }
    }
  }

  @Test func `many tasks wait for a stopped broker and others go on`() async throws {
    try await withStoppedBroker { broker, client, _, _ in
      let count = 4 * sysconf(Int32(_SC_NPROCESSORS_ONLN))
      try await withThrowingTaskGroup { group in
        for index in 0..<count {
          group.addTask { try await client.publish([1], as: try BlobKey("new\(index)")) }
        }
        try await eventually("all wait") { client.session.connection.pendingCount == count }
        // Would never get to run, were one thread held for each task that waits.
        let others = (0..<count).map { index in Task { index } }
        var sum = 0
        for other in others { sum += await other.value }
        #expect(sum == count * (count - 1) / 2)
        broker.process.kill(SIGCONT)
        for try await _ in group {}
      }
      #expect(try await client.list(prefix: Array("new".utf8)).blobs.count == count)
    }
  }

  @Test func `what a stopped broker does not take is sent when it goes on`() async throws {
    try await withStoppedBroker { broker, client, _, _ in
      // More than the socket holds, so that the rest has to wait to be sent.
      let count = 3000
      try await withThrowingTaskGroup { group in
        for _ in 0..<count { group.addTask { try await client.ping() } }
        try await eventually("all wait") { client.session.connection.pendingCount == count }
        #expect(client.session.connection.state.withLock { !$0.outbox.isEmpty })
        broker.process.kill(SIGCONT)
        try await group.waitForAll()
      }
      #expect(client.session.connection.pendingCount == 0)
    }
  }

  @Test func `ends of handles reach a broker that was stopped, without another call`() async throws
  {
    let broker = try BrokerProcess()
    do {
      let client = try await PatchbayClient(socketPath: broker.socket)
      let other = try await PatchbayClient(socketPath: broker.socket)
      try await client.publish(oracleBytes(1, 0..<20_000), as: "k")
      var readers: [Subscriber] = []
      for _ in 0..<3000 { readers.append(try await client.open("k")) }
      #expect(try await other.info("k").subscriberCount == 3000)
      try broker.suspend()
      for reader in readers { reader.close() }
      #expect(client.session.connection.state.withLock { !$0.outbox.isEmpty })
      broker.process.kill(SIGCONT)
      try await eventually("all have ended") {
        try await other.info("k").subscriberCount == 0
      }
    }
    try broker.stop()
  }
}
