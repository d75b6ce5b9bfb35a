// Rings that serve one blob after another: every byte is the blob's own, whoever is still reading or
// writing what was there before.

import Glibc
import PatchbaySystem
import PatchbayTestSupport
import PatchbayWire
import Synchronization
import Testing

@testable import Patchbay
@testable import PatchbayBroker

@Suite struct ReuseTests {
  private static let size = 300_000

  private func publish(_ client: PatchbayClient, _ key: BlobKey, _ seed: UInt64) throws {
    try client.withPublisher(key, BlobOptions(byteCount: Self.size)) { blob in
      for range in raggedRanges(Self.size, seed: seed) {
        try blob.write(oracleBytes(seed, range), at: range.lowerBound)
      }
    }
  }

  private func reuses(_ client: PatchbayClient) throws -> UInt64 {
    try client.statistics().reuseCount
  }

  @Test func `blob after blob in one ring, each with its own bytes and nothing of the last`() throws
  {
    try withBroker { broker, client in
      let reader = try broker.makeClient()
      for seed in 1...60 as ClosedRange<UInt64> {
        let publisher = try client.publisher("k", BlobOptions(byteCount: Self.size))
        let subscriber = try reader.open("k")
        #expect(try subscriber.writtenRanges() == [], "bytes of use \(seed - 1) are covered")
        #expect(try publisher.missing() == [0..<Self.size])
        for range in raggedRanges(Self.size, seed: seed) {
          try publisher.write(oracleBytes(seed, range), at: range.lowerBound)
        }
        try publisher.seal()
        let bytes = try subscriber.readFully(0..<Self.size)
        #expect(firstWrong(bytes.span, seed, at: 0) == nil, "use \(seed)")
        subscriber.close()
        try client.remove("k")
      }
      #expect(try reuses(client) >= 55)
    }
  }

  @Test func `windows and appended blobs reuse rings, marks and all`() throws {
    try withBroker { broker, client in
      for seed in 1...30 as ClosedRange<UInt64> {
        for policy in [.keep, .dropOldest] as [FlowPolicy] {
          var options = BlobOptions(policy: policy)
          options.order = .appendOnly
          let publisher = try client.publisher("k", options)
          let subscriber = try client.open("k")
          var early = try client.open("k").cursor(from: .live)
          #expect(code { _ = try early.read(upTo: 1, deadline: .after(.zero)) } == .timedOut)
          try publisher.append(oracleBytes(seed, 0..<50_000))
          try publisher.mark()
          try publisher.append(oracleBytes(seed, 50_000..<60_000))
          var live = try client.open("k").cursor(from: .live)
          #expect(try live.read(upTo: 1).map { $0 == oracleBytes(seed, 50_000..<50_001) } == true)
          try publisher.seal()
          let bytes = try subscriber.readFully(0..<60_000)
          #expect(firstWrong(bytes.span, seed, at: 0) == nil)
          subscriber.close()
          try client.remove("k")
        }
      }
      #expect(try reuses(client) >= 40)
    }
  }

  @Test func `a loan that outlives its failed blob keeps the ring from the next one`() throws {
    try withBroker { broker, client in
      let other = try broker.makeClient()
      let publisher = try client.publisher("k", BlobOptions(byteCount: Self.size))
      var loan = try publisher.loan(byteCount: 1000)
      try publisher.fail("no more")
      try other.remove("k")
      for seed in 1...3 as ClosedRange<UInt64> {
        try publish(other, "next", seed)
        loan.withBytes { (place: inout MutableSpan<UInt8>) in
          for index in place.indices { place[index] = 0xee }
        }
        let bytes = try other.open("next").readFully(0..<Self.size)
        #expect(firstWrong(bytes.span, seed, at: 0) == nil)
        try other.remove("next")
      }
      let held = try other.statistics()
      loan.commit(byteCount: 1000)
      try eventually("the ring comes back") {
        // What is posted without waiting for an answer is sent with whatever follows.
        _ = try client.ping()
        return try other.statistics().poolByteCount > held.poolByteCount
      }
    }
  }

