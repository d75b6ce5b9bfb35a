// Many tasks at once: few threads wait for all of them, each is woken for its own range, and the
// threads that run tasks are never held.

import Glibc
import PatchbayBroker
import PatchbayRing
import PatchbayTestSupport
import Synchronization
import Testing

@testable import Patchbay

/// Which waits have ended, by number.
private final class Endings: Sendable {
  private let list = Mutex<[Int]>([])
  func add(_ number: Int) { list.withLock { $0.append(number) } }
  var all: [Int] { list.withLock { $0 } }
}

@Suite(.serialized) struct ManyTasksTests {
  @Test func `ten thousand tasks wait on a thousand blobs, each for its own range`() async throws {
    let (blobCount, perBlob, length) = (1000, 10, 100)
    try await withBroker { broker, client in
      let readers = try await broker.makeClient()
      var blobs: [(publisher: Publisher, subscriber: Subscriber)] = []
      for index in 0..<blobCount {
        let key = try BlobKey("b\(index)")
        let publisher = try await client.publisher(
          key, BlobOptions(byteCount: perBlob * length))
        blobs.append((publisher, try await readers.open(key)))
      }
      let before = (threads: figure("Threads"), memory: figure("VmRSS"))
      let endings = Endings()
      try await withThrowingTaskGroup { group in
        for number in 0..<blobCount * perBlob {
          let subscriber = blobs[number / perBlob].subscriber
          let start = number % perBlob * length
          group.addTask {
            let bytes = try await subscriber.readFully(start..<start + length)
            if bytes == pattern(start..<start + length) { endings.add(number) }
          }
        }
        try await eventually("all wait") {
          BellWaiters.shared.waitCount == blobCount * perBlob
        }
        let during = (threads: figure("Threads"), memory: figure("VmRSS"))
        let waiterThreads = BellWaiters.shared.threadCount
        print(
          """
          10,000 tasks wait on 1,000 blobs: \(waiterThreads) threads wait for them \
          (\(before.threads) -> \(during.threads) of the process), \
          \(during.memory - before.memory) KiB more resident
          """)
        #expect(waiterThreads == (blobCount + BellWaiters.bellLimit - 1) / BellWaiters.bellLimit)
        let order = Array(0..<blobCount * perBlob).shuffled()
        for (count, number) in order.enumerated() {
          let start = number % perBlob * length
          try await blobs[number / perBlob].publisher.write(
            pattern(start..<start + length), at: start)
          // At first one by one, so that a wrong one that ends is seen.
          guard count < 200 else { continue }
          try await eventually("wait \(number) ends") { endings.all.count == count + 1 }
          #expect(endings.all.last == number)
        }
        try await group.waitForAll()
      }
      #expect(endings.all.count == blobCount * perBlob)
      try await eventually("no wait is left") { BellWaiters.shared.waitCount == 0 }
      let statistics = try await client.statistics()
      print(
        "  \(statistics.wakeCount) wakes, \(statistics.needlessWakeCount) of them for nothing")
      // These waits are longer than the bound: one that ends while a write is on its way to ring
      // counts as rescued. That none is lost is shown where waits are short.
      print("  \(statistics.rescuedWaitCount) ended with the bound before their ring came")
    }
  }

  private func figure(_ name: String) -> Int { processFigure(getpid(), name) ?? 0 }

  @Test func `tasks that wait hold no thread of those that run tasks`() async throws {
    try await withBroker { broker, client in
      let publisher = try await client.publisher("k")
      let reader = try await client.open("k")
      let count = 4 * sysconf(Int32(_SC_NPROCESSORS_ONLN))
      let endings = Endings()
      try await withThrowingTaskGroup { group in
        for index in 0..<count {
          group.addTask {
            _ = try await reader.readFully(index..<index + 1)
            endings.add(index)
          }
          group.addTask {
            _ = try await client.open("later", waitUntil: .never).readFully(0..<1)
            endings.add(index)
          }
        }
        try await eventually("all wait") {
          BellWaiters.shared.waitCount == count
            && client.session.connection.pendingCount == count
        }
        // Would never get to run, were one thread held for each task that waits.
        var turns = 0
        for await _ in progress(of: 1000) { turns += 1 }
        #expect(turns == 1000 && endings.all.isEmpty)
        try await publisher.append(pattern(0..<count))
        try await client.publish([1], as: "later")
        try await group.waitForAll()
      }
      #expect(endings.all.count == 2 * count)
      try await publisher.seal()
    }
  }

