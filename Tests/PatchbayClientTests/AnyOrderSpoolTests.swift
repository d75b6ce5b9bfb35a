// Blobs in any order, larger than memory: what is written in whatever order, by however many, is read
// byte for byte, at any time.

import Glibc
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import PatchbayDigest
import Testing

@testable import Patchbay
@testable import PatchbayBroker

/// Bytes that differ from place to place, made fast: of 8 one number.
func quickBytes(_ seed: UInt64, _ range: Range<Int>) -> [UInt8] {
  [UInt8](unsafeUninitializedCapacity: range.count) { buffer, count in
    for index in 0..<range.count {
      let position = range.lowerBound + index
      var mixed = UInt64(truncatingIfNeeded: position >> 3) &* 0x9e37_79b9_7f4a_7c15 ^ seed
      mixed ^= mixed >> 31
      buffer[index] = UInt8(truncatingIfNeeded: mixed >> UInt64(8 * (position & 7)))
    }
    count = range.count
  }
}

/// What went wrong in threads; empty while nothing did.
final class Complaints: Sendable {
  private let all = Mutex<[String]>([])
  func add(_ text: String) { all.withLock { $0.append(text) } }
  var list: [String] { all.withLock { $0 } }

  /// Runs a body; what it throws is a complaint.
  func hold(_ what: String, _ body: () throws -> Void) {
    do { try body() } catch { add("\(what): \(error)") }
  }
}

/// Pieces that threads take one after the other.
final class Pieces: Sendable {
  private let left: Mutex<[Range<Int>]>

  /// A blob of this length in pieces, in a random order.
  init(of byteCount: Int, by size: Int, seed: UInt64) {
    var random = SeededRandom(seed: seed)
    let all = stride(from: 0, to: byteCount, by: size).map { $0..<min(byteCount, $0 + size) }
    left = Mutex(all.shuffled(using: &random))
  }

  func next() -> Range<Int>? { left.withLock { $0.popLast() } }
}

@Suite struct AnyOrderSpoolTests {
  private static let total = 48 << 20
  /// No divisor of an extent.
  private static let piece = 100_003

  private var options: BlobOptions {
    BlobOptions(byteCount: Self.total)
  }

  private func write(
    _ pieces: Pieces, to blob: Publisher, _ seed: UInt64, _ complaints: Complaints
  ) {
    complaints.hold("writing") {
      while let range = pieces.next() {
        try blob.write(quickBytes(seed, range), at: range.lowerBound)
      }
    }
  }

  /// Reads all of a blob in sequence.
  private func readAll(_ client: PatchbayClient, _ seed: UInt64, _ complaints: Complaints) {
    complaints.hold("reading in sequence") {
      var at = 0
      var cursor = try client.open("big", waitUntil: .after(.seconds(20))).cursor()
      while let bytes = try cursor.read(upTo: 256 << 10, deadline: .after(.seconds(120))) {
        guard bytes == quickBytes(seed, at..<at + bytes.count) else {
          return complaints.add("wrong bytes behind \(at)")
        }
        at += bytes.count
      }
      if at != Self.total { complaints.add("the end at \(at)") }
    }
  }

  /// Reads ranges at random positions, waiting for each.
  private func readRandomly(
    _ client: PatchbayClient, _ seed: UInt64, count: Int, _ complaints: Complaints
  ) {
    complaints.hold("reading at random") {
      let blob = try client.open("big", waitUntil: .after(.seconds(20)))
      var random = SeededRandom(seed: seed)
      for _ in 0..<count {
        let start = Int.random(in: 0..<Self.total, using: &random)
        let range = start..<min(Self.total, start + Int.random(in: 1...300_000, using: &random))
        guard try blob.readFully(range, deadline: .after(.seconds(120))) == quickBytes(1, range)
        else { return complaints.add("wrong bytes in \(range)") }
      }
    }
  }

