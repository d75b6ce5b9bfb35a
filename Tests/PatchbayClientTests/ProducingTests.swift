// Getting a blob or producing it, within one process: who runs, what becomes of callers and closures
// that do not behave, and what those learn that wait in other clients.

import Glibc
import Patchbay
import PatchbayBroker
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

/// What a closure notes of its runs.
private final class Notes: Sendable {
  private let noted = Mutex<[String]>([])
  var all: [String] { noted.withLock { $0 } }
  func add(_ note: String) { noted.withLock { $0.append(note) } }
}

@Suite struct ProducingTests {
  private struct Fault: Error, CustomStringConvertible {
    let description: String
  }

  /// Writes what is missing of ten bytes.
  @Sendable private static func fill(_ job: Production) async throws {
    for range in job.missing {
      try await job.publisher.write(pattern(range), at: range.lowerBound)
    }
  }

  /// A closure that goes on until its task is cancelled, as one that hangs does.
  @Sendable private static func hang() async throws {
    while true { try await Task.sleep(for: .milliseconds(1)) }
  }

  private func cause(_ subscriber: Subscriber) async -> (PatchbayError.Code?, String) {
    do throws(PatchbayError) {
      _ = try await subscriber.waitUntilSealed()
      return (nil, "")
    } catch {
      return (error.code, error.cause ?? "")
    }
  }

  // MARK: Callers

  @Test func `a caller that is cancelled, and a reader that closes, end no production`()
    async throws
  {
    try await withBroker { (broker, client) async throws in
      let other = try await broker.makeClient()
      // At once: the caller may not have its subscriber yet.
      for key in try (0..<20).map({ try BlobKey("k\($0)") }) {
        let gate = Notes()
        let caller = Task {
          let options = ProductionOptions(BlobOptions(byteCount: 10))
          let blob = try await client.get(key, options) { job in
            while gate.all.isEmpty { try await Task.sleep(for: .milliseconds(1)) }
            try await job.publisher.write(pattern(0..<10), at: 0)
          }
          _ = try await blob.readFully(0..<10)
        }
        let reader = try await other.open(key, waitUntil: .standard)
        caller.cancel()
        let outcome = await caller.result
        #expect(throws: (any Error).self) { try outcome.get() }
        gate.add("open")
        #expect(try await reader.readFully(0..<10) == pattern(0..<10))
        #expect(try await reader.waitUntilSealed() == 10)
      }
    }
  }

  @Test func `two that ask in one client read one blob, and one goes on for the other`()
    async throws
  {
    try await withBroker { (_, client) async throws in
      let options = ProductionOptions(
        BlobOptions(byteCount: 10), stallTimeout: .milliseconds(20))
      let first = try await client.get("k", options) { job in
        // The one that goes on may be fenced in its turn, however little it has to do.
        guard job.missing == [0..<10] else { return try await Self.fill(job) }
        try await job.publisher.write(pattern(0..<4), at: 0)
        try await Self.hang()
      }
      let second = try await client.get("k", options) { job in try await Self.fill(job) }
      #expect(first.generation == second.generation)
      #expect(try await first.readFully(0..<10) == pattern(0..<10))
      #expect(try await first.waitUntilSealed() == 10)
      try await client.finishProducing(deadline: .after(.seconds(20)))
    }
  }

  @Test func `who created a blob and was fenced goes on when the one after it stalls, too`()
    async throws
  {
    try await withBroker { (broker, client) async throws in
      let notes = Notes()
      let options = ProductionOptions(
        BlobOptions(byteCount: 10), stallTimeout: .milliseconds(20))
      let first = try await client.get("k", options) { job in
        notes.add("creator")
        if notes.all.contains("heir") { return try await Self.fill(job) }
        if job.missing == [0..<10] { try await job.publisher.write(pattern(0..<4), at: 0) }
        try await Self.hang()
      }
      let other = try await broker.makeClient()
      let second = try await other.get("k", options) { _ in
        notes.add("heir")
        try await Self.hang()
      }
      #expect(try await second.waitUntilSealed(deadline: .after(.seconds(20))) == 10)
      #expect(try await first.readFully(0..<10) == pattern(0..<10))
      // Where a turn was too short it comes again.
      #expect(notes.all.first == "creator" && notes.all.last == "creator", "\(notes.all)")
      #expect(notes.all.contains("heir"))
    }
  }

