// Times, successors of stale blobs, pauses and `clean`, as the command and programs see them. No time is
// measured: what is to be over is waited for, and what is not to be over is far away.

import Glibc
import PatchbaySystem
import PatchbayTestSupport
import Synchronization
import Testing

@testable import Patchbay

@Suite(.serialized) struct LifetimeProcessTests {
  private func generation(_ broker: BrokerProcess, _ key: String) throws -> String {
    let info = try broker.run(["info", key, "--json"]).output
    let start = try #require(info.firstRange(of: "\"generation\":"))
    return String(info[start.upperBound...].prefix { $0.isNumber })
  }

  // MARK: The command

  @Test func `a blob with a time to live is served, says when it expires, and is gone then`() throws
  {
    let broker = try BrokerProcess(memory: "64MiB")
    for (key, arguments) in [("small", []), ("ring", ["--ring", "64KiB"])] as [(String, [String])] {
      let put = try broker.run(["put", key, "--ttl", "1h"] + arguments, input: "hello")
      #expect(put.exitCode == 0)
      #expect(try broker.run(["info", key]).output.contains("expires"))
      #expect(!(try broker.run(["info", key, "--json"]).output.contains("\"expires\":null")))
      #expect(
        try broker.run(["put", key, "--ttl", "300ms", "--replace"] + arguments, input: "x")
          .exitCode == 0)
      try eventually("it has expired") { try broker.run(["cat", key]).exitCode == 66 }
    }
    #expect(try broker.run(["put", "k", "--ttl", "0s"], input: "x").exitCode == 64)
    #expect(
      try broker.run(["put", "k", "--ttl", "1s", "--policy", "drop-oldest"], input: "x").exitCode
        == 64)
    try broker.stop()
  }

  @Test func `what expires is gone after its broker was killed, too, and not before`() throws {
    let brokers = try Succession()
    try brokers.start()
    for level in ["visible", "durable"] {
      _ = try brokers.run(["put", "short-\(level)", "--ttl", "2s", "--ack", level], input: "x")
      _ = try brokers.run(["put", "long-\(level)", "--ttl", "1h", "--ack", level], input: "y")
    }
    try brokers.kill()
    try brokers.start()
    for level in ["visible", "durable"] {
      #expect(try brokers.run(["cat", "long-\(level)"]).output == "y")
      let info = try brokers.run(["info", "long-\(level)", "--json"]).output
      #expect(!info.contains("\"expires\":null"))
      try eventually("it has expired") {
        try brokers.run(["cat", "short-\(level)"]).exitCode == 66
      }
    }
    // After an end in good order what is durable is found on disk, and is as old as the clock says.
    try brokers.stop()
    try brokers.start()
    #expect(try brokers.run(["ls"]).output == "long-durable\n")
    let info = try brokers.run(["info", "long-durable", "--json"]).output
    #expect(!info.contains("\"expires\":null"))
    try brokers.stop()
  }

  @Test func `a stale blob is printed at once while the command makes the next one, once`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let counter = broker.directory.file("runs")
    let gate = broker.directory.file("gate")
    let command = [
      "produce", "k", "--ttl", "200ms", "--grace", "1h", "--", "/bin/sh", "-c",
      "echo run >> '\(counter)'; while ! [ -e '\(gate)' ]; do :; done; wc -l < '\(counter)'",
    ]
    try writeFile(gate, [])
    #expect(try broker.run(command).output == "1\n")
    let first = try generation(broker, "k")
    try eventually("it is stale") {
      try broker.run(["clean", "nothing", "--expired"]).exitCode == 0
        && isStale(broker, "k")
    }
    _ = unlink(gate)
    let outputs = (0..<3).map { broker.directory.file("out\($0)") }
    let callers = try outputs.map { path in
      try ChildProcess(
        "/bin/sh",
        ["-c", "\"$0\" \"$@\" > '\(path)'", try program("patchbay")] + command,
        environment: ["PATCHBAY_SOCKET": broker.socket])
    }
    try eventually("all have the stale one, and one makes the next") {
      // A shell that has just been started has not made its file yet.
      try outputs.allSatisfy { (try? readFile($0)) == "1\n" } && readFile(counter) == "run\nrun\n"
    }
    #expect(try generation(broker, "k") == first)
    #expect(try broker.run(command).output == "1\n", "nobody else need run anything")
    try writeFile(gate, [])
    for caller in callers { #expect(try caller.waitForExit() == 0) }
    #expect(try generation(broker, "k") != first)
    #expect(try broker.run(["cat", "k"]).output == "2\n")
    try broker.stop()
  }

  /// Whether the time that it shows is over.
  private func isStale(_ broker: BrokerProcess, _ key: String) throws -> Bool {
    let client = try PatchbayClient(socketPath: broker.socket)
    guard let expires = try client.info(key.asKey).expires else { return false }
    var now = timespec()
    _ = unsafe clock_gettime(CLOCK_REALTIME, &now)
    return expires.rawValue < Int64(now.tv_sec) * 1_000_000_000 + Int64(now.tv_nsec)
  }

  @Test func `a failure is told to all that ask, and the command is not run again`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let counter = broker.directory.file("runs")
    let command = [
      "produce", "k", "--failure-ttl", "1h", "--", "/bin/sh", "-c",
      "echo run >> '\(counter)'; exit 3",
    ]
    for _ in 0..<3 { #expect(try broker.run(command).exitCode == 79) }
    #expect(try readFile(counter) == "run\n")
    #expect(
      try broker.run(["clean", "--failed", "--json"]).output == "{\"removed\":1,\"kept\":0}\n")
    #expect(try broker.run(command).exitCode == 79)
    #expect(try readFile(counter) == "run\nrun\n")
    try broker.stop()
  }

  @Test func `clean takes away the stale, the failed, or all, and nothing else`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    _ = try broker.run(["put", "good"], input: "x")
    _ = try broker.run(["put", "failed", "--length", "9"], input: "short")
    _ = try broker.run(["put", "other/good"], input: "x")
    #expect(try broker.run(["clean"]).exitCode == 64)
    #expect(try broker.run(["clean", "--all", "--failed"]).exitCode == 64)
    #expect(try broker.run(["clean", "--expired"]).output == "0 removed\n")
    #expect(try broker.run(["clean", "--failed"]).output == "1 removed\n")
    #expect(try broker.run(["ls"]).output == "good\nother/good\n")
    #expect(try broker.run(["clean", "other/", "--all"]).output == "1 removed\n")
    #expect(try broker.run(["clean", "--all"]).output == "1 removed\n")
    #expect(try broker.run(["ls"]).output == "")
    try broker.stop()
  }

  @Test func `a cache of so many blobs holds no more of those that nobody reads`() throws {
    let broker = try BrokerProcess(memory: "64MiB", options: ["--cache-blobs", "2"])
    for key in ["a", "b", "c"] { _ = try broker.run(["put", key], input: key) }
    #expect(try broker.run(["ls"]).output == "b\nc\n")
    try broker.stop()
  }

  // MARK: Programs

  @Test func `a paused producer writes nothing until somebody reads, and goes on then`()
    async throws
  {
    let broker = try BrokerProcess(memory: "64MiB")
    let client = try await PatchbayClient(socketPath: broker.socket)
    let observing = try await PatchbayClient(socketPath: broker.socket)
    var options = ProductionOptions()
    options.whenUnread = .pause
    let steps = Mutex(0)
    let subscriber = try await client.get("k", options) { job in
      for _ in 0..<1_000_000 {
        try await job.publisher.append([UInt8](repeating: 7, count: 100))
        steps.withLock { $0 += 1 }
        if steps.withLock({ $0 }) > 5, try await observing.info("k").subscriberCount > 1 { break }
      }
    }
    try await eventually("it writes") { steps.withLock { $0 } > 2 }
    subscriber.close()
    // Once it has stopped it stays so: each look comes after a whole conversation with the broker.
    try await eventually("it waits") {
      let before = steps.withLock { $0 }
      for _ in 0..<20 { _ = try await observing.info("k") }
      return steps.withLock { $0 } == before
    }
    let before = steps.withLock { $0 }
    let one = try await observing.open("k")
    try await eventually("it goes on") { steps.withLock { $0 } > before }
    let two = try await observing.open("k")
    try await two.waitUntilSealed()
    #expect(one.generation == two.generation)
    try await client.finishProducing()
    try broker.stop()
  }

  @Test
  func `a production that is stopped cancels its closure, and the next goes on with what is there`()
    async throws
  {
    let broker = try BrokerProcess(memory: "64MiB")
    let client = try await PatchbayClient(socketPath: broker.socket)
    var options = ProductionOptions(BlobOptions(byteCount: 1000))
    options.whenUnread = .stop
    let wasCancelled = Mutex(false)
    let subscriber = try await client.get("k", options) { job in
      try await job.publisher.write([UInt8](repeating: 1, count: 400), at: 0)
      do { try await Task.sleep(for: .seconds(3600)) } catch {
        wasCancelled.withLock { $0 = true }
        throw error
      }
    }
    _ = try await subscriber.readFully(0..<400)
    subscriber.close()
    try await client.finishProducing()
    #expect(wasCancelled.withLock { $0 })
    #expect(try await client.info("k").cause == "its last reader left")
    let missing = Mutex<[Range<Int>]>([])
    let next = try await client.get("k", options) { job in
      missing.withLock { $0 = job.missing }
      for range in job.missing {
        try await job.publisher.write(
          [UInt8](repeating: 2, count: range.count), at: range.lowerBound)
      }
    }
    let bytes = try await next.readFully(0..<1000)
    #expect(bytes == [UInt8](repeating: 1, count: 400) + [UInt8](repeating: 2, count: 600))
    #expect(missing.withLock { $0 } == [400..<1000])
    try broker.stop()
  }
}

extension String {
  fileprivate var asKey: BlobKey {
    get throws { try BlobKey(Array(utf8)) }
  }
}