  @Test(arguments: SpoolCompression.allCases)
  func `pieces that threads write in random order are exact for every reader meanwhile`(
    _ compression: SpoolCompression
  ) throws {
    try withSpool(memory: 20 << 20, compression: compression) { broker, client, _ in
      let complaints = Complaints()
      let pieces = Pieces(of: Self.total, by: Self.piece, seed: 7)
      let publisher = try client.publisher("big", options)
      let readers = try (0..<3).map { number in
        let own = try broker.makeClient()
        return TestThread {
          if number == 0 {
            self.readAll(own, 1, complaints)
          } else {
            self.readRandomly(own, UInt64(number), count: 20, complaints)
          }
        }
      }
      let writers = (0..<3).map { _ in
        TestThread { self.write(pieces, to: publisher, 1, complaints) }
      }
      for writer in writers { writer.join() }
      #expect(try publisher.missing() == [])
      try publisher.seal()
      for reader in readers { reader.join() }
      #expect(complaints.list == [])
      let statistics = try client.statistics()
      #expect(statistics.spillCount > 0 && statistics.restoreCount > 0)
      #expect(statistics.memoryByteCount <= statistics.memoryLimit)
      let late = try client.open("big")
      for start in stride(from: 0, to: Self.total, by: 1 << 20) {
        let range = start..<min(Self.total, start + 1 << 20)
        #expect(try late.readFully(range) == quickBytes(1, range), "at \(start)")
      }
      #expect(try late.writtenRanges() == [0..<Self.total])
    }
  }

  @Test func `tasks that write pieces in random order fill a blob longer than memory`() async throws
  {
    let directory = try TemporaryDirectory()
    try await Broker.withBroker(
      BrokerConfiguration(
        socketPath: directory.file("s"), memoryLimit: 20 << 20,
        spool: .directory(directory.file("spool")))
    ) { broker in
      let client = try await broker.makeClient()
      let pieces = Pieces(of: Self.total, by: Self.piece, seed: 3)
      try await client.withPublisher("big", options) { blob in
        try await withThrowingTaskGroup { group in
          for _ in 0..<8 {
            group.addTask {
              while let range = pieces.next() {
                try await blob.write(quickBytes(2, range), at: range.lowerBound)
              }
            }
          }
          try await group.waitForAll()
        }
        #expect(try await blob.missing() == [])
      }
      let late = try await client.open("big")
      var random = SeededRandom(seed: 5)
      for _ in 0..<60 {
        let start = Int.random(in: 0..<Self.total, using: &random)
        let range = start..<min(Self.total, start + Int.random(in: 1...300_000, using: &random))
        #expect(try await late.readFully(range) == quickBytes(2, range), "\(range)")
      }
    }
  }

  @Test(arguments: [WriteOrder.any, .appendOnly])
  func `one append larger than memory goes through step by step`(_ order: WriteOrder) throws {
    try withSpool(memory: 20 << 20) { broker, client, _ in
      let bytes = quickBytes(4, 0..<Self.total)
      try client.withPublisher("big", BlobOptions(order: order)) { blob in
        try blob.append(quickBytes(9, 0..<1000))
        try blob.append(bytes)
        #expect(blob.position == 1000 + Self.total)
      }
      let late = try client.open("big")
      #expect(try late.readFully(0..<1000) == quickBytes(9, 0..<1000))
      for start in stride(from: 0, to: Self.total, by: 1 << 20) {
        let part = try late.readFully(1000 + start..<1000 + start + 1 << 20)
        #expect(part == Array(bytes[start..<start + 1 << 20]), "at \(start)")
      }
    }
  }

