// A blob as a sequence of leases: the bytes in place, in order, as they come.

import PatchbayTypes

/// The bytes of a blob in order, each chunk a lease on what is there: at least one byte, at most the
/// sequence's limit, never across the edge of an extent. Ends at the end of the blob.
///
/// A chunk is looked for only when it is asked for, so nothing piles up for a slow loop. The loop
/// holds nobody up, except a publisher with the policy `backpressure`, which waits for it from the
/// first chunk on. Of blobs with that policy or `dropOldest` a chunk is a copy, of others the bytes
/// in place.
///
/// A chunk's bytes stay as long as the chunk: a loop that lets each go holds one of the four leases a
/// subscriber may have; one that keeps more is refused with `limitReached`.
///
/// Cancelling the task ends the loop with `cancelled`, closing the subscriber with `closed`; both
/// also when there are bytes. Each iterator begins anew.
public struct Chunks: AsyncSequence, Sendable {
  /// One lease of the sequence.
  public typealias Element = Lease
  /// What `next` throws.
  public typealias Failure = PatchbayError

  private let subscriber: Subscriber
  private let start: StartPoint
  private let byteLimit: Int
  private let deadline: Deadline

  init(_ subscriber: Subscriber, _ start: StartPoint, byteLimit: Int, _ deadline: Deadline) {
    self.subscriber = subscriber
    self.start = start
    self.byteLimit = byteLimit
    self.deadline = deadline
  }

  /// A place in the sequence. Belongs to one task.
  public struct Iterator: AsyncIteratorProtocol {
    private let chunks: Chunks
    private var position: Int?
    /// Where a publisher that waits for its subscribers sees this iterator.
    private let place: SequentialPlace?

    fileprivate init(_ chunks: Chunks) {
      self.chunks = chunks
      place = SequentialPlace(chunks.subscriber)
    }

    /// The next bytes; waits until at least one is there.
    /// - Returns: nil at the end of the blob.
    /// - Throws: as `Subscriber.lease`; `cancelled`; `overrun` when the bytes are gone, and again on
    ///   each call afterwards: go on with a new sequence at its `resumePosition`.
    public mutating func next() async throws(PatchbayError) -> Lease? {
      let at = try await startPosition()
      position = at
      do throws(PatchbayError) {
        let lease = try await chunks.subscriber.chunk(
          at: at, place, byteLimit: chunks.byteLimit, deadline: chunks.deadline)
        position = lease?.range.upperBound ?? at
        return lease
      } catch {
        place?.note(error)
        throw error
      }
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
      return try await chunks.subscriber.position(of: chunks.start, deadline: chunks.deadline)
    }
  }

  /// Begins at the sequence's start.
  public func makeAsyncIterator() -> Iterator { Iterator(self) }
}

extension Subscriber {
  /// The blob's bytes in order, in place, as they come.
  /// - Parameters:
  ///   - start: where to begin, taken at the first chunk.
  ///   - byteLimit: the most bytes of a chunk; at least 1.
  ///   - deadline: when to give up, for the whole sequence.
  public func chunks(
    from start: StartPoint = .start, byteLimit: Int = 1 << 20, deadline: Deadline = .never
  ) -> Chunks {
    Chunks(self, start, byteLimit: max(1, byteLimit), deadline)
  }

  /// Waits until a byte stands at a position and leases what is there with it; nil at the end.
  fileprivate func chunk(
    at position: Int, _ place: SequentialPlace?, byteLimit: Int, deadline: Deadline
  ) async throws(PatchbayError) -> Lease? {
    while true {
      try checkNotCancelled(position)
      try await join(place, at: position, deadline: deadline)
      let found = try await find(at: position, count: byteLimit, deadline: deadline)
      if case .endOfBlob = found { return nil }
      let range = position..<position + found.count(at: position, limit: byteLimit)
      if let lease = try lease(found, range) {
        place?.advance(to: range.upperBound)
        return lease
      }
    }
  }

  /// Nil when what was found went before it could be held.
  private func lease(_ found: Found, _ range: Range<Int>) throws(PatchbayError) -> Lease? {
    try countLease()
    do throws(PatchbayError) {
      if case .lease(let lease) = try takeLease(range, at: range.lowerBound, found) {
        return lease
      }
    } catch {
      leaseEnded()
      throw error
    }
    leaseEnded()
    return nil
  }
}
