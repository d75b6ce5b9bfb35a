// What a task may expect of each call: what the blocking one does, without holding a thread.

import Glibc
import PatchbayTestSupport
import Testing

@testable import Patchbay

@Suite struct TaskCallTests {
  @Test func `a blob goes from a task to a task through every way to write and read`() async throws
  {
    try await withBroker { broker, client in
      let publisher = try await client.publisher("k", BlobOptions(byteCount: 40_000))
      let reader = try await broker.makeClient().open("k")
      #expect(try await client.info("k").subscriberCount == 1)
      try await publisher.append(pattern(0..<1000))
      try await publisher.append(pattern(1000..<2000), expecting: 1000)
      #expect(await code { try await publisher.append([1], expecting: 7) } == .rangeOverlap)
      #expect(try await publisher.write(pattern(5000..<6000), at: 5000) == 1000)
      #expect(await code { try await publisher.write([1], at: 5500) } == .rangeOverlap)
      var cursor = publisher.appending(from: 6000)
      try await cursor.append(pattern(6000..<7000))
      try await publisher.withBatch {
        try await publisher.append(pattern(2000..<3000))
        let early = await code {
          _ = try await reader.read(upTo: 1, at: 2000, deadline: .after(.zero))
        }
        #expect(early == .timedOut)
      }
      var loan = try await publisher.loan(byteCount: 2000)
      loan.withBytes { place in
        for index in 0..<2000 { place[index] = oracleByte(1, 3000 + index) }
      }
      loan.commit(byteCount: 2000)
      #expect(try await publisher.missing() == [7000..<40_000])
      for piece in try await publisher.missing(inPiecesOf: 10_000).reversed() {
        try await publisher.write(pattern(piece), at: piece.lowerBound)
      }
      #expect(try await reader.read(upTo: 10, at: 2995) == pattern(2995..<3005))
      #expect(try await reader.writtenRanges() == [0..<40_000])
      try await publisher.seal()
      #expect(publisher.isEnded)
      #expect(try await reader.waitUntilSealed() == 40_000)
      #expect(try await reader.readFully(0..<40_000) == pattern(0..<40_000))
      #expect(try await reader.read(upTo: 1, at: 40_000) == nil)
      #expect(await code { _ = try await reader.readFully(39_999..<40_001) } == .rangeOutOfBounds)
      #expect(await code { _ = try await reader.read(upTo: 1, at: -1) } == .rangeOutOfBounds)
    }
  }

  @Test(arguments: [0, 1, 16_384, 16_385, 1_000_003])
  func `what is published at once can be read, leased and mapped`(length: Int) async throws {
    try await withBroker { _, client in
      try await client.publish(pattern(0..<length), as: "plain")
      var options = BlobOptions(order: .appendOnly)
      options.firstExtentByteCount = 4096
      options.extentByteLimit = 65_536
      try await client.withPublisher("chained", options) { blob in
        try await blob.append(pattern(0..<length))
      }
      for key in ["plain", "chained"] as [BlobKey] {
        let reader = try await client.open(key)
        #expect(try await reader.readFully(0..<length) == pattern(0..<length))
        let isRight = try await reader.withWholeBlob { bytes in
          bytes.count == length && firstWrong(bytes, 1, at: 0) == nil
        }
        #expect(isRight, "\(key)")
        let lease = try await reader.lease(0..<min(length, 4000))
        #expect(lease.withBytes { firstWrong($0, 1, at: 0) } == nil)
        #expect(try await reader.waitForByteCount() == length)
      }
    }
  }

  @Test func `the client asks, lists, observes and removes`() async throws {
    try await withBroker { broker, _ in
      let client = try await PatchbayClient(socketPath: broker.socketPath, name: "a task")
      try await client.ping()
      for index in 0..<30 { try await client.publish([1], as: try BlobKey("page/\(index)")) }
      let page = try await client.list(prefix: Array("page/".utf8), limit: 7)
      #expect(page.blobs.count == 7 && page.hasMore)
      let publisher = try await client.publisher("open", BlobOptions(byteCount: 100))
      try await publisher.write([1, 2, 3], at: 10)
      let observer = try await client.observe("open")
      #expect(try await observer.writtenRanges() == [10..<13])
      try await publisher.fail("no good")
      #expect(try await client.info("open").state == .failed)
      #expect(await code { _ = try await client.open("open") } == .blobFailed)
      #expect(await code { _ = try await client.open("nothing") } == .noSuchKey)
      let never = await code {
        _ = try await client.open("nothing", waitUntil: .after(.milliseconds(20)))
      }
      #expect(never == .timedOut)
      #expect(try await client.exists("open"))
      try await client.remove("open")
      #expect(try await !client.exists("open"))
      #expect(try await client.statistics().blobCount == 30)
    }
  }

