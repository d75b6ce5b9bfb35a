// Clients of a broker that is killed and followed by another: they come back by themselves, and what they
// were doing goes on where it was.

import Glibc
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import Patchbay

@Suite(.serialized) struct ComebackTests {
  private func started(_ options: [String] = []) throws -> Succession {
    let brokers = try Succession(options: options)
    try brokers.start()
    return brokers
  }

  private func options(_ byteCount: Int?) -> BlobOptions {
    var options = BlobOptions(byteCount: byteCount)
    options.firstExtentByteCount = 65_536
    options.extentByteLimit = 65_536
    return options
  }

  @Test func `an open blob is written to its end and sealed under the next broker`() throws {
    let brokers = try started()
    let client = try PatchbayClient(socketPath: brokers.socket)
    let reading = try PatchbayClient(socketPath: brokers.socket)
    let publisher = try client.publisher("k", options(300_000))
    let generation = publisher.generation.rawValue
    try publisher.append(oracleBytes(generation, 0..<60_000))
    let reader = try reading.open("k")
    var leases = [try reader.lease(0..<50_000)]
    let process = client.brokerProcess
    try brokers.kill()
    // Both have what they need for this.
    try publisher.append(oracleBytes(generation, 60_000..<65_000))
    let early = try reader.readFully(50_000..<65_000)
    #expect(firstWrong(early.span, generation, at: 50_000) == nil)
    // The rest needs extents of the next one.
    let writing = TestThread {
      _ = Result { try publisher.append(oracleBytes(generation, 65_000..<300_000)) }
      _ = Result { try publisher.seal() }
    }
    #expect(code { try client.ping(deadline: .after(.milliseconds(20))) } == .noBroker)
    try brokers.start()
    let bytes = try reader.readFully(0..<300_000)
    #expect(firstWrong(bytes.span, generation, at: 0) == nil)
    writing.join()
    #expect(try reader.waitUntilSealed() == 300_000 && publisher.isEnded)
    #expect(leases[0].withBytes { firstWrong($0, generation, at: 0) } == nil)
    #expect(client.brokerProcess != process && client.brokerProcess > 0)
    #expect(try client.info("k").subscriberCount == 1)
    reader.close()
    leases = []
    try client.remove("k")
    try brokers.stop()
  }

  private func code(_ body: () throws -> Void) -> PatchbayError.Code? {
    do {
      try body()
      return nil
    } catch {
      return (error as? PatchbayError)?.code
    }
  }

  @Test func `what stands in scratch files alone goes with its blob under the next broker, too`()
    throws
  {
    let brokers = try Succession(memory: "32MiB")
    try brokers.start()
    let client = try PatchbayClient(socketPath: brokers.socket)
    let size = 48 << 20
    let publisher = try client.publisher("holes", options(size))
    for start in stride(from: 0, to: size, by: 65_536) {
      try publisher.write([1, 2, 3], at: start)
    }
    let files = names(in: brokers.spool)
    #expect(files.contains { $0.hasSuffix(".scratch") })
    #expect(!files.contains { $0.hasSuffix(".part") }, "none of it is whole")
    try brokers.kill()
    try brokers.start()
    publisher.close()
    try client.remove("holes")
    try eventually("nothing of it is left on disk") {
      try client.statistics().spoolByteCount == 0 && names(in: brokers.spool) == ["broker.lock"]
    }
    try brokers.stop()
  }