  @Test func `one write larger than memory goes through, also of a task`() async throws {
    let directory = try TemporaryDirectory()
    try await Broker.withBroker(
      BrokerConfiguration(
        socketPath: directory.file("s"), memoryLimit: 20 << 20,
        spool: .directory(directory.file("spool")))
    ) { broker in
      let client = try await broker.makeClient()
      let bytes = quickBytes(6, 0..<Self.total)
      try await client.withPublisher("big", options) { blob in
        let count = try await blob.write(bytes, at: 0)
        let refusal = await code(of: { try await blob.write([1], at: 5_000_000) })
        let skipped = try await blob.write([1, 2], at: 5_000_000, skippingCovered: true)
        #expect(count == Self.total && refusal == .rangeOverlap && skipped == 0)
      }
      try await client.withPublisher("appended", BlobOptions(order: .any)) { blob in
        try await blob.append(bytes)
      }
      for key in ["big", "appended"] as [BlobKey] {
        let late = try await client.open(key)
        let end = try await late.readFully(Self.total - 100_000..<Self.total)
        #expect(end == Array(bytes[(Self.total - 100_000)...]))
      }
    }
  }

  /// Fills extents other than the first so far that the first has to leave memory.
  private func pushOut(_ blob: Publisher, from position: Int = 4 << 20) throws {
    for start in stride(from: position, to: Self.total - (1 << 20), by: 512 << 10) {
      try blob.write(quickBytes(1, start..<start + 300_000), at: start)
    }
  }

  private func scratchFiles(_ spool: String) -> [String] {
    names(in: spool).filter { $0.hasSuffix(".scratch") }
  }

