// Reading in sequence: a subscriber with a place.

import PatchbayTypes

extension Subscriber {
  /// A cursor at a position. Any number of cursors may read one subscriber.
  public func cursor(from position: Int = 0) -> SubscriberCursor {
    SubscriberCursor(self, position)
  }
}

/// What a seek counts from.
public enum SeekOrigin: Sendable, Hashable {
  /// Byte 0.
  case start
  /// The cursor's place.
  case current
  /// The end of the blob, known once the length is.
  case end
}

/// A place in a blob that moves as it reads. Belongs to one task at a time.
public struct SubscriberCursor {
  /// The blob it reads.
  public let subscriber: Subscriber
  /// The position of the next byte.
  public internal(set) var position: Int

  init(_ subscriber: Subscriber, _ position: Int) {
    self.subscriber = subscriber
    self.position = position
  }

  /// Reads what is there, waiting until at least one byte is, and moves behind it.
  /// - Returns: how many bytes were added; nil at the end of the blob.
  /// - Throws: as `Subscriber.read`.
  @available(*, noasync)
  public mutating func read(
    into output: inout OutputSpan<UInt8>, deadline: Deadline = .never
  ) throws(PatchbayError) -> Int? {
    let count = try subscriber.read(into: &output, at: position, deadline: deadline)
    position += count ?? 0
    return count
  }

  /// Reads at most so many bytes; as the other `read`.
  /// - Throws: as `Subscriber.read`.
  @available(*, noasync)
  public mutating func read(
    upTo byteCount: Int, deadline: Deadline = .never
  ) throws(PatchbayError) -> [UInt8]? {
    let bytes = try subscriber.read(upTo: byteCount, at: position, deadline: deadline)
    position += bytes?.count ?? 0
    return bytes
  }

  /// Moves the cursor; it may stand behind the end. From `.end` it waits until the length is
  /// known: at once when it was announced, else at the seal.
  /// - Returns: the new position.
  /// - Throws: `rangeOutOfBounds` for a place before 0 (the cursor stays); from `.end` as
  ///   `Subscriber.read`.
  @available(*, noasync)
  @discardableResult
  public mutating func seek(
    to origin: SeekOrigin, offset: Int = 0, deadline: Deadline = .never
  ) throws(PatchbayError) -> Int {
    let end = origin == .end ? try subscriber.waitForByteCount(deadline: deadline) : 0
    return try move(from: origin, offset, end: end)
  }

  /// Moves to a place that is known.
  mutating func move(
    from origin: SeekOrigin, _ offset: Int, end: Int
  ) throws(PatchbayError) -> Int {
    let base =
      switch origin {
      case .start: 0
      case .current: position
      case .end: end
      }
    let (target, overflow) = base.addingReportingOverflow(offset)
    guard !overflow, target >= 0 else {
      throw PatchbayError(
        .rangeOutOfBounds, "A seek by \(offset) from \(base) would stand before byte 0.")
    }
    position = target
    return target
  }
}

extension Subscriber {
  /// Waits until the length is known: at once when it was announced, else until the seal.
  /// - Throws: as `read`.
  @available(*, noasync)
  public func waitForByteCount(deadline: Deadline = .never) throws(PatchbayError) -> Int {
    if let byteCount = try lookForByteCount() { return byteCount }
    return try wait(at: 0, deadline: deadline, lookForByteCount)
  }

  func lookForByteCount() throws(PatchbayError) -> Int? {
    if let byteCount { return byteCount }
    try checkNotEnded()
    return nil
  }

  /// Waits until the blob is sealed; its length.
  /// - Throws: as `read`.
  @available(*, noasync)
  @discardableResult
  public func waitUntilSealed(deadline: Deadline = .never) throws(PatchbayError) -> Int {
    if let length = try lookForSeal() { return length }
    return try wait(at: 0, deadline: deadline, lookForSeal)
  }

  func lookForSeal() throws(PatchbayError) -> Int? {
    if state == .sealed { return byteCount ?? 0 }
    try checkNotEnded()
    return nil
  }

  private func checkNotEnded() throws(PatchbayError) {
    switch state {
    case .failed: throw handle.failure()
    case .gone:
      throw PatchbayError(.removed, "The broker no longer holds the blob \(key) (\(generation)).")
    case .open, .suspended, .sealed: try checkNotClosed()
    }
  }
}
