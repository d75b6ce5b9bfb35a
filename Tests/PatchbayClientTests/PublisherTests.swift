// What a publisher may expect of each of its calls.

import Glibc
import Patchbay
import PatchbayTestSupport
import Testing

@Suite struct PublisherTests {
  @Test func `a closure that returns has sealed, one that throws has failed with its cause`() throws
  {
    struct Upstream: Error {}
    try withBroker { _, client in
      try client.withPublisher("good") { try $0.append([1, 2, 3]) }
      #expect(try client.info("good").state == .sealed)
      let reader = try client.publisher("other")
      reader.close()
      #expect(throws: Upstream.self) {
        try client.withPublisher("bad") { blob in
          try blob.append([1])
          throw Upstream()
        }
      }
      let info = try client.info("bad")
      #expect(info.state == .failed && info.causeCode == .blobFailed)
      #expect(info.cause?.contains("Upstream") == true)
      #expect(code { _ = try client.open("bad") } == .blobFailed)
    }
  }

  /// What a caller may pass by mistake, and the broker would hang up on.
  private static let oversized:
    [(String, @Sendable (PatchbayClient) throws(PatchbayError) -> Void)] =
      [
        (
          "a media type",
          { (client) throws(PatchbayError) in
            var options = BlobOptions()
            options.type = String(repeating: "x", count: 256)
            try client.publish([1], as: "k", options)
          }
        ),
        (
          "a label",
          { (client) throws(PatchbayError) in
            var options = BlobOptions()
            options.labels = [BlobInfo.Label(name: "n", value: String(repeating: "x", count: 256))]
            _ = try client.publisher("k", options)
          }
        ),
        (
          "labels",
          { (client) throws(PatchbayError) in
            var options = BlobOptions()
            options.labels = Array(repeating: BlobInfo.Label(name: "n", value: "v"), count: 33)
            _ = try client.openOrCreate("k", options)
          }
        ),
        (
          "a length",
          { (client) throws(PatchbayError) in
            _ = try client.publisher("k", BlobOptions(byteCount: -2))
          }
        ),
        (
          "an extent",
          { (client) throws(PatchbayError) in
            var options = BlobOptions(byteCount: 10)
            options.firstExtentByteCount = -1
            _ = try client.publisher("k", options)
          }
        ),
        (
          "a prefix of keys to list",
          { (client) throws(PatchbayError) in
            _ = try client.list(prefix: [UInt8](repeating: 1, count: 1025))
          }
        ),
      ]

  @Test func `what no broker would take is refused to its caller, and to nobody else`() throws {
    try withBroker { _, client in
      let other = try client.publisher("other")
      for (name, call) in Self.oversized {
        #expect(
          code { () throws(PatchbayError) in try call(client) } == .protocolViolation, "\(name)")
      }
      try other.append([1, 2, 3])
      try other.seal()
      #expect(try client.info("other").state == .sealed)
      #expect(code { _ = try client.info("k") } == .noSuchKey)
    }
  }

  @Test func `what no broker would take is refused to a task, too`() async throws {
    try await withBroker { (_, client) async throws in
      var options = BlobOptions()
      options.type = String(repeating: "x", count: 256)
      #expect(await code { _ = try await client.publisher("k", options) } == .protocolViolation)
      let path = try TemporaryDirectory()
      try writeFile(path.file("f"), [1])
      var imported = ImportOptions()
      imported.type = options.type
      #expect(
        await code { _ = try await client.importFile(path.file("f"), as: "k", imported) }
          == .protocolViolation)
      try await client.ping()
    }
  }

  @Test func `missing ranges come in pieces and are none when all is written`() throws {
    try withBroker { _, client in
      try client.withPublisher("k", BlobOptions(byteCount: 10_000)) { blob in
        try blob.write(pattern(3000..<4000), at: 3000)
        let all = try blob.missing()
        #expect(all == [0..<3000, 4000..<10_000])
        let pieces = try blob.missing(inPiecesOf: 2500)
        #expect(pieces == [0..<2500, 2500..<3000, 4000..<6500, 6500..<9000, 9000..<10_000])
        for piece in pieces.shuffled() { try blob.write(pattern(piece), at: piece.lowerBound) }
        let none = try blob.missing()
        #expect(none == [])
      }
    }
  }

  @Test func `an append that expects another position is refused with the true one`() throws {
    try withBroker { _, client in
      for order in WriteOrder.allCases {
        let publisher = try client.publisher(
          BlobKey("k\(order)"), BlobOptions(order: order))
        try publisher.append([1, 2, 3], expecting: 0)
        for (expected, code) in [(2, PatchbayError.Code.rangeOverlap), (4, .rangeOutOfBounds)] {
          do throws(PatchbayError) {
            try publisher.append([4], expecting: expected)
            Issue.record("appended")
          } catch {
            #expect(error.code == code && error.resumePosition == 3)
          }
        }
        try publisher.append([4], expecting: 3)
        try publisher.seal()
        #expect(try client.open(BlobKey("k\(order)")).readFully(0..<4) == [1, 2, 3, 4])
      }
    }
  }

  @Test func `a seal with a hole leaves the blob open for the rest`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("k", BlobOptions(byteCount: 5000))
      try publisher.write(pattern(0..<100), at: 0)
      try publisher.write(pattern(200..<4999), at: 200)
      do throws(PatchbayError) {
        try publisher.seal()
        Issue.record("sealed")
      } catch {
        #expect(error.code == .holesAtSeal && error.missing == [100..<200, 4999..<5000])
      }
      try publisher.write(pattern(0..<5000), at: 0, skippingCovered: true)
      try publisher.seal()
      #expect(code { try publisher.append([1]) } == .closed)
      #expect(code { try publisher.seal() } == .closed)
      #expect(try client.open("k").readFully(0..<5000) == pattern(0..<5000))
    }
  }

  @Test func `an appended blob that is short is not sealed`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("k", BlobOptions(byteCount: 50_000, order: .appendOnly))
      try publisher.append(pattern(0..<49_999))
      #expect(code { try publisher.seal() } == .lengthMismatch)
      #expect(code { try publisher.append([1, 2]) } == .rangeOutOfBounds)
      try publisher.append(pattern(49_999..<50_000))
      try publisher.seal()
      #expect(code { try client.publisher("k").close() } == .keyExists)
    }
  }

  @Test func `a dropped loan has appended nothing`() throws {
    try withBroker { _, client in
      for order in WriteOrder.allCases {
        let publisher = try client.publisher(BlobKey("k\(order)"), BlobOptions(order: order))
        try publisher.append([9])
        do {
          var loan = try publisher.loan(byteCount: 100)
          loan.withBytes { $0[0] = 77 }
          #expect(code { try publisher.append([1]) } == .rangeOverlap)
          #expect(code { try publisher.seal() } == .rangeOverlap)
        }
        try publisher.append([8])
        try publisher.seal()
        #expect(try client.open(BlobKey("k\(order)")).readFully(0..<2) == [9, 8])
      }
    }
  }

  @Test func `a batch becomes readable at its end, also when its closure throws`() throws {
    struct Stop: Error {}
    try withBroker { _, client in
      let publisher = try client.publisher("k", BlobOptions(order: .appendOnly))
      let reader = try client.open("k")
      #expect(throws: Stop.self) {
        try publisher.withBatch {
          try publisher.append([1, 2, 3])
          #expect(
            code { _ = try reader.read(upTo: 9, at: 0, deadline: .after(.zero)) } == .timedOut)
          throw Stop()
        }
      }
      #expect(try reader.read(upTo: 9, at: 0) == [1, 2, 3])
      try publisher.seal()
    }
  }

  @Test func `cursors stream parts of one blob side by side`() throws {
    try withBroker { _, client in
      try client.withPublisher("k", BlobOptions(byteCount: 3000)) { blob in
        var cursors = [0, 1000, 2000].map { blob.appending(from: $0) }
        for _ in 0..<10 {
          for index in cursors.indices.reversed() {
            let at = cursors[index].position
            try cursors[index].append(pattern(at..<at + 100))
          }
        }
        #expect(code { try cursors[0].append([1]) } == .rangeOverlap)
        #expect(cursors[0].position == 1000)
      }
      #expect(try client.open("k").readFully(0..<3000) == pattern(0..<3000))
    }
  }

  @Test func `replacing a blob leaves its readers on the old life`() throws {
    try withBroker { _, client in
      try client.publish(pattern(0..<100_000), as: "k")
      let old = try client.open("k")
      try client.publish([7], as: "k", BlobOptions(replaces: true))
      #expect(try client.open("k").readFully(0..<1) == [7])
      #expect(try old.readFully(0..<100_000) == pattern(0..<100_000))
    }
  }

  @Test func `listings come in pages in the order of keys`() throws {
    try withBroker { _, client in
      for index in 0..<30 { try client.publish([1], as: try BlobKey("page/\(index)")) }
      try client.publish([1], as: "other")
      var seen: [BlobKey] = []
      var last: BlobKey?
      while true {
        let page = try client.list(prefix: Array("page/".utf8), after: last, limit: 7)
        seen += page.blobs.map(\.key)
        last = page.blobs.last?.key
        if !page.hasMore { break }
      }
      #expect(seen.count == 30 && seen == seen.sorted())
      #expect(try client.exists("other"))
      try client.remove("other")
      #expect(try !client.exists("other"))
      #expect(code { try client.remove("other") } == .noSuchKey)
    }
  }

  @Test func `what a blob was given comes back in its description`() throws {
    try withBroker { _, client in
      let label = BlobInfo.Label(name: "origin", value: "here")
      try client.publish(
        [1, 2, 3], as: "k", BlobOptions(mode: 0o640, type: "text/plain", labels: [label]))
      let info = try client.info("k")
      #expect(info.type == "text/plain" && info.labels == [label] && info.access.mode == 0o640)
      #expect(info.byteCount == 3 && info.state == .sealed && info.coveredByteCount == 3)
    }
  }

  @Test func `a blob can be failed inside a batch and while a loan is out`() throws {
    try withBroker { _, client in
      let batching = try client.publisher("batch", BlobOptions(order: .appendOnly))
      let reader = try client.open("batch")
      try batching.withBatch {
        try batching.append([1, 2, 3])
        try batching.fail("no good")
      }
      #expect(try reader.readFully(0..<3) == [1, 2, 3])
      #expect(code { _ = try reader.readFully(0..<4) } == .blobFailed)
      for order in WriteOrder.allCases {
        let key = try BlobKey("loan\(order)")
        let lending = try client.publisher(key, BlobOptions(order: order))
        let loan = try lending.loan(byteCount: 10)
        try lending.fail("no good")
        #expect(try client.info(key).state == .failed)
        loan.commit(byteCount: 0)
        #expect(code { try lending.append([1]) } == .closed)
      }
    }
  }

  @Test func `an append for which memory is not enough has appended nothing`() throws {
    try withBroker(memory: 24 << 20) { _, client in
      var options = BlobOptions(order: .appendOnly)
      options.firstExtentByteCount = 1 << 20
      let publisher = try client.publisher("k", options)
      #expect(
        code { try publisher.append([UInt8](repeating: 1, count: 30 << 20)) } == .noSpaceMemory)
      #expect(publisher.position == 0)
      try publisher.append([1])
      try publisher.seal()
      #expect(try client.info("k").byteCount == 1)
    }
  }

  @Test func `to ask what is missing makes no memory`() throws {
    try withBroker(memory: 256 << 20) { _, client in
      let publisher = try client.publisher("k")
      try publisher.write([1], at: 400 << 20)
      let before = try client.statistics().memoryByteCount
      #expect(try publisher.missing() == [0..<400 << 20])
      #expect(try client.statistics().memoryByteCount == before)
    }
  }

  @Test func `a source may take longer than the deadline of the creation`() throws {
    try withBroker { _, client in
      let directory = try TemporaryDirectory()
      let path = directory.file("fifo")
      #expect(mkfifo(path, 0o600) == 0)
      let feeder = TestThread {
        let pipe = open(path, O_WRONLY | O_CLOEXEC)
        _ = write(pipe, "hello", 5)
        // The deadline has passed by the time the source ends.
        let created = ContinuousClock.now
        while (try? client.info("k")) == nil || created.duration(to: .now) < .milliseconds(300) {
          _ = poll(nil, 0, 5)
        }
        _ = close(pipe)
      }
      try client.publish(contentsOf: path, as: "k", deadline: .after(.milliseconds(200)))
      feeder.join()
      #expect(try client.info("k").state == .sealed)
    }
  }

  @Test func `the written ranges of a blob with extents between are all found`() throws {
    try withBroker { _, client in
      var options = BlobOptions()
      options.firstExtentByteCount = 4096
      options.extentByteLimit = 65536
      let publisher = try client.publisher("k", options)
      try publisher.write(pattern(10..<20), at: 10)
      let observer = try client.observe("k")
      #expect(try observer.writtenRanges() == [10..<20])
      try publisher.write(pattern(1_000_000..<1_000_005), at: 1_000_000)
      try publisher.write(pattern(300_000..<300_001), at: 300_000)
      #expect(
        try observer.writtenRanges() == [10..<20, 300_000..<300_001, 1_000_000..<1_000_005])
      #expect(try observer.writtenRanges(limit: 2) == [10..<20, 300_000..<300_001])
    }
  }

  @Test func `an observer that ends takes no reader with it`() throws {
    try withBroker { _, client in
      try client.publish(pattern(0..<100_000), as: "k")
      let reader = try client.open("k")
      var observer: BlobObserver? = try client.observe("k")
      #expect(observer?.byteCount == 100_000)
      observer = nil
      #expect(try client.info("k").subscriberCount == 1)
      reader.close()
      #expect(try client.info("k").subscriberCount == 0)
    }
  }
}