  @Test
  func `what is covered of a partly covered extent is read from disk, the rest is waited for`()
    throws
  {
    try withSpool(memory: 20 << 20) { broker, client, spool in
      let publisher = try client.publisher("big", options)
      try publisher.write(quickBytes(1, 1000..<9001), at: 1000)
      let reader = try broker.makeClient().open("big")
      try pushOut(publisher)
      try eventually("the first extent has left memory") {
        self.scratchFiles(spool).contains { $0.hasSuffix("-0.scratch") }
      }
      let before = try client.statistics().restoreCount
      #expect(try reader.readFully(1000..<9001) == quickBytes(1, 1000..<9001))
      #expect(
        code(of: { _ = try reader.readFully(0..<10, deadline: .after(.milliseconds(50))) })
          == .timedOut)
      #expect(
        code(of: { _ = try reader.readFully(9000..<9002, deadline: .after(.milliseconds(50))) })
          == .timedOut)
      // Readers bring nothing back.
      #expect(try client.statistics().restoreCount == before)
      let complaints = Complaints()
      let waiting = TestThread {
        complaints.hold("waiting") {
          let bytes = try reader.readFully(8000..<12_000, deadline: .after(.seconds(60)))
          if bytes != quickBytes(1, 8000..<12_000) { complaints.add("wrong bytes") }
        }
      }
      try publisher.write(quickBytes(1, 9001..<20_000), at: 9001)
      waiting.join()
      #expect(complaints.list == [])
      #expect(try client.statistics().restoreCount == before + 1)
      #expect(try reader.writtenRanges().first == 1000..<20_000)
      #expect(code(of: { try publisher.write([1], at: 1500) }) == .rangeOverlap)
      #expect(try publisher.missing().first == 0..<1000)
      #expect(code(of: { try publisher.seal() }) == .holesAtSeal)
      publisher.close()
    }
  }

  @Test func `a damaged scratch file fails the blob, and no reader gets a wrong byte`() throws {
    try withSpool(memory: 20 << 20) { broker, client, spool in
      let publisher = try client.publisher("big", options)
      try publisher.write(quickBytes(1, 0..<200_000), at: 0)
      let reader = try broker.makeClient().open("big")
      try pushOut(publisher)
      var name = ""
      try eventually("the first extent has left memory") {
        name = self.scratchFiles(spool).first { $0.hasSuffix("-0.scratch") } ?? ""
        return !name.isEmpty
      }
      let file = Glibc.open("\(spool)/\(name)", O_RDWR)
      defer { _ = close(file) }
      var facts = stat()
      #expect(fstat(file, &facts) == 0)
      // In the second block of the data, which ends the file.
      let at = off_t(Int(facts.st_size) - 262_144 + 70_000)
      var byte: UInt8 = 0
      #expect(pread(file, &byte, 1, at) == 1)
      byte ^= 1
      #expect(pwrite(file, &byte, 1, at) == 1)
      var damaged = 0
      for start in stride(from: 0, to: 196_608, by: 4096) {
        do throws(PatchbayError) {
          #expect(try reader.readFully(start..<start + 4096) == quickBytes(1, start..<start + 4096))
        } catch {
          #expect(error.code == .corrupt)
          damaged += 1
        }
      }
      #expect(damaged == 16)
      #expect(code(of: { try publisher.write([1], at: 300_000) }) == .corrupt)
      #expect(reader.state == .failed)
      #expect(code(of: { _ = try reader.readFully(300_000..<300_001) }) == .corrupt)
      #expect(try reader.readFully(0..<4096) == quickBytes(1, 0..<4096))
    }
  }

  @Test func `publishers in several sessions fill a blob longer than memory together`() throws {
    try withSpool(memory: 20 << 20) { broker, client, _ in
      var shared = options
      shared.isJoinable = true
      let complaints = Complaints()
      let pieces = Pieces(of: Self.total, by: Self.piece, seed: 9)
      let first = try client.publisher("big", shared)
      let others = try (0..<2).map { _ in try broker.makeClient().join("big") }
      let writers = ([first] + others).map { publisher in
        TestThread { self.write(pieces, to: publisher, 1, complaints) }
      }
      for writer in writers { writer.join() }
      #expect(complaints.list == [])
      #expect(try first.missing() == [])
      for other in others { try other.leave() }
      try first.seal()
      self.readAll(client, 1, complaints)
      #expect(complaints.list == [])
    }
  }

  @Test func `loans and batches keep their extents, and what surrounds them goes on`() throws {
    try withSpool(memory: 20 << 20) { broker, client, _ in
      let publisher = try client.publisher("big", options)
      var loan = try publisher.loan(byteCount: 100_000)
      try pushOut(publisher)
      loan.withBytes { (place: inout MutableSpan<UInt8>) in
        let bytes = quickBytes(1, 0..<place.count)
        for index in place.indices { place[index] = bytes[index] }
      }
      let count = loan.byteCount
      loan.commit(byteCount: count)
      try publisher.withBatch {
        // Over more extents than this publisher may have.
        while publisher.position < 4 << 20 {
          let range = publisher.position..<min(4 << 20, publisher.position + 70_000)
          try publisher.append(quickBytes(1, range))
        }
      }
      let reader = try client.open("big")
      #expect(try reader.readFully(0..<4 << 20) == quickBytes(1, 0..<4 << 20))
      publisher.close()
    }
  }

  @Test func `a loan where an extent is full and on disk is refused`() throws {
    try withSpool(memory: 20 << 20) { broker, client, _ in
      let publisher = try client.publisher("big", options)
      for start in stride(from: 0, to: 40 << 20, by: 1 << 20) {
        try publisher.write(quickBytes(1, start..<start + 1 << 20), at: start)
      }
      let said = Complaints()
      let thread = TestThread {
        said.hold("loan") { _ = try publisher.loan(byteCount: 10) }
      }
      try eventually("the loan is answered") { !said.list.isEmpty }
      publisher.close()
      thread.join()
    }
  }

  @Test(arguments: [3 as UInt64, 4, 5])
  func `a digest takes in what is in memory, in the container and in scratch files`(seed: UInt64)
    throws
  {
    let whole = quickBytes(1, 0..<Self.total)
    var state = DigestState(.sha256)
    state.update(whole[...])
    let right = state.digest
    try withSpool(memory: 20 << 20) { broker, client, _ in
      var options = BlobOptions(byteCount: Self.total, expect: right)
      options.replaces = true
      let publisher = try client.publisher("big", options)
      let pieces = Pieces(of: Self.total, by: Self.piece, seed: seed)
      while let range = pieces.next() {
        try publisher.write(Array(whole[range]), at: range.lowerBound)
      }
      try publisher.seal(deadline: .after(.seconds(60)))
      #expect(try client.info("big").digest == right)
    }
  }

  @Test func `a length beyond memory and disk together is refused at once`() throws {
    try withSpool(memory: 20 << 20, limit: 64 << 20) { _, client, _ in
      #expect(
        code(of: { _ = try client.publisher("huge", BlobOptions(byteCount: 1 << 30)) })
          == .noSpaceSpool)
    }
  }
}