  @Test func `a thread's closure that was fenced is told so, and another one's blob is whole`()
    throws
  {
    try withBroker { (broker, client) throws in
      let notes = Notes()
      var options = ProductionOptions(
        BlobOptions(byteCount: 10), stallTimeout: .milliseconds(20))
      options.attempts = 3
      @Sendable func fill(_ job: Production) throws {
        for range in job.missing {
          try job.publisher.write(pattern(range), at: range.lowerBound)
        }
      }
      let first = try client.get("k", options) { job in
        // The other one may be fenced in its turn, however little it has to do.
        guard job.missing == [0..<10] else { return try fill(job) }
        try job.publisher.write(pattern(0..<4), at: 0)
        while job.isCurrent { _ = poll(nil, 0, 1) }
        do throws(PatchbayError) {
          try job.publisher.seal()
          notes.add("sealed")
        } catch {
          notes.add("\(error.code)")
          throw error
        }
      }
      // It is to be fenced while it waits, not before it has begun.
      #expect(try first.readFully(0..<4) == pattern(0..<4))
      let other = try broker.makeClient()
      let second = try other.get("k", options) { job in try fill(job) }
      #expect(try second.readFully(0..<10) == pattern(0..<10))
      #expect(try first.waitUntilSealed() == 10)
      try client.finishProducing(deadline: .after(.seconds(20)))
      #expect(notes.all == ["fenced"])
    }
  }

  // MARK: Closures

  @Test func `what a closure throws, or leaves out, is the cause that others get`() async throws {
    let ways: [(expected: String, produce: @Sendable (Production) async throws -> Void)] = [
      (
        "the render farm is on fire",
        { _ in throw Fault(description: "the render farm is on fire") }
      ),
      ("CancellationError", { _ in throw CancellationError() }),
      ("of its own", { _ in throw PatchbayError(.inputOutput, "It failed.", cause: "of its own") }),
      ("4 of 10 bytes", { job in try await job.publisher.write(pattern(0..<4), at: 0) }),
      ("by itself", { job in try await job.publisher.fail("by itself") }),
    ]
    try await withBroker { (broker, client) async throws in
      let other = try await broker.makeClient()
      for (expected, produce) in ways {
        let gate = Notes()
        let options = ProductionOptions(BlobOptions(byteCount: 10))
        let blob = try await client.get("k", options) { job in
          while gate.all.isEmpty { try await Task.sleep(for: .milliseconds(1)) }
          try await produce(job)
        }
        let waiter = try await other.get("k", options) { _ in gate.add("the other's") }
        gate.add("open")
        for reader in [blob, waiter] {
          let (code, cause) = await cause(reader)
          #expect(code == .blobFailed && cause.contains(expected), "\(cause)")
        }
        #expect(gate.all == ["open"], "a failure is no reason to go on")
      }
    }
  }

  @Test func `a closure that seals its blob itself is not cancelled for that`() async throws {
    try await withBroker { (_, client) async throws in
      for round in 0..<20 {
        let notes = Notes()
        let key = try BlobKey("k\(round)")
        let blob = try await client.get(key) { job in
          try await job.publisher.write(pattern(0..<10), at: 0)
          try await job.publisher.seal()
          for _ in 0..<10 { _ = try? await client.info(key) }
          notes.add(Task.isCancelled ? "cancelled" : "went on")
        }
        #expect(try await blob.waitUntilSealed() == 10)
        try await client.finishProducing(deadline: .after(.seconds(20)))
        #expect(notes.all == ["went on"])
      }
    }
  }

