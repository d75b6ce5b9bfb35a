// The examples of the guides, word for word: another test holds each example of a page to code like
// this. Where a page connects to the usual broker, a test's own takes its place.

import Glibc
import Patchbay
import PatchbayBroker
import PatchbayTestSupport
import Testing

/// Shown bytes, for the examples that show some.
private final class Screen {
  private(set) var bytes: [UInt8] = []
  func show(_ more: Span<UInt8>) {
    for index in more.indices { bytes.append(more[index]) }
  }
}

@Suite struct GuideTests {
  private func configuration(_ directory: TemporaryDirectory) -> BrokerConfiguration {
    BrokerConfiguration(socketPath: directory.file("control.sock"), memoryLimit: 256 << 20)
  }

  private func withBroker(_ body: (Broker) throws -> Void) throws {
    let directory = try TemporaryDirectory()
    try Broker.withBroker(configuration(directory), body)
  }

  private func withBroker(_ body: (Broker) async throws -> Void) async throws {
    let directory = try TemporaryDirectory()
    try await Broker.withBroker(configuration(directory), body)
  }

  private func fetch(_ range: Range<Int>) throws -> [UInt8] { oracleBytes(1, range) }

  // MARK: The first pages

  @Test func `the landing page`() throws {
    try withBroker { broker in
      // swift-format-ignore: AlwaysUseLowerCamelCase
      func PatchbayClient() throws -> PatchbayClient { try broker.makeClient() }

      let client = try PatchbayClient()
      let publisher = try client.publisher("demo/a")
      try publisher.append(Array("hello, ".utf8))

      let subscriber = try client.open("demo/a")
      let first = try subscriber.read(upTo: 4096, at: 0)

      try publisher.append(Array("world".utf8))
      try publisher.seal()
      #expect(first == Array("hello, ".utf8))
      #expect(try subscriber.readFully(0..<12) == Array("hello, world".utf8))
    }
  }

  @Test func `a file that is there already`() throws {
    try withBroker { broker in
      let client = try broker.makeClient()
      let directory = try TemporaryDirectory()
      let path = directory.file("weights.bin")
      try writeFile(path, oracleBytes(1, 0..<100_000))
      try client.importFile(path, as: "models/v7")
      let header = try client.open("models/v7").readFully(0..<512)
      #expect(header == oracleBytes(1, 0..<512))
      try client.pin("models/v7")
      #expect(try client.info("models/v7").isPinned)
    }
  }

  @Test func `the README's patchwork`() throws {
    try withBroker { broker in
      let size = 20_000_001
      // swift-format-ignore: AlwaysUseLowerCamelCase
      func PatchbayClient() throws -> PatchbayClient { try broker.makeClient() }

      let client = try PatchbayClient()
      try client.withPublisher("layer", BlobOptions(byteCount: size)) { blob in
        for range in try blob.missing(inPiecesOf: 8 << 20).shuffled() {
          try blob.write(try fetch(range), at: range.lowerBound)
        }
      }
      let header = try client.open("layer").readFully(0..<512)
      #expect(header == oracleBytes(1, 0..<512))
    }
  }

  @Test func `the README's chunks`() async throws {
    try await withBroker { broker in
      let client = try await broker.makeClient()
      try await client.publish(Array("hello".utf8), as: "log")
      let screen = Screen()
      func show(_ bytes: Span<UInt8>) { screen.show(bytes) }
      for try await chunk in try await client.open("log").chunks(from: .live) {
        chunk.withBytes { (bytes: Span<UInt8>) in show(bytes) }
      }
      #expect(screen.bytes.isEmpty, "the live end of what is sealed is its end")
    }
  }

  // MARK: Threads and tasks

  @Test func `a stream, task by task`() async throws {
    try await withBroker { broker in
      // swift-format-ignore: AlwaysUseLowerCamelCase
      func PatchbayClient() async throws -> PatchbayClient { try await broker.makeClient() }
      let (pieces, source) = AsyncStream.makeStream(of: [UInt8].self)
      let other = try await broker.makeClient()

      async let seen: [UInt8] = {
        let screen = Screen()
        func show(_ bytes: Span<UInt8>) { screen.show(bytes) }
        let client = other
        let blob = try await client.open("log", waitUntil: .after(.seconds(30)))
        for try await chunk in blob.chunks(from: .live) {
          chunk.withBytes { (bytes: Span<UInt8>) in show(bytes) }
        }
        return screen.bytes
      }()
      for byte in UInt8(1)...9 { source.yield([byte]) }
      source.finish()

      let client = try await PatchbayClient()
      try await client.withPublisher("log") { blob in
        for try await piece in pieces { try await blob.append(piece) }
      }
      // Live: from where the stream was when the reader first looked.
      #expect(try await Array(1...9).suffix(seen.count) == seen)
    }
  }