/// What becomes of such a blob when it fails.
@Suite struct AnyOrderResumeTests {
  private static let total = 48 << 20
  private static let piece = 200_003

  private func written(_ seed: UInt64) -> [Range<Int>] {
    let pieces = Pieces(of: Self.total, by: Self.piece, seed: seed)
    return (0..<150).compactMap { _ in pieces.next() }
  }

  @Test func `a failed blob larger than memory is resumed with all that was covered`() throws {
    try withSpool(memory: 20 << 20) { broker, client, spool in
      let first = try client.publisher("big", BlobOptions(byteCount: Self.total))
      let ranges = written(5)
      for range in ranges { try first.write(quickBytes(1, range), at: range.lowerBound) }
      let reader = try broker.makeClient().open("big")
      try first.fail("enough")
      var options = BlobOptions(byteCount: Self.total)
      options.resumes = true
      let second = try client.publisher("big", options)
      let missing = try second.missing()
      let covered = ranges.reduce(0) { $0 + $1.count }
      #expect(missing.reduce(0) { $0 + $1.count } == Self.total - covered)
      // The old generation's reader has what was covered, and sees nothing new.
      for range in ranges { #expect(try reader.readFully(range) == quickBytes(1, range)) }
      for range in missing { try second.write(quickBytes(1, range), at: range.lowerBound) }
      let hole = try #require(missing.first).lowerBound
      #expect(code(of: { _ = try reader.readFully(hole..<hole + 1) }) == .blobFailed)
      reader.close()
      try second.seal()
      let late = try client.open("big")
      for start in stride(from: 0, to: Self.total, by: 1 << 20) {
        let range = start..<min(Self.total, start + 1 << 20)
        #expect(try late.readFully(range) == quickBytes(1, range), "at \(start)")
      }
      try eventually("the files of the old generation are gone") {
        let info = try client.info("big")
        return try client.statistics().spoolByteCount == UInt64(info.spilledByteCount)
      }
    }
  }

  @Test func `a blob in any order that outlives its broker is whole in the next one`() throws {
    let directory = try TemporaryDirectory()
    let configuration = BrokerConfiguration(
      socketPath: directory.file("s"), memoryLimit: 20 << 20,
      spool: .directory(directory.file("spool")))
    // Of unknown length: the last extent is never full.
    let length = Self.total - 123_457
    try Broker.withBroker(configuration) { broker in
      let client = try broker.makeClient()
      var options = BlobOptions()
      options.acknowledgement = .retained
      let pieces = Pieces(of: length, by: Self.piece, seed: 8)
      try client.withPublisher("kept", options) { blob in
        while let range = pieces.next() {
          try blob.write(quickBytes(3, range), at: range.lowerBound)
        }
      }
    }
    try Broker.withBroker(configuration) { broker in
      let late = try broker.makeClient().open("kept")
      #expect(late.byteCount == length)
      for start in stride(from: 0, to: length, by: 1 << 20) {
        let range = start..<min(length, start + 1 << 20)
        #expect(try late.readFully(range) == quickBytes(3, range), "at \(start)")
      }
    }
  }
}
