// A blob as a sequence of leases: the bytes in place, in order, as they come.

import PatchbayRing
import PatchbayTypes

/// Where a sequence of chunks begins.
public enum ChunkStart: Sendable, Hashable {
  /// Byte 0.
  case start
  /// The end of the contiguous bytes from byte 0 on, at the moment of the first chunk.
  case live
  /// A position.
  case position(Int)
}

/// The bytes of a blob in order, each chunk a lease on what is there: at least one byte, at most the
/// sequence's limit, never across the edge of an extent. Ends at the end of the blob.
///
/// A chunk is looked for only when it is asked for, so a slow loop holds nobody up, and nothing piles
/// up for it. A chunk's bytes stay as long as the chunk: a loop that lets each go holds one of the
/// four leases a subscriber may have; one that keeps more is refused with `limitReached`.
///
/// Cancelling the task ends the loop with `cancelled`, closing the subscriber with `closed`; both
/// also when there are bytes. Each iterator begins anew.
public struct Chunks: AsyncSequence, Sendable {
  /// One lease of the sequence.
  public typealias Element = Lease
  /// What `next` throws.
  public typealias Failure = PatchbayError

  private let subscriber: Subscriber
  private let start: ChunkStart
  private let byteLimit: Int
  private let deadline: Deadline

  init(_ subscriber: Subscriber, _ start: ChunkStart, byteLimit: Int, _ deadline: Deadline) {
    self.subscriber = subscriber
    self.start = start
    self.byteLimit = byteLimit
    self.deadline = deadline
  }

  /// A place in the sequence. Belongs to one task.
  public struct Iterator: AsyncIteratorProtocol {
    private let chunks: Chunks
    private var position: Int?

    fileprivate init(_ chunks: Chunks) { self.chunks = chunks }

    /// The next bytes; waits until at least one is there.
    /// - Returns: nil at the end of the blob.
    /// - Throws: as `Subscriber.lease`; `cancelled`.
    public mutating func next() async throws(PatchbayError) -> Lease? {
      let at = try await startPosition()
      let lease = try await chunks.subscriber.chunk(
        at: at, byteLimit: chunks.byteLimit, deadline: chunks.deadline)
      position = lease?.range.upperBound ?? at
      return lease
    }

    /// The next bytes; waits until at least one is there.
    /// - Returns: nil at the end of the blob.
    /// - Throws: as `Subscriber.lease`; `cancelled`.
    public mutating func next(
      isolation actor: isolated (any Actor)?
    ) async throws(PatchbayError) -> Lease? {
      try await next()
    }

    private func startPosition() async throws(PatchbayError) -> Int {
      if let position { return position }
      switch chunks.start {
      case .start: return 0
      case .position(let position): return position
      case .live:
        let first = try await chunks.subscriber.writtenRanges(limit: 1).first
        return first?.lowerBound == 0 ? first?.upperBound ?? 0 : 0
      }
    }
  }

  /// Begins at the sequence's start.
  public func makeAsyncIterator() -> Iterator { Iterator(self) }
}

extension Subscriber {
  /// The blob's bytes in order, in place, as they come.
  /// - Parameters:
  ///   - start: where to begin; on a blob that is written in any order `.live` is where the first
  ///     hole begins.
  ///   - byteLimit: the most bytes of a chunk; at least 1.
  ///   - deadline: when to give up, for the whole sequence.
  public func chunks(
    from start: ChunkStart = .start, byteLimit: Int = 1 << 20, deadline: Deadline = .never
  ) -> Chunks {
    Chunks(self, start, byteLimit: max(1, byteLimit), deadline)
  }

  /// Waits until a byte stands at a position and leases what is there with it; nil at the end.
  fileprivate func chunk(
    at position: Int, byteLimit: Int, deadline: Deadline
  ) async throws(PatchbayError) -> Lease? {
    while true {
      try checkNotCancelled(position)
      switch try await find(at: position, count: byteLimit, deadline: deadline) {
      case .endOfBlob: return nil
      case .inline(let bytes):
        try countLease()
        return Lease(
          self, position..<position + min(bytes.count - position, byteLimit), inline: bytes)
      case .bytes(let extent, let end):
        if let lease = try leaseFound(extent, position..<end) { return lease }
      }
    }
  }

  /// Nil when the ring was taken before the view stood.
  private func leaseFound(
    _ extent: Extent, _ range: Range<Int>
  ) throws(PatchbayError) -> Lease? {
    try countLease()
    do throws(PatchbayError) {
      if let lease = try view(range, extent) { return lease }
    } catch {
      leaseEnded()
      throw error
    }
    leaseEnded()
    return nil
  }
}