  @Test func `a reader that tells a failure from an end`() async throws {
    try await withBroker { broker in
      let client = try await broker.makeClient()
      let publisher = try await client.publisher("k")
      try await publisher.append(Array("half".utf8))
      let blob = try await client.open("k")
      try await publisher.fail("the sender gave up")
      let screen = Screen()
      func show(_ bytes: Span<UInt8>) { screen.show(bytes) }
      var printed = ""
      func print(_ words: String) { printed = words }

      do {
        for try await chunk in blob.chunks() {
          chunk.withBytes { (bytes: Span<UInt8>) in show(bytes) }
        }
      } catch let error as PatchbayError where error.code == .abandoned || error.code == .blobFailed
      {
        print("not complete: \(error.cause ?? error.message)")
      }
      #expect(screen.bytes == Array("half".utf8))
      #expect(printed == "not complete: the sender gave up")
    }
  }

  // MARK: Slow readers

  @Test func `a publisher that waits for its slowest reader`() throws {
    try withBroker { broker in
      let client = try broker.makeClient()
      var options = BlobOptions(policy: .backpressure)
      options.ringByteCount = 8 << 20
      let publisher = try client.publisher("frames", options)
      let reader = TestThread {
        do {
          let cursor = try client.open("frames", waitUntil: .after(.seconds(30))).cursor()
          try cursor.attach()
        } catch {
          Issue.record(error)
        }
      }
      reader.join()
      try publisher.append(oracleBytes(1, 0..<100_000))
      try publisher.seal()
    }
  }

  @Test func `a reader that goes on after it has lost bytes`() throws {
    try withBroker { broker in
      let client = try broker.makeClient()
      let publisher = try client.publisher("log", BlobOptions(policy: .dropOldest))
      let record = [UInt8](repeating: 7, count: 100)
      for _ in 0..<30_000 {
        try publisher.mark()
        try publisher.append(record)
      }
      var cursor = try client.open("log").cursor()
      var shown = 0
      func show(_ bytes: [UInt8]) { shown += bytes.count }

      do {
        while let bytes = try cursor.read(upTo: 65536) { show(bytes) }
      } catch let error as PatchbayError where error.code == .overrun {
        try cursor.seek(to: .start, offset: error.resumePosition ?? 0)
      }
      #expect(shown == 0 && cursor.position > 0 && cursor.position % 100 == 0)

      try publisher.mark()
      try publisher.append(record)

      var late = try client.open("log").cursor(from: .live)
      #expect(try late.read(upTo: 1000) == record)
      try publisher.seal()
      while let bytes = try cursor.read(upTo: 65536) { show(bytes) }
      #expect(shown > 0 && shown % 100 == 0)
    }
  }

  @Test func `records of a batch`() throws {
    try withBroker { broker in
      let client = try broker.makeClient()
      let publisher = try client.publisher("log", BlobOptions(policy: .dropOldest))
      let records = (UInt8(1)...9).map { [UInt8](repeating: $0, count: 100) }

      try publisher.withBatch { batch in
        for record in records {
          try batch.mark()
          try batch.append(record)
        }
      }
      var late = try client.open("log").cursor(from: .live)
      #expect(try late.read(upTo: 1000) == records.last)
      try publisher.seal()
    }
  }

  // MARK: Other users

  @Test func `a blob that other users may read`() throws {
    let directory = try TemporaryDirectory()
    _ = unsafe chmod(directory.path, 0o755)
    // swift-format-ignore: AlwaysUseLowerCamelCase
    func BrokerConfiguration(socketPath: String) -> PatchbayBroker.BrokerConfiguration {
      PatchbayBroker.BrokerConfiguration(
        socketPath: directory.file("control.sock"), memoryLimit: 64 << 20)
    }
    let weights = oracleBytes(1, 0..<100_000)

    var configuration = BrokerConfiguration(socketPath: "/run/patchbay/control.sock")
    configuration.isShared = true
    configuration.userMemoryLimit = 1 << 30
    let broker = try Broker(configuration)
    let client = try broker.makeClient()

    var options = BlobOptions()
    options.mode = 0o640
    try client.publish(weights, as: "models/v7", options)

    let access = try client.info("models/v7").access
    #expect(access.uid == getuid() && access.gid == getgid() && access.mode == 0o640)
    broker.drain()
  }

  // MARK: Writing in any order

  @Test func `two clients write one blob`() throws {
    try withBroker { broker in
      let (client, other) = (try broker.makeClient(), try broker.makeClient())
      var options = BlobOptions(byteCount: 12)
      options.isJoinable = true
      options.idleLimit = .seconds(3600)
      let first = try client.publisher("up/1", options)
      try first.write(Array("hello ".utf8), at: 0)

      let second = try other.join("up/1")
      let claim = try second.claim(6..<12)
      try second.write(Array("world\n".utf8), at: claim.range.lowerBound)
      try second.leave()
      try first.seal()
      #expect(try other.open("up/1").readFully(0..<12) == Array("hello world\n".utf8))
    }
  }

