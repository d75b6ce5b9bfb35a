// Blobs with a digest, however they come: what is right is sealed and says so, what is wrong nobody
// new gets. What is right is told by the system's own programs.

import Glibc
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import PatchbayWire
import Synchronization
import Testing

@testable import Patchbay
@testable import PatchbayBroker

/// The digest that `sha256sum` and its like give.
private func systemDigest(
  _ bytes: [UInt8], _ algorithm: ContentDigest.Algorithm = .sha256
) throws -> ContentDigest {
  let directory = try TemporaryDirectory()
  try writeFile(directory.file("bytes"), bytes)
  let outcome = try runProgram("/usr/bin/\(algorithm)sum", [directory.file("bytes")])
  let hex = try #require(outcome.output.split(separator: " ").first)
  return try ContentDigest("\(algorithm):\(hex)")
}

/// One in which nothing is right.
private func other(_ digest: ContentDigest) throws -> ContentDigest {
  try ContentDigest(digest.algorithm, digest.bytes.map { ~$0 })
}

@Suite struct VerificationTests {
  private static let byteCount = 1_300_001

  /// How a blob comes into being.
  enum Way: CaseIterable {
    case appended, announced, shuffled, backwards, inline, empty, whole, grown

    var byteCount: Int {
      switch self {
      case .inline: 3000
      case .empty: 0
      default: VerificationTests.byteCount
      }
    }
  }

  /// Publishes bytes in a way; throws what the seal throws.
  private func publish(
    _ client: PatchbayClient, _ key: BlobKey, _ bytes: [UInt8], _ way: Way,
    _ options: BlobOptions
  ) throws {
    var options = options
    if [.appended, .grown].contains(way) { options.order = .appendOnly }
    if [.announced, .shuffled].contains(way) { options.byteCount = bytes.count }
    if way == .grown {
      options.firstExtentByteCount = 64 << 10
      options.extentByteLimit = 64 << 10
    }
    if way == .inline || way == .whole {
      try client.publish(bytes, as: key, options)
      return
    }
    try client.withPublisher(key, options) { blob in
      var ranges = stride(from: 0, to: bytes.count, by: 70_001).map {
        $0..<min(bytes.count, $0 + 70_001)
      }
      if way == .backwards { ranges.reverse() }
      var random = SeededRandom(seed: 3)
      if way == .shuffled { ranges.shuffle(using: &random) }
      for range in ranges {
        if options.order == .appendOnly {
          try blob.append(Array(bytes[range]))
        } else {
          try blob.write(Array(bytes[range]), at: range.lowerBound)
        }
      }
    }
  }