  @Test func `a window goes on through several brokers, and its reader misses no byte`() throws {
    let brokers = try started()
    let publisher = try brokers.peer()
    try publisher.ask("publish k - backpressure 1048576 65536 20000")
    let readers = try (0..<2).map { _ in try brokers.peer() }
    for reader in readers {
      try reader.ask("open k")
      try reader.ask("attach k")
      try reader.tell("stream k 0")
    }
    let client = try PatchbayClient(socketPath: brokers.socket)
    let observer = try client.observe("k")
    let total = 40 << 20
    try publisher.tell("oracle k \(total) 100000")
    for round in 1...3 {
      try eventually("a quarter more has been written") {
        try (observer.writtenRanges().last?.upperBound ?? 0) >= round * total / 4
      }
      try brokers.kill()
      try brokers.start()
    }
    #expect(try publisher.answer() == "")
    try publisher.ask("seal k")
    for reader in readers { #expect(try reader.answer() == "\(total)") }
    try client.remove("k")
    for peer in readers + [publisher] { peer.process.kill(SIGTERM) }
    try brokers.stop()
  }

  @Test func `claims of two publishers keep their ranges apart under the next broker`() throws {
    let brokers = try started()
    let (one, other) = (
      try PatchbayClient(socketPath: brokers.socket), try PatchbayClient(socketPath: brokers.socket)
    )
    var options = options(200_000)
    options.isJoinable = true
    let first = try one.publisher("k", options)
    let second = try other.join("k")
    let generation = first.generation.rawValue
    let claim = try first.claim(0..<100_000)
    try brokers.kill()
    try first.write(oracleBytes(generation, 0..<50_000), at: 0)
    try brokers.start()
    #expect(code { _ = try second.claim(90_000..<120_000) } == .rangeOverlap)
    try second.write(oracleBytes(generation, 100_000..<200_000), at: 100_000)
    try first.write(oracleBytes(generation, 50_000..<100_000), at: 50_000)
    withExtendedLifetime(claim) {}
    try second.leave()
    try first.seal()
    let bytes = try other.open("k").readFully(0..<200_000)
    #expect(firstWrong(bytes.span, generation, at: 0) == nil)
    try one.remove("k")
    try brokers.stop()
  }

  @Test func `tasks that wait for a key, for bytes and for events wait on`() async throws {
    let brokers = try started()
    let client = try await PatchbayClient(socketPath: brokers.socket)
    let publisher = try await client.publisher("k", options(100_000))
    let generation = publisher.generation.rawValue
    let reader = try await client.open("k")
    let events = try await client.events(prefix: Array("later".utf8))
    async let later = client.open("later", waitUntil: .after(.seconds(60)))
    async let bytes = reader.readFully(0..<100_000)
    async let told = events.next()
    try await eventually("the open waits") { client.session.connection.pendingCount > 0 }
    try brokers.kill()
    try brokers.start()
    try await publisher.append(oracleBytes(generation, 0..<100_000))
    try await publisher.seal()
    let all = try await bytes
    #expect(firstWrong(all.span, generation, at: 0) == nil)
    guard case .gap = try await told else {
      Issue.record("no gap")
      return
    }
    try await client.publish([1, 2, 3], as: "later")
    #expect(try await later.readFully(0..<3) == [1, 2, 3])
    events.close()
    reader.close()
    for key in ["k", "later"] as [BlobKey] { try await client.remove(key) }
    try brokers.stop()
  }

  /// As in an upgrade: each broker ends when it is told to, and the next one has another process.
  @Test func `a broker that hands over is followed under running clients`() throws {
    let brokers = try started(["--hand-over"])
    let client = try PatchbayClient(socketPath: brokers.socket)
    let publisher = try client.publisher("k", options(300_000))
    let generation = publisher.generation.rawValue
    let reader = try client.open("k")
    try client.publish([1, 2, 3], as: "small")
    for round in 1...3 {
      let part = (round - 1) * 100_000..<round * 100_000
      try publisher.append(oracleBytes(generation, part))
      let process = client.brokerProcess
      #expect(try brokers.end() == 0)
      #expect(!brokers.objects.isEmpty && brokers.log.contains("the next broker"))
      try brokers.start()
      let bytes = try reader.readFully(0..<part.upperBound)
      #expect(firstWrong(bytes.span, generation, at: 0) == nil)
      try client.ping()
      #expect(client.brokerProcess != process)
    }
    try publisher.seal()
    #expect(try client.open("small").readFully(0..<3) == [1, 2, 3])
    reader.close()
    // Who wants everything gone ends one that does not hand over.
    #expect(try brokers.end() == 0)
    let last = try Succession(following: brokers)
    try last.start()
    #expect(try client.info("k").state == .sealed)
    try last.stop()
  }

  /// The layout of what a broker leaves is the version's; byte 8 of a chunk of the journal tells it.
  @Test func `a broker of another layout does not take over, and clients wait for one of theirs`()
    throws
  {
    let brokers = try started()
    let client = try PatchbayClient(socketPath: brokers.socket)
    let publisher = try client.publisher("k", options(150_000))
    let generation = publisher.generation.rawValue
    try publisher.append(oracleBytes(generation, 0..<60_000))
    let reader = try client.open("k")
    try brokers.kill()
    let chunk = "/dev/shm/patchbay-\(brokers.instance)-journal-0"
    func change() throws {
      var bytes = try readBytes(chunk)
      bytes[8] ^= 2
      try writeFile(chunk, bytes)
    }
    try change()
    let objects = brokers.objects
    try brokers.begin()
    #expect(try !brokers.becameReady())
    #expect(brokers.log.contains("written in layout 3; this Patchbay has layout 1"))
    #expect(brokers.objects == objects)
    try change()
    try brokers.start()
    try publisher.append(oracleBytes(generation, 60_000..<150_000))
    try publisher.seal()
    let bytes = try reader.readFully(0..<150_000)
    #expect(firstWrong(bytes.span, generation, at: 0) == nil)
    reader.close()
    try client.remove("k")
    try brokers.stop()
  }

  private func publish(_ client: PatchbayClient, _ key: BlobKey, _ byteCount: Int) throws -> UInt64
  {
    let publisher = try client.publisher(key, BlobOptions(byteCount: byteCount, order: .appendOnly))
    let generation = publisher.generation.rawValue
    try publisher.append(oracleBytes(generation, 0..<byteCount))
    try publisher.seal()
    return generation
  }

  /// Whose second open comes too late has its first all the same.
  @Test func `a lease stands although another open of its blob was answered too late`() throws {
    let brokers = try started()
    let writing = try PatchbayClient(socketPath: brokers.socket)
    let generation = try publish(writing, "k", 60_000)
    let reading = try PatchbayClient(socketPath: brokers.socket)
    let reader = try reading.open("k")
    let lease = try reader.lease(0..<60_000)
    #expect(lease.withBytes { firstWrong($0, generation, at: 0) } == nil)
    // Given back, or there in time and closed.
    for _ in 0..<20 {
      if case .success(let late) = Result(catching: {
        try reading.open("k", waitUntil: .after(.zero))
      }) {
        late.close()
      }
    }
    try eventually("all answers are in") {
      try reading.ping()
      return try writing.info("k").subscriberCount == 1
    }
    try brokers.kill()
    try brokers.start()
    try reading.ping()
    #expect(try writing.info("k").subscriberCount == 1)
    // Memory that the lease does not keep is used again.
    try writing.remove("k")
    let others = try (0..<4).map { try BlobKey("l\($0)") }
    for key in others { _ = try publish(writing, key, 60_000) }
    #expect(lease.withBytes { firstWrong($0, generation, at: 0) } == nil, "the lease's bytes")
    for key in others { try writing.remove(key) }
    withExtendedLifetime((reader, lease)) {}
    try brokers.stop()
  }

  /// What its publisher reads of it stands still meanwhile, whether it does or not.
  @Test(arguments: [false, true])
  func `a reader is not let go for what it has not read while there is no broker`(
    isTask: Bool
  ) async throws {
    let brokers = try started()
    let client = try await PatchbayClient(socketPath: brokers.socket)
    var options = BlobOptions(policy: .backpressure)
    options.ringByteCount = 4 * 4096
    options.segmentByteCount = 4096
    options.slowestLimit = .milliseconds(20)
    let publisher = try await client.publisher("k", options)
    let generation = publisher.generation.rawValue
    let reading = try await PatchbayClient(socketPath: brokers.socket)
    let reader = try await reading.open("k")
    var cursor = reader.cursor()
    try await cursor.attach()
    try await publisher.append(oracleBytes(generation, 0..<4 * 4096))
    let writer = try #require(publisher.windowWriter)
    func obstacle() async throws -> WindowWriter.Obstacle? {
      guard case .unknownSubscribers? = writer.enter(segmentOf: publisher.position) else {
        return writer.enter(segmentOf: publisher.position)
      }
      try await publisher.overcome(.unknownSubscribers)
      return writer.enter(segmentOf: publisher.position)
    }
    guard case .held(let hold)? = try await obstacle() else {
      Issue.record("the window is not full")
      return
    }
    try brokers.kill()
    try await eventually("the client has noticed") {
      client.session.connection.connectedLife == nil
    }
    let blocking: @Sendable () throws -> Void = { try publisher.overcome(.held(hold)) }
    if isTask { try await publisher.overcome(.held(hold)) } else { try blocking() }
    #expect(client.session.connection.pendingCount == 0, "it asks for nothing")
    try brokers.start()
    guard case .held? = try await obstacle() else {
      Issue.record("the reader holds nobody")
      return
    }
    let bytes = try #require(try await cursor.read(upTo: 4 * 4096))
    #expect(firstWrong(bytes.span, generation, at: 0) == nil)
    try await publisher.seal()
    reader.close()
    try await client.remove("k")
    try brokers.stop()
  }

  /// A socket that the next broker has not opened to other users yet looks like this to them.
  @Test(.enabled(if: OtherUser.isPossible, "needs root, setpriv, and a build that others can run"))
  func `another user's client that may not connect for a moment goes on looking`() throws {
    let broker = try BrokerProcess(memory: "64MiB", options: ["--shared"])
    let log = broker.directory.file("waiting")
    let command =
      OtherUser(2000).wrapper
      + [try program("patchbay"), "wait", "k", "--socket", broker.socket]
    let waiting = try ChildProcess(command[0], Array(command.dropFirst()), errorPath: log)
    try eventually("it is connected") {
      try jsonNumber(broker.run(["stats", "--json"]).output, "clients") ?? 0 > 1
    }
    #expect(chmod(broker.socket, 0o600) == 0)
    broker.process.kill(SIGKILL)
    _ = try broker.process.waitForExit()
    _ = try waiting.waitForExit()
    let said = try readFile(log)
    #expect(said.contains("none has come in its place for 10"), "\(said)")
    #expect(said.contains("The last attempt met: User 2000 may not connect"), "\(said)")
    for name in broker.objects { _ = unlink("/dev/shm/\(name)") }
  }

  @Test func `a client that nothing follows for its limit ends for good`()
    throws
  {
    let brokers = try started()
    let client = try PatchbayClient(
      socketPath: brokers.socket, reconnectLimit: .milliseconds(100))
    let publisher = try client.publisher("k")
    try publisher.append([1, 2, 3])
    let reader = try client.open("k")
    try brokers.kill()
    #expect(code { _ = try reader.readFully(3..<4) } == .noBroker, "it waits no more")
    #expect(try reader.readFully(0..<3) == [1, 2, 3], "what is there is read all the same")
    try brokers.start()
    #expect(code { try client.ping() } == .noBroker)
    try eventually("the next one waits for nobody") {
      try brokers.run(["info", "k"]).exitCode != 0
        || brokers.run(["info", "k"]).output.contains("failed")
    }
    try brokers.stop()
  }
}
