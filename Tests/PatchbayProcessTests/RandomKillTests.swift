// A broker that is killed again and again at random moments under eight processes that outlive them all.

import Glibc
import Patchbay
import PatchbaySystem
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct RandomKillTests {
  /// A blob whose seal was answered.
  private struct Promise {
    let key: BlobKey
    let generation: UInt64
    let byteCount: Int

    /// `sealed KEY GENERATION BYTES`; nil for other lines.
    init?(_ line: String) throws {
      let words = line.split(separator: " ")
      guard words.count == 4, words[0] == "sealed", let generation = UInt64(words[2]),
        let byteCount = Int(words[3])
      else { return nil }
      key = try BlobKey(String(words[1]))
      self.generation = generation
      self.byteCount = byteCount
    }
  }

  private static let publishers = ["stream", "patch"]

  private func begin(_ brokers: Succession, _ seed: UInt64) throws -> [String: ChildProcess] {
    let roles = Self.publishers + ["follow", "live", "random", "views", "watch", "wait"]
    let clients = try Dictionary(
      uniqueKeysWithValues: roles.enumerated().map { index, role in
        (role, try brokers.client(role, ["\(seed &+ UInt64(index))"]))
      })
    for (role, client) in clients {
      #expect(try client.line(within: 60) == "ready", "\(brokers.complaint(role))")
    }
    return clients
  }

  /// Kills so many brokers, each some time after it was ready.
  private func kill(
    _ count: Int, _ brokers: Succession, _ clients: [String: ChildProcess],
    _ random: inout SeededRandom
  ) throws {
    for number in 0..<count {
      _ = poll(nil, 0, Int32.random(in: 5...200, using: &random))
      guard clients.values.allSatisfy(\.isRunning) else {
        // What one has met, others may be about to.
        try? eventually("the publishers end", within: 5) {
          Self.publishers.allSatisfy { clients[$0]?.isRunning != true }
        }
        let complaints = clients.keys.map(brokers.complaint).filter { !$0.isEmpty }
        throw HarnessError("ended before death \(number + 1): \(complaints.joined())")
      }
      try brokers.kill()
      try brokers.start()
    }
  }

  /// What the publishers were promised, when they have ended.
  private func promises(
    _ brokers: Succession, _ clients: [String: ChildProcess]
  ) throws -> [Promise] {
    var lines: [String] = []
    for role in Self.publishers { try clients[role]?.send("stop\n") }
    for role in Self.publishers {
      guard let client = clients[role] else { continue }
      let output = String(decoding: try client.rest(within: 300), as: UTF8.self)
      lines += output.split(separator: "\n").map(String.init)
    }
    return try lines.compactMap { try Promise($0) }
  }

  /// All have come to their end, and found nothing wrong.
  private func end(_ brokers: Succession, _ clients: [String: ChildProcess]) throws {
    for (role, client) in clients where role != "watch" {
      #expect(try client.waitForExit(within: 300) == 0, "\(brokers.complaint(role))")
    }
    guard let watcher = clients["watch"] else { return }
    try watcher.send("stop\n")
    #expect(try watcher.waitForExit(within: 120) == 0, "\(brokers.complaint("watch"))")
  }

  private func check(_ promises: [Promise], _ brokers: Succession) throws {
    let client = try PatchbayClient(socketPath: brokers.socket)
    for promise in promises {
      let blob = try client.open(promise.key)
      #expect(blob.generation.rawValue == promise.generation && blob.state == .sealed)
      #expect(blob.byteCount == promise.byteCount)
      let oracle = PeriodicOracle(promise.generation)
      var cursor = blob.cursor()
      var at = 0
      while let bytes = try cursor.read(upTo: 1 << 20, deadline: .after(.seconds(60))) {
        let wrong = oracle.firstWrong(bytes.span, at: at)
        try #require(wrong == nil, "\(promise.key) has a wrong byte at \(wrong ?? 0)")
        at = cursor.position
      }
      #expect(at == promise.byteCount, "\(promise.key) is cut")
    }
  }

  @Test func `brokers killed at random moments lose nothing that was acknowledged`() throws {
    let seed = announcedSeed("killed at random")
    var random = SeededRandom(seed: seed)
    let brokers = try Succession(memory: "64MiB", options: ["--client-memory", "8MiB"])
    try brokers.start()
    let clients = try begin(brokers, seed)
    let start = MonotonicTime.now
    try kill(isFullTier ? 500 : 50, brokers, clients, &random)
    let elapsed = (MonotonicTime.now.nanoseconds - start.nanoseconds) / 1_000_000
    let promises = try promises(brokers, clients)
    try end(brokers, clients)
    print("\(brokers.killCount) brokers killed in \(elapsed) ms, \(promises.count) blobs sealed")
    #expect(promises.count > 2)
    try check(promises, brokers)
    try brokers.stop()
  }

  // MARK: Memory that goes with the broker

  @Test func `when memory is lost with the broker what is on disk is there and nothing else`()
    throws
  {
    let brokers = try Succession(memory: "32MiB", options: ["--client-memory", "8MiB"])
    try brokers.start()
    let bytes = oracleBytes(3, 0..<400_000)
    let client = try PatchbayClient(socketPath: brokers.socket)
    for (key, acknowledgement) in [
      ("durable", Acknowledgement.durable), ("retained", .retained), ("visible", .visible),
    ] {
      for (size, part) in [("", bytes), ("-small", [1, 2, 3]), ("-empty", [])] {
        var options = BlobOptions(byteCount: part.count)
        options.acknowledgement = acknowledgement
        try client.publish(part, as: BlobKey(key + size), options)
      }
    }
    var options = BlobOptions(order: .appendOnly)
    options.acknowledgement = .durable
    let open = try client.publisher("open", options)
    try open.append(bytes)
    let reader = try client.open("visible")
    try brokers.kill()
    brokers.removeObjects()
    try brokers.start()
    let there = ["durable", "durable-empty", "durable-small"]
    let kept = ["retained", "retained-empty", "retained-small"]
    let listed = try PatchbayClient(socketPath: brokers.socket).list().blobs.map { "\($0.key)" }
    #expect(listed == there + kept)
    let after = try PatchbayClient(socketPath: brokers.socket)
    for key in ["durable", "retained"] {
      for (size, part) in [("", bytes), ("-small", [1, 2, 3]), ("-empty", [])] {
        let blob = try after.open(BlobKey(key + size))
        #expect(blob.byteCount == part.count)
        #expect(try blob.readFully(0..<part.count) == part)
      }
    }
    // Who was there before is told that its broker is gone, unless it has mapped what it asks for.
    for call in [{ _ = try client.list() }, { try open.seal() }] {
      let error = #expect(throws: PatchbayError.self) { try call() }
      #expect(error?.code == .noBroker)
    }
    do throws(PatchbayError) {
      #expect(try reader.readFully(0..<bytes.count) == bytes)
    } catch {
      #expect(error.code == .noBroker)
    }
    reader.close()
    open.close()
    try brokers.stop()
  }
}
