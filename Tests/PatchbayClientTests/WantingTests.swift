// What a reader of a blob that is fetched on demand asks for, and for how long.

import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import Patchbay

@Suite struct WantingTests {
  /// One piece, of which there is as much as it is told.
  private final class Trickle: Sendable {
    private let end = Mutex(0)

    func allow(upTo position: Int) { end.withLock { $0 = position } }

    var source: RangeSource {
      RangeSource { range, publisher in
        for position in range {
          while self.end.withLock({ $0 }) <= position {
            try await Task.sleep(for: .milliseconds(1))
          }
          try await publisher.write(pattern(position..<position + 1), at: position)
        }
      }
    }
  }

  @Test(arguments: [false, true])
  func `who has what it waited for asks for it no more, though the piece is not there yet`(
    blocks: Bool
  ) async throws {
    try await withBroker { (broker, client) async throws in
      let trickle = Trickle()
      let whole = try await client.get(
        "k", ProductionOptions(BlobOptions(byteCount: 20)), orFetch: trickle.source)
      let other = try await broker.makeClient()
      let reader = try await other.open("k")
      @Sendable func read(_ range: Range<Int>) async throws -> [UInt8] {
        guard blocks else { return try await reader.readFully(range) }
        return try await FileThreads.shared.run { () throws(PatchbayError) in
          try reader.readFully(range)
        }
      }
      for position in 0..<19 {
        async let byte = read(position..<position + 1)
        try await eventually("it waits") { other.session.connection.pendingCount > 0 }
        trickle.allow(upTo: position + 1)
        #expect(try await byte == pattern(position..<position + 1))
      }
      try await eventually("it waits for nothing") { other.session.connection.pendingCount == 0 }
      trickle.allow(upTo: 20)
      #expect(try await whole.waitUntilSealed() == 20)
    }
  }

  private static let pieces = 5

  /// Pieces of 4096 bytes, one of which may fail.
  private static func source(without piece: Int? = nil) -> RangeSource {
    var source = RangeSource { range, publisher in
      guard range.lowerBound / 4096 != piece else {
        throw PatchbayError(.inputOutput, "It is down.")
      }
      try await publisher.write(pattern(range), at: range.lowerBound)
    }
    source.pieceByteCount = 4096
    return source
  }

  /// How a reader may wait for all of a blob at once.
  enum Wait: CaseIterable { case blockingSeal, seal, blockingWhole, whole }

  private func wait(
    _ wait: Wait, for reader: Subscriber, _ limit: Duration = .seconds(60)
  ) async throws -> Int {
    let end = Deadline.after(limit)
    return switch wait {
    case .seal: try await reader.waitUntilSealed(deadline: end)
    case .whole: try await reader.withWholeBlob(deadline: end) { $0.count }
    case .blockingSeal: try await onThread { try reader.waitUntilSealed(deadline: end) }
    case .blockingWhole:
      try await onThread { try reader.withWholeBlob(deadline: end) { $0.count } }
    }
  }

  private func onThread<Value: Sendable>(
    _ body: @escaping @Sendable () throws -> Value
  ) async throws -> Value {
    try await FileThreads.shared.run { Result { try body() } }.get()
  }

  @Test(arguments: Wait.allCases)
  func `who waits for all of it has all of it fetched`(_ way: Wait) async throws {
    let count = Self.pieces * 4096 - 1
    try await withBroker { (broker, client) async throws in
      let maker = try await client.get(
        "k", ProductionOptions(BlobOptions(byteCount: count)), orFetch: Self.source())
      let other = try await broker.makeClient()
      let reader = try await other.open("k")
      #expect(try await wait(way, for: reader) == count)
      #expect(try await maker.readFully(0..<count) == pattern(0..<count))
      try await eventually("it waits for nothing") { other.session.connection.pendingCount == 0 }
    }
  }

  @Test(arguments: Wait.allCases)
  func `who waits for all of it no longer asks for it no more`(_ way: Wait) async throws {
    try await withBroker { (broker, client) async throws in
      let trickle = Trickle()
      let maker = try await client.get(
        "k", ProductionOptions(BlobOptions(byteCount: 20)), orFetch: trickle.source)
      let other = try await broker.makeClient()
      let reader = try await other.open("k")
      // One of them has asked by then, on any machine.
      for _ in 0..<3 {
        let error = await #expect(throws: PatchbayError.self) {
          try await wait(way, for: reader, .milliseconds(100))
        }
        #expect(error?.code == .timedOut)
      }
      try await eventually("it waits for nothing") { other.session.connection.pendingCount == 0 }
      trickle.allow(upTo: 20)
      #expect(try await maker.waitUntilSealed() == 20)
    }
  }

  @Test(arguments: [Wait.seal, .whole])
  func `a task that waits for all of it can be cancelled, and asks for it no more`(
    _ way: Wait
  ) async throws {
    try await withBroker { (broker, client) async throws in
      let trickle = Trickle()
      let maker = try await client.get(
        "k", ProductionOptions(BlobOptions(byteCount: 20)), orFetch: trickle.source)
      let other = try await broker.makeClient()
      let reader = try await other.open("k")
      let waiting = Task { try await wait(way, for: reader) }
      try await eventually("it asks") { other.session.connection.pendingCount == 1 }
      waiting.cancel()
      let error = await #expect(throws: PatchbayError.self) { try await waiting.value }
      #expect(error?.code == .cancelled)
      try await eventually("it waits for nothing") { other.session.connection.pendingCount == 0 }
      trickle.allow(upTo: 20)
      #expect(try await maker.waitUntilSealed() == 20)
    }
  }

  @Test(arguments: Wait.allCases)
  func `who waits for all of it is told what cannot be had, and may wait again`(
    _ way: Wait
  ) async throws {
    let count = Self.pieces * 4096
    try await withBroker { (broker, client) async throws in
      let maker = try await client.get(
        "k", ProductionOptions(BlobOptions(byteCount: count)), orFetch: Self.source(without: 3))
      let other = try await broker.makeClient()
      let reader = try await other.open("k")
      for _ in 0..<2 {
        let error = await #expect(throws: PatchbayError.self) { try await wait(way, for: reader) }
        #expect(error?.code == .inputOutput && error?.cause?.contains("It is down.") == true)
      }
      #expect(maker.state == .open)
      #expect(try await reader.readFully(0..<3 * 4096) == pattern(0..<3 * 4096))
    }
  }
}