  @Test func `a closure runs again as often as it may, and not for a blob that is gone`()
    async throws
  {
    try await withBroker { (_, client) async throws in
      var options = ProductionOptions(BlobOptions(byteCount: 10))
      options.attempts = 3
      let notes = Notes()
      let blob = try await client.get("k", options) { job in
        notes.add("\(job.attempt): \(job.missing.map { "\($0)" })")
        try await job.publisher.write(pattern(job.attempt - 1..<job.attempt), at: job.attempt - 1)
        throw Fault(description: "try \(job.attempt)")
      }
      #expect(await cause(blob).1 == "try 3")
      #expect(notes.all == (1...3).map { "\($0): \(["\($0 - 1)..<10"])" })

      let runs = Notes()
      options.whenUnread = .stop
      let stopped = try await client.get("gone", options) { _ in
        runs.add("run")
        try await Self.hang()
      }
      try await eventually("it runs") { runs.all.count == 1 }
      stopped.close()
      try await client.finishProducing(deadline: .after(.seconds(20)))
      #expect(runs.all == ["run"])
    }
  }

  @Test func `who waits for readers waits no more when the blob is removed`() async throws {
    try await withBroker { (_, client) async throws in
      var options = ProductionOptions(BlobOptions(order: .appendOnly))
      options.whenUnread = .pause
      let codes = Notes()
      let blob = try await client.get("k", options) { job in
        do throws(PatchbayError) {
          while true { try await job.publisher.append(pattern(0..<10)) }
        } catch {
          codes.add("\(error.code)")
          throw error
        }
      }
      _ = try await blob.readFully(0..<10)
      blob.close()
      try await eventually("it waits") { try await client.info("k").isPaused }
      #expect(codes.all == [])
      try await client.remove("k")
      try await client.finishProducing(deadline: .standard)
      #expect(codes.all.count == 1)
    }
  }

  // MARK: From the first byte on again

  /// What a second producer appends over and behind the ten bytes of a first one, and what comes of it.
  private func goOn(
    _ broker: Broker, _ client: PatchbayClient, byteCount: Int? = nil,
    _ produce: @escaping @Sendable (Publisher) async throws -> Void
  ) async throws -> (PatchbayError.Code?, String, [UInt8]) {
    let options = ProductionOptions(
      BlobOptions(byteCount: byteCount), start: .fromZero, stallTimeout: .milliseconds(10))
    let first = try await client.get("k", options) { job in
      try await job.publisher.append(pattern(0..<10))
      try await Self.hang()
    }
    // Nobody stands by before there is something to repeat.
    #expect(try await first.readFully(0..<10) == pattern(0..<10))
    let other = try await broker.makeClient()
    let second = try await other.get("k", options) { job in try await produce(job.publisher) }
    let (code, cause) = await cause(first)
    let bytes = code == nil ? try await second.readFully(0..<(second.byteCount ?? 0)) : []
    try await client.remove("k")
    try await client.finishProducing(deadline: .after(.seconds(20)))
    return (code, cause, bytes)
  }

  @Test func `what begins again from 0 goes on where it is the same, however it is appended`()
    async throws
  {
    let directory = try TemporaryDirectory()
    let path = directory.file("bytes")
    try writeFile(path, pattern(0..<20))
    let ways: [@Sendable (Publisher) async throws -> Void] = [
      { try await $0.append(pattern(0..<20)) },
      { for at in 0..<20 { try await $0.append(pattern(at..<at + 1), expecting: at) } },
      { publisher in
        for at in stride(from: 0, to: 20, by: 4) {
          try await publisher.withBatch {
            try await publisher.append(pattern(at..<at + 1))
            try await publisher.append(pattern(at + 1..<at + 4))
          }
        }
      },
      { publisher in
        let file = open(path, O_RDONLY | O_CLOEXEC)
        defer { close(file) }
        try await publisher.append(from: file)
      },
      { publisher in
        try await publisher.append(pattern(0..<10))
        // Fenced behind its commit it runs again, and repeats that, too: there are no loans for that.
        guard try await publisher.writtenRanges(in: 0..<20) == [0..<10] else {
          return try await publisher.append(pattern(10..<20))
        }
        var loan = try await publisher.loan(byteCount: 10)
        loan.withBytes { place in
          for (index, byte) in pattern(10..<20).enumerated() { place[index] = byte }
        }
        loan.commit(byteCount: 10)
      },
    ]
    try await withBroker { (broker, client) async throws in
      for byteCount in [nil, 20] {
        for produce in ways {
          let (code, cause, bytes) = try await goOn(broker, client, byteCount: byteCount, produce)
          #expect(code == nil && bytes == pattern(0..<20), "\(cause)")
        }
      }
      let same = try await goOn(broker, client) { try await $0.append(pattern(0..<10)) }
      #expect(same.0 == nil && same.2 == pattern(0..<10))
    }
  }