  /// Opens a blob for reading.
  /// - Parameter isForeign: as a process of another user: through descriptors.
  private func open(
    _ key: BlobKey, _ client: PatchbayClient, isForeign: Bool
  ) throws -> Subscriber {
    guard isForeign else { return try client.open(key) }
    let request = OpenRequest(key: key, waits: false, observes: false)
    let delivery = try client.session.connection.call(.open(request), deadline: .standard)
    guard case .opened(var grant) = delivery.reply else { throw HarnessError("not opened") }
    grant.isForeign = true
    return Subscriber(
      try BlobHandle(
        client.session, key: key, grant: grant, delivery, isWritable: false, deadline: .standard))
  }

  @Test(arguments: [false, true])
  func `a reader whose handle is closed under it gets its own bytes or none`(
    isForeign: Bool
  ) throws {
    try withBroker { broker, client in
      let reader = try broker.makeClient()
      let wrong = Atomic<Int>(0)
      let right = Atomic<Int>(0)
      for seed in 1...60 as ClosedRange<UInt64> {
        try publish(client, "k", seed)
        let subscriber = try open("k", reader, isForeign: isForeign)
        _ = try subscriber.readFully(0..<1)
        let reading = TestThread {
          let last = code {
            while let bytes = try subscriber.read(upTo: Self.size, at: 0), !bytes.isEmpty {
              // relaxed (all): counts of the test.
              if firstWrong(bytes.span, seed, at: 0) != nil { wrong.add(1, ordering: .relaxed) }
              // relaxed: as above.
              right.add(1, ordering: .relaxed)
            }
          }
          // relaxed: as above.
          if last != .closed { wrong.add(1, ordering: .relaxed) }
        }
        // relaxed: as above.
        let before = right.load(ordering: .relaxed)
        try eventually("it reads") {
          // relaxed: as above.
          right.load(ordering: .relaxed) > before
        }
        subscriber.close()
        try client.remove("k")
        try publish(client, "other", seed + 1000)
        reading.join()
        try client.remove("other")
      }
      // relaxed: the threads have ended.
      #expect(wrong.load(ordering: .relaxed) == 0)
      #expect(try reuses(client) > 0)
    }
  }

  /// A blob for which the pool has to go.
  private func filling(_ client: PatchbayClient) throws -> BlobOptions {
    let statistics = try client.statistics()
    let free = Int(statistics.memoryLimit - statistics.memoryByteCount) / 4096 * 4096
    return BlobOptions(byteCount: free, order: .appendOnly)
  }