  @Test func `an open that waits gets the blob when it comes`() async throws {
    try await withBroker { broker, client in
      let other = try await broker.makeClient()
      async let reader = client.open("later", waitUntil: .after(.seconds(20)))
      try await eventually("the open waits") { client.session.connection.pendingCount == 1 }
      try await other.publish([1, 2, 3], as: "later")
      #expect(try await reader.readFully(0..<3) == [1, 2, 3])
    }
  }

  @Test func `a body that returns has sealed, one that throws has failed with its cause`()
    async throws
  {
    struct Upstream: Error {}
    try await withBroker { _, client in
      // A body that does not wait at all still makes these the asynchronous calls.
      let length = try await client.withPublisher("good") { blob in blob.position }
      #expect(length == 0)
      #expect(try await client.info("good").state == .sealed)
      await #expect(throws: Upstream.self) {
        try await client.withPublisher("bad") { blob in
          try await blob.append([1])
          throw Upstream()
        }
      }
      let info = try await client.info("bad")
      #expect(info.state == .failed && info.cause?.contains("Upstream") == true)
    }
  }

  @Test func `a cursor reads and seeks`() async throws {
    try await withBroker { _, client in
      try await client.publish(pattern(0..<50_000), as: "k")
      var cursor = try await client.open("k").cursor(from: 10)
      #expect(try await cursor.read(upTo: 5) == pattern(10..<15))
      #expect(try await cursor.seek(to: .current, offset: 100) == 115)
      #expect(try await cursor.seek(to: .end, offset: -3) == 49_997)
      #expect(try await cursor.read(upTo: 5) == pattern(49_997..<50_000))
      #expect(try await cursor.read(upTo: 5) == nil)
    }
  }

  @Test func `files are published and copied, and pipes as they come`() async throws {
    try await withBroker { broker, client in
      let directory = try TemporaryDirectory()
      let (source, target) = (directory.file("source"), directory.file("target"))
      for length in [3, 3_000_000] {
        try writeFile(source, pattern(0..<length))
        try await client.publish(
          contentsOf: source, as: try BlobKey("file\(length)"))
        let file = open(target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        let reader = try await client.open(try BlobKey("file\(length)"))
        var seen = 0
        let count = try await reader.copy(to: file, from: 1, onProgress: { seen = $0 })
        _ = close(file)
        #expect(count == length - 1 && seen == count)
        #expect(try readBytes(target) == pattern(1..<length))
      }
      #expect(
        await code { try await client.publish(contentsOf: "\(source)?", as: "x") } == .inputOutput)
      try await throughPipes(client, directory)
    }
  }

  /// A named pipe, into a blob, into a pipe, all at once.
  private func throughPipes(
    _ client: PatchbayClient, _ directory: TemporaryDirectory
  ) async throws {
    let path = directory.file("fifo")
    #expect(mkfifo(path, 0o600) == 0)
    let length = 1_000_000
    let feeder = TestThread {
      let pipe = open(path, O_WRONLY | O_CLOEXEC)
      for start in stride(from: 0, to: length, by: 50_000) {
        let piece = pattern(start..<start + 50_000)
        _ = write(pipe, piece, piece.count)
      }
      _ = close(pipe)
    }
    var ends: [Int32] = [0, 0]
    #expect(pipe(&ends) == 0)
    let (readEnd, writeEnd) = (ends[0], ends[1])
    let taker = Taker(readEnd)
    async let published = client.publish(contentsOf: path, as: "piped")
    let reader = try await client.open("piped", waitUntil: .after(.seconds(20)))
    let count = try await reader.copy(to: writeEnd)
    _ = close(writeEnd)
    _ = try await published
    feeder.join()
    #expect(count == length && taker.finish() == pattern(0..<length))
  }
}

/// Reads a pipe to its end, on a thread.
private final class Taker: @unchecked Sendable {
  private var bytes: [UInt8] = []
  private var thread: TestThread?

  init(_ descriptor: Int32) {
    thread = TestThread { [self] in
      var piece = [UInt8](repeating: 0, count: 10_000)
      while true {
        let got = read(descriptor, &piece, piece.count)
        guard got > 0 else { break }
        bytes += piece[..<got]
      }
      _ = close(descriptor)
    }
  }

  func finish() -> [UInt8] {
    thread?.join()
    return bytes
  }
}
