// Blobs larger than memory: what leaves it comes back byte for byte, to every kind of reader.

import Glibc
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import Patchbay
@testable import PatchbayBroker

@Suite struct SpoolTests {
  private static let total = 96 << 20
  private static let step = 256 << 10
  private static let short = 8 << 20

  /// Appends the oracle's bytes; each step is made from a table, since the oracle is slow.
  private func publish(
    _ client: PatchbayClient, _ key: BlobKey, _ seed: UInt64, total: Int = Self.total
  ) throws {
    var options = BlobOptions(order: .appendOnly)
    options.order = .appendOnly
    try client.withPublisher(key, options) { blob in
      for start in stride(from: 0, to: total, by: Self.step) {
        try blob.append(bytes(seed, start..<min(total, start + Self.step)))
      }
    }
  }

  /// Bytes that differ from place to place, made faster than the oracle's: of 8 one number.
  private func bytes(_ seed: UInt64, _ range: Range<Int>) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: range.count) { buffer, count in
      for index in 0..<range.count {
        let position = range.lowerBound + index
        var mixed = UInt64(truncatingIfNeeded: position >> 3) &* 0x9e37_79b9_7f4a_7c15 ^ seed
        mixed ^= mixed >> 31
        unsafe buffer[index] = UInt8(truncatingIfNeeded: mixed >> UInt64(8 * (position & 7)))
      }
      count = range.count
    }
  }

  @Test(arguments: SpoolCompression.allCases)
  func `a stream four times as long as memory is read whole, at the live end and from the start`(
    _ compression: SpoolCompression
  ) throws {
    try withSpool(compression: compression) { broker, client, _ in
      let live = try broker.makeClient()
      let read = Finding()
      let thread = TestThread { read.set(self.readAll(live)) }
      try publish(client, "big", 1)
      thread.join()
      #expect(read.value == "right to \(Self.total)")
      let statistics = try client.statistics()
      #expect(statistics.spillCount > 0)
      #expect(statistics.memoryByteCount <= statistics.memoryLimit)
      let late = try broker.makeClient().open("big")
      #expect(try late.waitUntilSealed() == Self.total)
      for start in stride(from: 0, to: Self.total, by: 1 << 20) {
        let end = min(Self.total, start + 1 << 20)
        #expect(try late.readFully(start..<end) == bytes(1, start..<end), "at \(start)")
      }
      #expect(try late.writtenRanges() == [0..<Self.total])
      #expect(try client.info("big").spilledByteCount > 0)
    }
  }

  @Test func `random ranges of a blob that has left memory are exact, also for tasks`() async throws
  {
    let directory = try TemporaryDirectory()
    try await Broker.withBroker(
      BrokerConfiguration(
        socketPath: directory.file("s"), memoryLimit: 24 << 20,
        spool: .directory(directory.file("spool"), compression: .lz4))
    ) { broker in
      let client = try await broker.makeClient()
      try blocking { try publish(client, "big", 3) }
      let subscriber = try await broker.makeClient().open("big")
      var random = SeededRandom(seed: 5)
      for _ in 0..<200 {
        let start = Int.random(in: 0..<Self.total, using: &random)
        let range = start..<min(Self.total, start + Int.random(in: 1...300_000, using: &random))
        #expect(try await subscriber.readFully(range) == bytes(3, range), "\(range)")
      }
    }
  }

  /// What a reader at the live end found.
  private final class Finding: Sendable {
    private let text = Mutex("nothing")
    func set(_ found: String) { text.withLock { $0 = found } }
    var value: String { text.withLock { $0 } }
  }

  private func readAll(_ client: PatchbayClient) -> String {
    var at = 0
    do {
      var cursor = try client.open("big", waitUntil: .after(.seconds(20))).cursor()
      while let piece = try cursor.read(upTo: Self.step, deadline: .after(.seconds(60))) {
        guard piece == bytes(1, at..<at + piece.count) else { return "wrong behind \(at)" }
        at += piece.count
      }
      return "right to \(at)"
    } catch {
      return "\(error) at \(at)"
    }
  }

  private func copied(_ span: Span<UInt8>) -> [UInt8] { span.withUnsafeBytes { Array($0) } }

  private func blocking(_ body: () throws -> Void) throws { try body() }

  @Test func `leases, whole blobs and copies to descriptors do not care where bytes are`() throws {
    try withSpool { broker, client, _ in
      try publish(client, "first", 7, total: Self.short)
      let early = try client.open("first")
      // Held in place while the rest leaves memory around it.
      let lease = try early.lease(100..<5000)
      try publish(client, "big", 8)
      #expect(try client.info("first").spilledByteCount > 0)
      #expect(lease.withBytes { copied($0) } == bytes(7, 100..<5000))
      let again = try early.lease(300_000..<400_000)
      #expect(again.withBytes { copied($0) } == bytes(7, 300_000..<400_000))
      let whole: [UInt8] = try early.withWholeBlob { copied($0) }
      #expect(whole == bytes(7, 0..<Self.short))
      let place = try TemporaryDirectory()
      let file = Glibc.open(place.file("copy"), O_RDWR | O_CREAT, 0o600 as mode_t)
      defer { _ = close(file) }
      #expect(try early.copy(to: file) == Self.short)
      #expect(try readBytes(place.file("copy")) == bytes(7, 0..<Self.short))
    }
  }

  @Test func `what is damaged on disk is found, and the rest is still right`() throws {
    try withSpool { broker, client, spool in
      try publish(client, "big", 9)
      let file = try #require(names(in: spool).first { $0.hasSuffix(".part") })
      let descriptor = Glibc.open("\(spool)/\(file)", O_RDWR)
      defer { _ = close(descriptor) }
      // In the middle of the data of the third segment.
      let pitch = Self.step + 8192
      let at: off_t = off_t(65536 + 2 * pitch + 5096)
      var byte: UInt8 = 0
      #expect(pread(descriptor, &byte, 1, at) == 1)
      byte ^= 4
      #expect(pwrite(descriptor, &byte, 1, at) == 1)
      let subscriber = try client.open("big")
      var damaged: [Int] = []
      for start in stride(from: 0, to: 4 << 20, by: 64 << 10) {
        do {
          #expect(
            try subscriber.readFully(start..<start + 64 << 10)
              == bytes(9, start..<start + 64 << 10))
        } catch let error as PatchbayError {
          #expect(error.code == .corrupt)
          damaged.append(start)
        }
      }
      #expect(damaged.count <= 4)
      // The third segment has left memory, for it is older than all that fits.
      #expect(!damaged.isEmpty)
    }
  }

  @Test func `a spool that is too small is an answer to the writer, and readers go on`() throws {
    try withSpool(limit: 16 << 20) { broker, client, _ in
      var options = BlobOptions(order: .appendOnly)
      options.order = .appendOnly
      let publisher = try client.publisher("big", options)
      var position = 0
      var refusal: PatchbayError?
      while refusal == nil {
        do throws(PatchbayError) {
          try publisher.append(bytes(2, position..<position + Self.step))
          position += Self.step
        } catch {
          refusal = error
        }
      }
      #expect(refusal?.code == .noSpaceSpool)
      let reader = try client.open("big")
      #expect(position > 16 << 20)
      for start in stride(from: 0, to: position, by: 1 << 20) {
        #expect(
          try reader.readFully(start..<start + Self.step) == bytes(2, start..<start + Self.step))
      }
      publisher.close()
      reader.close()
      try client.remove("big")
      try publish(client, "small", 4, total: Self.short)
    }
  }
}