  /// Steps that other tasks make.
  private func progress(of count: Int) -> AsyncStream<Int> {
    AsyncStream { continuation in
      Task {
        for index in 0..<count {
          continuation.yield(index)
          await Task.yield()
        }
        continuation.finish()
      }
    }
  }

  @Test func `tasks and threads share one client, and everybody gets an answer`() async throws {
    try await withBroker { broker, client in
      let count = 200
      let isWrong = Endings()
      let threads = (0..<3).map { _ in
        TestThread {
          for index in 0..<count {
            do {
              try client.ping()
              let key = try BlobKey("t\(index)")
              if try client.exists(key) { _ = try? client.open(key) }
            } catch { isWrong.add(index) }
          }
        }
      }
      try await withThrowingTaskGroup { group in
        for index in 0..<count {
          group.addTask {
            let key = try BlobKey("t\(index)")
            try await client.publish(pattern(0..<20_000), as: key)
            let reader = try await client.open(key)
            if try await reader.readFully(0..<20_000) != pattern(0..<20_000) { isWrong.add(index) }
          }
        }
        try await group.waitForAll()
      }
      for thread in threads { thread.join() }
      #expect(isWrong.all == [] && client.session.connection.pendingCount == 0)
    }
  }

  @Test func `tasks append in turns, and write each its own range`() async throws {
    try await withBroker { _, client in
      var options = BlobOptions()
      options.firstExtentByteCount = 65_536
      options.extentByteLimit = 1 << 20
      let publisher = try await client.publisher("k", options)
      try await withThrowingTaskGroup { group in
        for index in 0..<20 {
          group.addTask {
            try await publisher.append(
              [UInt8](repeating: UInt8(index + 1), count: index % 2 == 0 ? 300_000 : 100))
          }
        }
        try await group.waitForAll()
      }
      let end = publisher.position
      #expect(end == 10 * 300_100)
      try await withThrowingTaskGroup { group in
        for start in stride(from: end, to: end + 1_000_000, by: 10_000).shuffled() {
          group.addTask { try await publisher.write(pattern(start..<start + 10_000), at: start) }
        }
        try await group.waitForAll()
      }
      try await publisher.seal()
      let reader = try await client.open("k")
      let bytes = try await reader.readFully(0..<end + 1_000_000)
      let runs = bytes[..<end].indices.count { $0 == 0 || bytes[$0] != bytes[$0 - 1] }
      #expect(runs == 20 && bytes[end...].elementsEqual(pattern(end..<end + 1_000_000)))
    }
  }

  @Test func `the courier holds no connection that has nothing for it`() async throws {
    try await withBroker { broker, client in
      weak var connection: Connection?
      do {
        let passing = try await broker.makeClient()
        try await passing.ping()
        connection = passing.session.connection
      }
      try await eventually("the connection has gone") { connection == nil }
      try await eventually("the broker knows") {
        try await client.statistics().clientCount == 1
      }
    }
  }

  @Test func `tasks that wait hear of the broker's end`() async throws {
    let directory = try TemporaryDirectory()
    let (client, reader): (PatchbayClient, Subscriber) = try await Broker.withBroker(
      BrokerConfiguration(socketPath: directory.file("s"), memoryLimit: 64 << 20)
    ) { broker in
      let client = try await broker.makeClient()
      let publisher = try await client.publisher("k")
      let reader = try await client.open("k")
      publisher.close()
      return (client, reader)
    }
    #expect(await code { _ = try await client.open("x", waitUntil: .never) } == .noBroker)
    #expect(await code { try await client.ping() } == .noBroker)
    let lost = await code { _ = try await reader.readFully(0..<1) }
    #expect(lost == .abandoned || lost == .noBroker)
  }
}
