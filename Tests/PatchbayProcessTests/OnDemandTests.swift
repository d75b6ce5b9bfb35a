// A blob in one process's hands, read by others wherever they like: only what they read is fetched, each
// piece once.

import Glibc
import Patchbay
import PatchbayTestSupport
import Synchronization
import Testing

@Suite(.serialized) struct OnDemandTests {
  private static let piece = 64 << 10

  /// A source that writes the oracle, counts what it was asked for, and fails where it is told to.
  private final class Origin: Sendable {
    private let fetched = Mutex<[Range<Int>]>([])
    let broken: Range<Int>

    init(broken: Range<Int> = 0..<0) { self.broken = broken }

    var ranges: [Range<Int>] { fetched.withLock { $0 }.sorted { $0.lowerBound < $1.lowerBound } }

    var source: RangeSource {
      var source = RangeSource { [self] range, publisher in
        fetched.withLock { $0.append(range) }
        guard !range.overlaps(broken) else { throw Unreachable() }
        let bytes = oracleBytes(publisher.generation.rawValue, range)
        try await publisher.write(bytes, at: range.lowerBound)
      }
      source.pieceByteCount = OnDemandTests.piece
      return source
    }

    struct Unreachable: Error, CustomStringConvertible {
      var description: String { "the origin cannot be reached" }
    }
  }

  /// Holds fetches up until it is opened.
  private final class Dam: Sendable {
    private let asked = Mutex(0)
    private let isOpen = Mutex(false)

    var askedCount: Int { asked.withLock { $0 } }
    func open() { isOpen.withLock { $0 = true } }

    func pass() async throws {
      asked.withLock { $0 += 1 }
      while !isOpen.withLock({ $0 }) { try await Task.sleep(for: .milliseconds(1)) }
    }
  }

  private func options(_ byteCount: Int) -> BlobOptions {
    var options = BlobOptions(byteCount: byteCount)
    options.firstExtentByteCount = 1 << 20
    options.extentByteLimit = 1 << 20
    return options
  }

  @Test(arguments: [0, 2])
  func `eight processes that read at random have only that fetched, each piece once`(
    _ piecesAhead: Int
  ) async throws {
    let seed = announcedSeed("read on demand")
    var random = SeededRandom(seed: seed)
    let broker = try BrokerProcess(memory: "2GiB")
    let client = try await PatchbayClient(socketPath: broker.socket)
    let origin = Origin()
    var source = origin.source
    source.readAheadByteCount = piecesAhead * Self.piece
    let publisher = try await client.publisher("k", options(1 << 30), fetching: source)
    let serving = Task { [source] in try await publisher.serve(source) }
    var wanted: Set<Int> = []
    let peers = try (0..<8).map { _ in try broker.peer() }
    for peer in peers { try peer.ask("open k") }
    for _ in 0..<(isFullTier ? 200 : 20) {
      for peer in peers {
        let start = Int.random(in: 0..<(1 << 30) - 200_000, using: &random) / 8 * 8
        let end = start + Int.random(in: 1...200_000, using: &random)
        try peer.tell("full k \(start) \(end)")
        wanted.formUnion(start / Self.piece...(end - 1) / Self.piece)
      }
      for peer in peers { _ = try peer.answer() }
    }
    let asked = origin.ranges.map { $0.lowerBound / Self.piece }
    let allowed = wanted.union(wanted.flatMap { $0...$0 + piecesAhead })
    #expect(wanted.isSubset(of: asked), "PATCHBAY_SEED=\(seed)")
    #expect(allowed.isSuperset(of: asked), "PATCHBAY_SEED=\(seed)")
    #expect(asked.count == Set(asked).count, "each once")
    serving.cancel()
    _ = await serving.result
    publisher.close()
    try broker.stop()
  }

  @Test func `whoever reads on is read ahead for, and no further`() async throws {
    let broker = try BrokerProcess()
    let client = try await PatchbayClient(socketPath: broker.socket)
    let origin = Origin()
    var source = origin.source
    source.readAheadByteCount = 2 * Self.piece
    source.fetchesAtOnce = 1
    let publisher = try await client.publisher("k", options(16 << 20), fetching: source)
    let serving = Task { [source] in try await publisher.serve(source) }
    let peer = try broker.peer()
    try peer.ask("open k")
    try peer.ask("full k 0 1")
    try await eventually("two pieces are read ahead") { origin.ranges.count == 3 }
    try peer.ask("full k 1000000 1000001")
    try await eventually("one piece is fetched") { origin.ranges.count == 4 }
    #expect(origin.ranges.map { $0.lowerBound / Self.piece } == [0, 1, 2, 15])
    serving.cancel()
    _ = await serving.result
    publisher.close()
    try broker.stop()
  }

  @Test func `a piece that cannot be fetched fails its readers, and nobody else`() async throws {
    let broker = try BrokerProcess()
    let client = try await PatchbayClient(socketPath: broker.socket)
    let origin = Origin(broken: 300_000..<300_001)
    let publisher = try await client.publisher("k", options(1 << 20), fetching: origin.source)
    let serving = Task { try await publisher.serve(origin.source) }
    let (unlucky, other) = (try broker.peer(), try broker.peer())
    for peer in [unlucky, other] { try peer.ask("open k") }
    try other.tell("full k 500000 700000")
    let error = try unlucky.askForError("full k 300000 300010")
    #expect(error.code == "inputOutput" && error.cause.contains("cannot be reached"))
    #expect(try other.answer() == "200000")
    #expect(try unlucky.ask("full k 0 1000") == "1000", "it reads on elsewhere")
    let tries = origin.ranges.count { $0.contains(300_000) }
    #expect(tries == 2, "bounded")
    serving.cancel()
    _ = await serving.result
    publisher.close()
    try broker.stop()
  }

