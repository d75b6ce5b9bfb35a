// What a subscriber may expect of each of its calls.

import Glibc
import Patchbay
import PatchbayTestSupport
import Synchronization
import Testing

@Suite struct SubscriberTests {
  @Test func `closing a subscriber wakes its own waiting calls`() throws {
    try withBroker { broker, client in
      let publisher = try client.publisher("k", BlobOptions(byteCount: 100))
      let reader = try broker.makeClient().open("k")
      let other = try broker.makeClient().open("k")
      let codes = Mutex<[PatchbayError.Code?]>([])
      let waiting = (0..<3).map { index in
        TestThread {
          let code = code { _ = try reader.readFully(index..<index + 1) }
          codes.withLock { $0.append(code) }
        }
      }
      let patient = TestThread {
        let bytes = try? other.readFully(0..<100)
        codes.withLock { $0.append(bytes == pattern(0..<100) ? .timedOut : nil) }
      }
      reader.close()
      for thread in waiting { thread.join() }
      #expect(codes.withLock { $0 } == [.closed, .closed, .closed])
      try publisher.append(pattern(0..<100))
      patient.join()
      // The other subscriber was not disturbed; its mark stands for the right bytes.
      #expect(codes.withLock { $0.last } == .timedOut)
      #expect(code { _ = try reader.readFully(0..<1) } == .closed)
      try publisher.seal()
    }
  }