  /// What a look has found is taken when the handle is closed and the ring has its next use, or when
  /// nobody took the ring and its memory was given back.
  @Test(arguments: [false, true], [false, true])
  func `what was found before the handle was closed is not taken after it`(
    isForeign: Bool, isReused: Bool
  ) throws {
    try withBroker(memory: 64 << 20) { broker, client in
      let reader = try broker.makeClient()
      try publish(client, "k", 7)
      let subscriber = try open("k", reader, isForeign: isForeign)
      let found = try #require(
        try subscriber.look(at: 0, count: Self.size, deadline: .standard))
      let ring = subscriber.handle.grant.extent?.ringID
      subscriber.close()
      _ = try reader.ping()
      try client.remove("k")
      if isReused {
        let next = try client.publisher("next", BlobOptions(byteCount: Self.size))
        #expect(next.handle.grant.extent?.ringID == ring)
        try next.write(oracleBytes(8, 0..<Self.size), at: 0)
        try next.seal()
      } else {
        #expect(try client.statistics().poolByteCount > 0)
        _ = try client.publisher("next", filling(client))
        #expect(try client.statistics().poolByteCount == 0)
      }
      var taken: Int?
      let error = code {
        _ = try [UInt8](capacity: Self.size) { (output) throws(PatchbayError) in
          taken = try subscriber.take(found, at: 0, into: &output)
        }
      }
      #expect(taken == nil && (error == .closed || error == nil && !isForeign))
      #expect(code { _ = try subscriber.read(upTo: 1, at: 0) } == .closed)
      #expect(code { _ = try subscriber.writtenRanges() } == .closed)
    }
  }

  @Test func `a copy to a descriptor holds the rings until it has ended, closed or not`() throws {
    try withBroker { broker, client in
      let reader = try broker.makeClient()
      try publish(client, "k", 7)
      let subscriber = try reader.open("k")
      var ends: [Int32] = [0, 0]
      try #require(pipe(&ends) == 0)
      let (output, input) = (ends[0], ends[1])
      let copying = TestThread {
        _ = try? subscriber.copy(to: input)
        Glibc.close(input)
      }
      var bytes = [UInt8](repeating: 0, count: 1)
      // It fills the pipe and waits.
      try #require(read(output, &bytes, 1) == 1)
      subscriber.close()
      try client.remove("k")
      for seed in 1...3 as ClosedRange<UInt64> {
        try publish(client, "other", seed)
        try client.remove("other")
      }
      var piece = [UInt8](repeating: 0, count: 65536)
      while case let count = read(output, &piece, piece.count), count > 0 {
        bytes += piece[..<count]
      }
      copying.join()
      Glibc.close(output)
      #expect(bytes.count > 60_000 && firstWrong(bytes.span, 7, at: 0) == nil)
    }
  }

  @Test func `a lease keeps the bytes of its blob, whatever becomes of the key`() throws {
    try withBroker { broker, client in
      try publish(client, "k", 7)
      let subscriber = try client.open("k")
      let lease = try subscriber.lease(0..<Self.size)
      subscriber.close()
      try client.remove("k")
      for seed in 1...3 as ClosedRange<UInt64> {
        try publish(client, "other", seed)
        try client.remove("other")
      }
      lease.withBytes { (bytes: Span<UInt8>) in #expect(firstWrong(bytes, 7, at: 0) == nil) }
    }
  }

  @Test func `a client keeps a bounded number of mappings, however much it reads`() throws {
    try withBroker { broker, client in
      let extents = 64
      let byteCount = extents * 4096
      let keys = try (0..<RingMappings.heldLimit / extents + 5).map { try BlobKey("k\($0)") }
      var options = BlobOptions(order: .appendOnly)
      options.firstExtentByteCount = 4096
      options.extentByteLimit = 4096
      for (seed, key) in keys.enumerated() {
        try client.withPublisher(key, options) { blob in
          try blob.append(oracleBytes(UInt64(seed), 0..<byteCount))
        }
      }
      let before = try mappingCount()
      let reader = try broker.makeClient()
      let subscribers = try keys.map { try reader.open($0) }
      for round in 0..<2 {
        for (seed, subscriber) in subscribers.enumerated() {
          let bytes = try subscriber.readFully(0..<byteCount)
          #expect(firstWrong(bytes.span, UInt64(seed), at: 0) == nil, "round \(round)")
        }
      }
      #expect(try mappingCount() - before <= RingMappings.heldLimit + RingMappings.limit)
      #expect(try mappingCount() - before > RingMappings.heldLimit / 2, "they are kept, too")
    }
  }

  private func mappingCount() throws -> Int {
    try readFile("/proc/self/maps").split(separator: "\n").count { $0.contains("patchbay-") }
  }

  @Test func `a publisher that has ended tells nothing of its rings any more`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("a", BlobOptions(byteCount: Self.size))
      try publisher.write([1, 2, 3], at: 0)
      #expect(try publisher.writtenRanges(in: 0..<Self.size) == [0..<3])
      publisher.close()
      try client.remove("a")
      let next = try client.publisher("b", BlobOptions(byteCount: Self.size))
      try next.write([UInt8](repeating: 7, count: 5000), at: 50_000)
      #expect(code { _ = try publisher.writtenRanges(in: 0..<Self.size) } == .closed)
      #expect(code { _ = try publisher.missing() } == .closed)
    }
  }
}