  @Test func `a publisher that goes on where a failed one ended`() throws {
    try withBroker { broker in
      let client = try broker.makeClient()
      let failed = try client.publisher("up/3", BlobOptions(byteCount: 12))
      try failed.write(fetch(3..<7), at: 3)
      try failed.fail("the sender gave up")
      var options = BlobOptions(byteCount: 12)
      options.resumes = true
      let publisher = try client.publisher("up/3", options)
      #expect(try publisher.missing() == [0..<3, 7..<12])
      try publisher.fail("for the example's sake")

      try resume(client)
      #expect(try client.open("up/3").readFully(0..<12) == fetch(0..<12))
    }
  }

  private func resume(_ client: PatchbayClient) throws {
    var options = BlobOptions(byteCount: 12)
    options.resumes = true
    let publisher = try client.publisher("up/3", options)
    for range in try publisher.missing() { try publisher.write(fetch(range), at: range.lowerBound) }
    try publisher.seal()
  }

  @Test func `an expected digest`() async throws {
    try await withBroker { broker in
      let client = try await broker.makeClient()
      let pieces = AsyncThrowingStream<[UInt8], any Error> { stream in
        stream.yield(Array("foo\n".utf8))
        stream.finish()
      }
      let hex = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"
      try await client.withPublisher("layer", BlobOptions(expect: .sha256(hex))) { blob in
        for try await piece in pieces { try await blob.append(piece) }
      }
      #expect(try await client.info("layer").digest == .sha256(hex))
    }
  }

  // MARK: Producing

  @Test func `a picture that is made once`() async throws {
    try await withBroker { broker in
      let client = try await broker.makeClient()
      let size = 10_000
      @Sendable func render(_ range: Range<Int>) async throws -> [UInt8] { oracleBytes(1, range) }

      let thumb = try await client.get("thumb/9", ProductionOptions(BlobOptions(byteCount: size))) {
        job in
        for range in job.missing {
          try await job.publisher.write(try await render(range), at: range.lowerBound)
        }
      }
      let first = try await thumb.readFully(0..<4096)
      #expect(first == oracleBytes(1, 0..<4096))
      #expect(try await thumb.waitUntilSealed() == size)
    }
  }

  @Test func `a layer that is fetched where it is read`() async throws {
    try await withBroker { broker in
      let client = try await broker.makeClient()
      let size = 10 << 20
      @Sendable func download(_ range: Range<Int>) async throws -> [UInt8] { oracleBytes(1, range) }

      let layer = try await client.get(
        "layer", ProductionOptions(BlobOptions(byteCount: size)),
        orFetch: RangeSource { range, publisher in
          try await publisher.write(try await download(range), at: range.lowerBound)
        })
      let middle = try await layer.readFully(size / 2..<size / 2 + 4096)
      #expect(middle == oracleBytes(1, size / 2..<size / 2 + 4096))
      // Its bytes may be there a moment before the rest of their piece.
      try await eventually("one piece is fetched") {
        try await client.info("layer").coveredByteCount == 1 << 20
      }
      #expect(try await client.info("layer").state == .open)
    }
  }

  // MARK: Stores

  /// Two brokers with a client each, one above the other.
  private func withTwoBrokers(
    _ body: (PatchbayClient, PatchbayClient) async throws -> Void
  ) async throws {
    try await withBroker { (upper) async throws in
      try await withBroker { (lower) async throws in
        try await body(try await upper.makeClient(), try await lower.makeClient())
      }
    }
  }

  @Test func `a cache over a store that keeps`() async throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("v7")
    try writeFile(path, oracleBytes(1, 0..<100_000))
    try await withTwoBrokers { (memory, disk) async throws in
      let store = LayeredStore(memory, over: disk)
      try await store.publish(contentsOf: path, as: "models/v7")
      let model = try await store.open("models/v7")
      #expect(try await model.readFully(0..<100_000) == oracleBytes(1, 0..<100_000))
      #expect(try await model.generation == memory.info("models/v7").generation)
      #expect(try await disk.info("models/v7").state == .sealed)
    }
  }

  @Test func `keys over several stores`() async throws {
    let tile = oracleBytes(1, 0..<500)
    try await withTwoBrokers { (fast, large) async throws in
      let store = try PartitionedStore([
        .init("disk1", fast), .init("disk2", weight: 3, large),
      ])
      try await store.publish(tile, as: "tile/7/3")
      let home = store.partition(of: "tile/7/3").name
      let client = home == "disk1" ? fast : large
      #expect(try await client.open("tile/7/3").readFully(0..<500) == tile)
    }
    try await withTwoBrokers { (diskA, diskB) async throws in
      try await withBroker { (broker) async throws in
        let cache = try await broker.makeClient()
        let store = try PartitionedStore([
          .init("a", LayeredStore(cache, over: diskA)),
          .init("b", LayeredStore(cache, over: diskB)),
        ])
        try await store.publish(tile, as: "tile/7/3")
        #expect(try await store.open("tile/7/3").readFully(0..<500) == tile)
        #expect(try await cache.exists("tile/7/3"))
      }
    }
  }
}