  @Test(arguments: Way.allCases, ContentDigest.Algorithm.allCases)
  func `what is right is sealed with its digest, what is not is failed`(
    _ way: Way, _ algorithm: ContentDigest.Algorithm
  ) throws {
    let bytes = pattern(0..<way.byteCount)
    let right = try systemDigest(bytes, algorithm)
    let wrong = try other(right)
    try withBroker { broker, client in
      try publish(client, "right", bytes, way, BlobOptions(expect: right))
      #expect(try client.info("right").digest == right)
      #expect(try client.open("right").readFully(0..<bytes.count) == bytes)
      let error = #expect(throws: PatchbayError.self) {
        try publish(client, "wrong", bytes, way, BlobOptions(expect: wrong))
      }
      #expect(error?.code == .digestMismatch)
      let cause = try #require(error?.cause)
      #expect(
        cause
          == "its \(bytes.count) bytes have the \(algorithm) \(right.hex), not \(wrong.hex) as expected"
      )
      #expect(code { _ = try client.open("wrong") } == .digestMismatch)
      let info = try client.info("wrong")
      #expect(info.state == .failed && info.cause == cause && info.digest == nil)
      var options = BlobOptions()
      options.digest = algorithm
      try publish(client, "asked", bytes, way, options)
      #expect(try client.info("asked").digest == right)
      try publish(client, "unasked", bytes, way, BlobOptions())
      #expect(try client.info("unasked").digest == nil)
    }
  }

  @Test func `readers that are there get the bytes, then the failure and never the end`() throws {
    let bytes = pattern(0..<Self.byteCount)
    let wrong = try other(systemDigest(bytes))
    try withBroker { broker, client in
      let options = BlobOptions(byteCount: bytes.count, expect: wrong)
      let publisher = try client.publisher("k", options)
      let reader = try broker.makeClient().open("k")
      let waiting = Mutex<PatchbayError?>(nil)
      let atEnd = TestThread { [bytes] in
        do throws(PatchbayError) { _ = try reader.read(upTo: 1, at: bytes.count) } catch {
          waiting.withLock { $0 = error }
        }
      }
      try publisher.write(bytes, at: 0)
      #expect(code { try publisher.seal() } == .digestMismatch)
      #expect(publisher.isEnded)
      atEnd.join()
      // Positions behind the announced length are no bytes; the failure comes before the end.
      #expect(waiting.withLock { $0?.code } == .digestMismatch)
      #expect(code { _ = try reader.read(upTo: 1, at: bytes.count) } == .digestMismatch)
      #expect(code { _ = try reader.waitUntilSealed() } == .digestMismatch)
      #expect(try reader.readFully(0..<1000) == Array(bytes[..<1000]), "it was there before")
      let error = #expect(throws: PatchbayError.self) { try reader.copy(to: -1, from: bytes.count) }
      #expect(error?.code == .digestMismatch && error?.cause?.contains("as expected") == true)
      #expect(code { try publisher.append([1]) } == .closed)
    }
  }

  @Test func `opens that wait for a small blob with other content get its failure`() throws {
    try withBroker { broker, client in
      let found = Mutex<PatchbayError.Code?>(nil)
      let other = try broker.makeClient()
      let thread = TestThread {
        do throws(PatchbayError) { _ = try other.open("k", waitUntil: .never) } catch {
          found.withLock { $0 = error.code }
        }
      }
      try eventually("it waits") { try !client.situation(of: "k").waits.isEmpty }
      let wrong = try ContentDigest(.sha256, [UInt8](repeating: 0, count: 32))
      #expect(
        code { try client.publish([1, 2], as: "k", BlobOptions(expect: wrong)) } == .digestMismatch)
      thread.join()
      #expect(found.withLock { $0 } == .digestMismatch)
    }
  }

  @Test func `several publishers of one blob are held to its digest together`() throws {
    let bytes = pattern(0..<600_000)
    let right = try systemDigest(bytes, .sha512)
    try withBroker { broker, client in
      for (key, expected) in [("right" as BlobKey, right), ("wrong", try other(right))] {
        var options = BlobOptions(byteCount: bytes.count, expect: expected)
        options.isJoinable = true
        let first = try client.publisher(key, options)
        let second = try broker.makeClient().join(key)
        try second.write(Array(bytes[300_000...]), at: 300_000)
        try first.write(Array(bytes[..<300_000]), at: 0)
        if key == "right" {
          try second.seal()
          #expect(try client.info(key).digest == right)
        } else {
          #expect(code { try first.seal() } == .digestMismatch)
          #expect(code { _ = try client.join(key) } == .digestMismatch)
        }
      }
    }
  }

  @Test func `a blob that nobody owns is compared when somebody seals it`() throws {
    let bytes = pattern(0..<200_000)
    let right = try systemDigest(bytes)
    try withBroker { broker, client in
      let options = BlobOptions(byteCount: bytes.count, expect: right)
      let generation = try client.create("k", options)
      #expect(try client.create("k", options) == generation)
      #expect(code { try client.create("k", BlobOptions(byteCount: bytes.count)) } == .keyExists)
      for start in [100_000, 0] {
        let publisher = try client.join("k")
        try publisher.write(Array(bytes[start..<start + 100_000]), at: start)
        try publisher.leave()
      }
      try client.join("k").seal()
      #expect(try client.info("k").digest == right)
    }
  }

  @Test func `wrong content is not what a creation that resumes begins with`() throws {
    let bytes = pattern(0..<200_000)
    let backwards = [UInt8](bytes.reversed())
    let right = try systemDigest(bytes)
    try withBroker { broker, client in
      var options = BlobOptions(byteCount: bytes.count, expect: right)
      let found = code {
        _ = try client.withPublisher("k", options) { blob in try blob.write(backwards, at: 0) }
      }
      #expect(found == .digestMismatch)
      options.resumes = true
      let publisher = try client.publisher("k", options)
      #expect(try publisher.missing() == [0..<bytes.count])
      try publisher.write(bytes, at: 0)
      try publisher.seal()
      #expect(try client.info("k").digest == right)
    }
  }

  @Test func `what is taken over counts as what is written`() throws {
    let bytes = pattern(0..<200_000)
    let right = try systemDigest(bytes)
    try withBroker { broker, client in
      var options = BlobOptions(byteCount: bytes.count, expect: right)
      let first = try client.publisher("k", options)
      try first.write(Array(bytes[50_000...]), at: 50_000)
      try first.fail("later")
      options.resumes = true
      let second = try client.publisher("k", options)
      try second.write(Array(bytes[..<50_000]), at: 0)
      try second.seal()
      #expect(try client.info("k").digest == right)
    }
  }

  @Test(arguments: SpoolCompression.allCases)
  func `a blob larger than memory is hashed wherever its bytes are`(
    _ compression: SpoolCompression
  ) throws {
    let total = 48 << 20
    let piece = pattern(0..<1 << 20)
    let right = try systemDigest((0..<total >> 20).flatMap { _ in piece })
    try withSpool(memory: 20 << 20, compression: compression) { broker, client, _ in
      for (key, expected) in [("right" as BlobKey, right), ("wrong", try other(right))] {
        var options = BlobOptions(order: .appendOnly, expect: expected)
        options.replaces = true
        let found = code {
          try client.withPublisher(key, options) { blob in
            for _ in 0..<total >> 20 { try blob.append(piece) }
          }
        }
        #expect(found == (key == "right" ? nil : .digestMismatch))
      }
      #expect(try client.info("right").digest == right)
      #expect(try client.statistics().spillCount > 0)
    }
  }

  @Test func `the broker answers others while it hashes`() throws {
    let total = 192 << 20
    try withBroker(memory: 512 << 20) { broker, client in
      var options = BlobOptions(byteCount: total)
      options.digest = .sha512
      let publisher = try client.publisher("k", options)
      let piece = pattern(0..<1 << 20)
      for start in stride(from: total - piece.count, to: 0, by: -piece.count) {
        try publisher.write(piece, at: start)
      }
      try publisher.write(Array(piece[1...]), at: 1)
      let sealed = Mutex(false)
      let thread = TestThread {
        // All of it is hashed now: the first byte was the last.
        _ = try? publisher.write([piece[0]], at: 0)
        try? publisher.seal(deadline: .never)
        sealed.withLock { $0 = true }
      }
      let others = try broker.makeClient()
      var answerCount = 0
      while !sealed.withLock({ $0 }) {
        if try others.info("k").state == .open { answerCount += 1 }
        try others.publish([1, 2, 3], as: "other", BlobOptions(replaces: true))
      }
      thread.join()
      #expect(answerCount > 20, "each a turn of the loop while the seal was waited for")
      #expect(try client.info("k").digest != nil)
    }
  }

  @Test func `a broker that ends leaves no digest half made`() async throws {
    // The drain waits for the seal; then nothing is left to hash.
    let bytes = pattern(0..<4 << 20)
    let right = try systemDigest(bytes)
    try await withBroker { broker, client in
      try await client.withPublisher("k", BlobOptions(expect: right)) { blob in
        try await blob.append(bytes)
      }
      #expect(try await client.info("k").digest == right)
      let wrong = BlobOptions(expect: try other(right))
      let found = await code {
        try await client.publish(bytes, as: "w", wrong)
      }
      #expect(found == .digestMismatch)
    }
  }

  @Test func `windows are refused before anything is written`() throws {
    try withBroker { broker, client in
      var options = BlobOptions(policy: .dropOldest)
      options.digest = .sha256
      #expect(code { _ = try client.publisher("k", options) } == .protocolViolation)
      let isThere = try client.exists("k")
      #expect(!isThere)
    }
  }
}
