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
}