  @Test func `a read gives what is there and ends only at the end of a sealed blob`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("k", BlobOptions(byteCount: 20_000))
      let reader = try client.open("k")
      #expect(reader.byteCount == 20_000 && reader.state == .open)
      try publisher.write(pattern(100..<200), at: 100)
      #expect(try reader.read(upTo: 1000, at: 150) == pattern(150..<200))
      #expect(code { _ = try reader.read(upTo: 1, at: 0, deadline: .after(.zero)) } == .timedOut)
      // The length is known, but the blob is not sealed: its end is not there yet.
      let early = code { _ = try reader.read(upTo: 1, at: 20_000, deadline: .after(.zero)) }
      #expect(early == .timedOut)
      try publisher.write(pattern(0..<20_000), at: 0, skippingCovered: true)
      try publisher.seal()
      #expect(try reader.read(upTo: 1, at: 20_000) == nil)
      #expect(try reader.read(upTo: 1, at: .max) == nil)
      #expect(try reader.read(upTo: 0, at: 5) == [])
      #expect(code { _ = try reader.read(upTo: 1, at: -1) } == .rangeOutOfBounds)
      #expect(code { _ = try reader.readFully(19_999..<20_001) } == .rangeOutOfBounds)
      #expect(code { _ = try reader.readFully(0..<Int.max) } == .rangeOutOfBounds)
    }
  }

  @Test func `tryRead tells bytes, not yet, and the end apart`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("k")
      let reader = try client.open("k")
      func attempt(_ position: Int) throws -> ReadOutcome {
        var outcome = ReadOutcome.wouldBlock
        _ = try [UInt8](capacity: 10) { outcome = try reader.tryRead(into: &$0, at: position) }
        return outcome
      }
      #expect(try attempt(0) == .wouldBlock)
      try publisher.append([1, 2, 3])
      #expect(try attempt(1) == .read(2))
      #expect(try attempt(3) == .wouldBlock)
      try publisher.seal()
      #expect(try attempt(3) == .endOfBlob)
    }
  }

  @Test func `a cursor seeks from the start, its place, and the end`() throws {
    try withBroker { _, client in
      try client.publish(pattern(0..<50_000), as: "k")
      var cursor = try client.open("k").cursor(from: 10)
      #expect(try cursor.read(upTo: 5) == pattern(10..<15))
      #expect(try cursor.seek(to: .current, offset: 100) == 115)
      #expect(try cursor.read(upTo: 5) == pattern(115..<120))
      #expect(try cursor.seek(to: .end, offset: -3) == 49_997)
      #expect(try cursor.read(upTo: 5) == pattern(49_997..<50_000))
      #expect(try cursor.read(upTo: 5) == nil)
      #expect(try cursor.seek(to: .start) == 0)
      #expect(code { try cursor.seek(to: .current, offset: -1) } == .rangeOutOfBounds)
      #expect(cursor.position == 0)
    }
  }

  @Test func `the end is known at once when announced, else at the seal`() throws {
    try withBroker { _, client in
      let announced = try client.publisher("a", BlobOptions(byteCount: 7))
      #expect(try client.open("a").waitForByteCount(deadline: .after(.zero)) == 7)
      let unknown = try client.publisher("u")
      let reader = try client.open("u")
      #expect(code { try _ = reader.waitForByteCount(deadline: .after(.zero)) } == .timedOut)
      try unknown.append([1])
      try unknown.seal()
      #expect(try reader.waitForByteCount() == 1)
      #expect(try reader.waitUntilSealed() == 1)
      announced.close()
      #expect(code { try client.open("a").waitUntilSealed() } == .abandoned)
    }
  }

  @Test func `leases hold their bytes beyond the subscriber's handle, four at a time`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("k", BlobOptions(byteCount: 100_000))
      let reader = try client.open("k")
      try publisher.append(pattern(0..<100_000))
      var leases = try (0..<4).map { try reader.lease($0 * 1000..<$0 * 1000 + 500) }
      #expect(code { _ = try reader.lease(0..<1) } == .limitReached)
      leases.removeFirst()
      leases.append(try reader.lease(99_000..<100_000))
      reader.close()
      try publisher.seal()
      try client.remove("k")
      for lease in leases {
        let isRight = lease.withBytes { bytes in
          bytes.count == lease.range.count
            && firstWrong(bytes, 1, at: lease.range.lowerBound) == nil
        }
        #expect(isRight)
      }
      #expect(try client.statistics().ringCount == 1, "the leases keep the ring")
      leases = []
      try eventually("the ring goes with the last lease") {
        try client.statistics().ringCount == 0
      }
    }
  }

  @Test(arguments: [0, 1, 16_384, 16_385, 70_000, 5_000_003])
  func `a whole blob is one contiguous range`(length: Int) throws {
    try withBroker { _, client in
      var options = BlobOptions(order: .appendOnly)
      options.firstExtentByteCount = 4096
      options.extentByteLimit = 1 << 20
      try client.withPublisher("chained", options) { try $0.append(pattern(0..<length)) }
      try client.publish(pattern(0..<length), as: "plain")
      for key in ["chained", "plain"] as [BlobKey] {
        let isRight = try client.open(key).withWholeBlob { bytes in
          bytes.count == length && firstWrong(bytes, 1, at: 0) == nil
        }
        #expect(isRight, "\(key)")
      }
    }
  }

  @Test func `a lease across an extent's edge is refused with the edge`() throws {
    try withBroker { _, client in
      var options = BlobOptions()
      options.firstExtentByteCount = 4096
      options.extentByteLimit = 4096
      try client.withPublisher("k", options) { try $0.append(pattern(0..<10_000)) }
      let reader = try client.open("k")
      do {
        _ = try reader.lease(4000..<5000)
        Issue.record("a lease came")
      } catch let error as PatchbayError {
        #expect(error.code == .rangeOutOfBounds && error.resumePosition == 4096)
      }
      #expect(try reader.lease(4096..<8192).range.count == 4096)
    }
  }

  @Test func `copy writes a range to a descriptor as it comes`() throws {
    try withBroker { broker, client in
      let directory = try TemporaryDirectory()
      let publisher = try client.publisher("k", BlobOptions(order: .appendOnly))
      let path = directory.file("copy")
      let reader = try broker.makeClient().open("k")
      let thread = TestThread {
        let file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        _ = try? reader.copy(to: file, from: 1000)
        _ = close(file)
      }
      for start in stride(from: 0, to: 3_000_000, by: 100_000) {
        try publisher.append(pattern(start..<start + 100_000))
      }
      try publisher.seal()
      thread.join()
      #expect(try readBytes(path) == pattern(1000..<3_000_000))
    }
  }
}