  @Test func `a broker with a limit has no more fetched at once`() async throws {
    let broker = try BrokerProcess(options: ["--transfers", "1"])
    let client = try await PatchbayClient(socketPath: broker.socket)
    let underWay = Mutex((now: 0, most: 0))
    var source = RangeSource { range, publisher in
      underWay.withLock { $0 = ($0.now + 1, max($0.most, $0.now + 1)) }
      // Others have every opportunity to begin.
      for _ in 0..<200 { await Task.yield() }
      try await publisher.write(
        oracleBytes(publisher.generation.rawValue, range), at: range.lowerBound)
      underWay.withLock { $0.now -= 1 }
    }
    source.pieceByteCount = Self.piece
    let publisher = try await client.publisher("k", options(4 << 20), fetching: source)
    let serving = Task { [source] in try await publisher.serve(source) }
    let peers = try (0..<4).map { _ in try broker.peer() }
    for peer in peers { try peer.ask("open k") }
    for (index, peer) in peers.enumerated() {
      try peer.tell("full k \(index << 20) \((index + 1) << 20)")
    }
    for peer in peers { #expect(try peer.answer() == "1048576") }
    #expect(underWay.withLock { $0.most } == 1)
    serving.cancel()
    _ = await serving.result
    publisher.close()
    try broker.stop()
  }

  @Test func `what fills by itself becomes complete, and a cursor reads it to its end`()
    async throws
  {
    let broker = try BrokerProcess()
    let client = try await PatchbayClient(socketPath: broker.socket)
    let origin = Origin()
    var source = origin.source
    source.fillsInBackground = true
    let blob = try await client.get(
      "k", ProductionOptions(options(3_000_000)), orFetch: source)
    let peer = try broker.peer()
    try peer.ask("open k")
    #expect(try peer.ask("stream k 0") == "3000000")
    #expect(blob.state == .sealed)
    #expect(origin.ranges.count == 3_000_000 / Self.piece + 1)
    blob.close()
    try broker.stop()
  }

  @Test func `a fetch that is under way when the broker is replaced is the next one's, too`()
    async throws
  {
    let brokers = try Succession()
    try brokers.start()
    let client = try await PatchbayClient(socketPath: brokers.socket)
    let dam = Dam()
    var source = RangeSource { range, publisher in
      try await dam.pass()
      let bytes = oracleBytes(publisher.generation.rawValue, range)
      try await publisher.write(bytes, at: range.lowerBound)
    }
    source.pieceByteCount = Self.piece
    var terms = ProductionOptions(options(1 << 20))
    terms.whenUnread = .stop
    let blob = try await client.get("k", terms, orFetch: source)
    let reading = Task { try await blob.readFully(100..<200) }
    try await eventually("it is being fetched") { dam.askedCount == 1 }
    try brokers.kill()
    try brokers.start()
    // Somebody else's demand is handed out by the next broker when it has handed out the first.
    try await eventually("the next broker knows the blob") {
      try brokers.run(["info", "k"]).exitCode == 0
    }
    let other = try await PatchbayClient(socketPath: brokers.socket).open("k")
    let alsoReading = Task { try await other.readFully(300_000..<300_010) }
    try await eventually("both pieces are being fetched") { dam.askedCount == 2 }
    dam.open()
    #expect(try await reading.value == oracleBytes(blob.generation.rawValue, 100..<200))
    #expect(try await alsoReading.value.count == 10)
    #expect(dam.askedCount == 2, "each once")
    for reader in [blob, other] { reader.close() }
    try brokers.stop()
  }

  @Test func `who waits for the seal when the broker is replaced has the next one fetch the rest`()
    async throws
  {
    let brokers = try Succession()
    try brokers.start()
    let client = try await PatchbayClient(socketPath: brokers.socket)
    let dam = Dam()
    var source = RangeSource { range, publisher in
      // The first piece is there before.
      if range.lowerBound > 0 { try await dam.pass() }
      let bytes = oracleBytes(publisher.generation.rawValue, range)
      try await publisher.write(bytes, at: range.lowerBound)
    }
    source.pieceByteCount = Self.piece
    source.fetchesAtOnce = 2
    let maker = try await client.get("k", ProductionOptions(options(1 << 20)), orFetch: source)
    let reader = try await PatchbayClient(socketPath: brokers.socket).open("k")
    #expect(try await reader.readFully(0..<10).count == 10)
    let waiting = Task { try await reader.waitUntilSealed(deadline: .after(.seconds(60))) }
    try await eventually("some of it is being fetched") { dam.askedCount == 2 }
    try brokers.kill()
    try brokers.start()
    dam.open()
    #expect(try await waiting.value == 1 << 20)
    #expect(dam.askedCount == 15, "each once")
    for subscriber in [maker, reader] { subscriber.close() }
    try brokers.stop()
  }
}