  @Test func `the first byte that differs, and a missing end, fail the blob for all`() async throws
  {
    try await withBroker { (broker, client) async throws in
      for wrong in [0, 9] {
        let (code, cause, _) = try await goOn(broker, client) { publisher in
          var bytes = pattern(0..<20)
          bytes[wrong] ^= 1
          try await publisher.append(bytes)
        }
        #expect(code == .contentDiverged && cause.contains("byte \(wrong) is another"), "\(cause)")
      }
      for end in [0, 9] {
        let (code, cause, _) = try await goOn(broker, client) { publisher in
          try await publisher.append(pattern(0..<end))
        }
        #expect(code == .contentDiverged && cause.contains("ended after \(end) of the 10"))
      }
    }
  }

  @Test func `a batch of a second run repeats what the first one has covered`() async throws {
    try await withBroker { (_, client) async throws in
      var options = ProductionOptions(start: .fromZero)
      options.attempts = 2
      let blob = try await client.get("k", options) { job in
        let publisher = job.publisher
        for at in stride(from: 0, to: 100, by: 10) {
          try await publisher.withBatch { try await publisher.append(pattern(at..<at + 10)) }
          if job.attempt == 1, at == 50 { throw Fault(description: "once") }
        }
      }
      #expect(try await blob.waitUntilSealed() == 100)
      #expect(try await blob.readFully(0..<100) == pattern(0..<100))
    }
  }

  // MARK: Sources

  @Test
  func `a source that writes too little, elsewhere, or throws an error of ours fails its askers`()
    async throws
  {
    try await withBroker { (_, client) async throws in
      var source = RangeSource { range, publisher in
        switch range.lowerBound {
        case 0: try await publisher.write(pattern(0..<100), at: 0)
        case 100: break
        case 4096: throw PatchbayError(.closed, "The origin's handle is closed.")
        case 8192: try await publisher.write(pattern(12288..<16384), at: 12288)
        default: try await publisher.write(pattern(range), at: range.lowerBound)
        }
      }
      source.pieceByteCount = 4096
      source.fetchesAtOnce = 1
      var options = ProductionOptions(BlobOptions(byteCount: 20480))
      options.whenUnread = .stop
      let blob = try await client.get("k", options, orFetch: source)
      #expect(try await blob.readFully(0..<100) == pattern(0..<100))
      for (position, cause) in [
        (100, "did not write all"), (4096, "handle is closed"), (8192, "covered already"),
      ] {
        let error = await #expect(throws: PatchbayError.self) {
          _ = try await blob.readFully(position..<position + 1)
        }
        #expect(error?.code == .inputOutput, "\(error.map { "\($0)" } ?? "")")
        #expect(error?.cause?.contains(cause) == true, "\(error?.cause ?? "")")
      }
      #expect(try await blob.readFully(12288..<20480) == pattern(12288..<20480))
      #expect(
        await code { _ = try await blob.readFully(100..<101, deadline: .after(.zero)) } == .timedOut
      )
      blob.close()
      try await client.finishProducing(deadline: .after(.seconds(20)))
    }
  }
}
