// A watch for tasks: the same events, waited for without a thread.

import PatchbaySystem
import PatchbayTypes
import PatchbayWire

extension BlobEvents: AsyncSequence {
  /// One event.
  public typealias Element = BlobEvent
  /// What `next` throws.
  public typealias Failure = PatchbayError

  /// Takes the watch's events, each from where the watch is by then. Belongs to one task.
  public struct Iterator: AsyncIteratorProtocol {
    fileprivate let events: BlobEvents

    /// The next event; waits until there is one.
    /// - Returns: never nil: a watch has no end of its own.
    /// - Throws: as `BlobEvents.next`, but not `timedOut`; `cancelled`.
    public mutating func next() async throws(PatchbayError) -> BlobEvent? {
      try await events.next()
    }

    /// The next event; waits until there is one.
    /// - Throws: as the other `next`.
    public mutating func next(
      isolation actor: isolated (any Actor)?
    ) async throws(PatchbayError) -> BlobEvent? {
      try await events.next()
    }
  }

  /// Goes on where the watch is.
  public func makeAsyncIterator() -> Iterator { Iterator(events: self) }

  /// The next event; as the blocking `next`, without holding a thread.
  /// - Throws: as the blocking `next`; `cancelled`, after which the watch goes on.
  public func next(deadline: Deadline = .never) async throws(PatchbayError) -> BlobEvent {
    while true {
      guard !Task.isCancelled else {
        throw PatchbayError(.cancelled, "The task was cancelled while it watched blobs.")
      }
      if let event = try takeReady() { return event }
      try await receive(deadline: deadline)
    }
  }

  /// Takes one packet, waiting for it if need be, or looks once for a broker.
  fileprivate func receive(deadline: Deadline) async throws(PatchbayError) {
    switch try receiveOne() {
    case .packet: return
    case .nothing(let link):
      try await Courier.shared.waitUntilReady(
        link.descriptor, forReading: true, deadline: deadline, timedOut: timedOut)
      // Open until then.
      _ = link.descriptor
    case .lost:
      if let left = deadline.remaining, left <= .zero { throw timedOut }
      // Cancelled meanwhile, whoever watches looks before the next wait.
      try? await Task.sleep(for: Self.pause)
    }
  }
}

extension PatchbayClient {
  /// Watches what becomes of blobs; as the blocking `events`.
  /// - Throws: as the blocking `events`; `cancelled`.
  public func events(
    prefix: [UInt8] = [], after: EventPosition? = nil, progress: Bool = true,
    deadline: Deadline = .standard
  ) async throws(PatchbayError) -> BlobEvents {
    let request = try Self.watchRequest(prefix, after, progress)
    let events = try BlobEvents(session, Self.watcherName, request)
    while !events.hasStarted {
      guard !Task.isCancelled else { throw Connection.cancelled(session.path) }
      try await events.receive(deadline: deadline)
    }
    return events
  }
}
