// Reading in sequence: a subscriber with a place.

import PatchbayTypes

/// Where reading in sequence starts.
public enum StartPoint: Sendable, Hashable {
  /// Byte 0.
  case start
  /// The last mark of the publisher, or the end of what is there in sequence if it makes none.
  case live
  /// This position.
  case position(Int)
}

extension Subscriber {
  /// A cursor at a position. Any number of cursors may read one subscriber.
  public func cursor(from position: Int = 0) -> SubscriberCursor {
    SubscriberCursor(self, position)
  }

  /// A cursor at a point that moves. Blocks only while the broker is asked for extents.
  /// - Throws: as `position(of:)`.
  @available(*, noasync)
  public func cursor(
    from start: StartPoint, deadline: Deadline = .standard
  ) throws(PatchbayError) -> SubscriberCursor {
    SubscriberCursor(self, try position(of: start, deadline: deadline))
  }

  /// The position that a starting point stands for now. Blocks only while the broker is asked for
  /// extents.
  /// - Throws: `closed`, `noBroker`, `timedOut`; `rangeOutOfBounds` for a negative position.
  @available(*, noasync)
  public func position(
    of start: StartPoint, deadline: Deadline = .standard
  ) throws(PatchbayError) -> Int {
    while true {
      switch try look(for: start) {
      case .position(let position): return position
      case .needsExtent(let index):
        try handle.attach(index, deadline: deadline, onBound: checkNotClosed)
      }
    }
  }

  /// Where a starting point is now. Asks nobody and never waits.
  func look(for start: StartPoint) throws(PatchbayError) -> BlobHandle.LiveLook {
    try checkNotClosed()
    switch start {
    case .start: return .position(0)
    case .position(let position):
      try checkPosition(position)
      return .position(position)
    case .live: return try looking(handle.lookLive)
    }
  }
}

extension BlobHandle {
  /// What a look at a starting point has to say.
  enum LiveLook {
    case position(Int)
    /// The broker has to be asked for this extent first.
    case needsExtent(Int)
  }

  /// The live end: the last mark, or the end of the contiguous bytes.
  func lookLive() throws(PatchbayError) -> LiveLook {
    if let inline = grant.inlineBytes { return .position(inline.count) }
    if let window {
      let frontier = window.frontier
      return .position(window.marks.last(notAbove: frontier) ?? window.marks.newest ?? frontier)
    }
    if let foreignWindow {
      let frontier = try foreignWindow.frontier()
      let marks = try foreignWindow.marks()
      return .position(marks.last { $0 <= frontier } ?? marks.last ?? frontier)
    }
    // Of another user's blob; of the own ones they stay where they are.
    var marks: [Int] = []
    var index = 0
    while true {
      switch knowledge(of: index) {
      case .unknown: return .needsExtent(index)
      case .known(.missing):
        let end = plan.range(of: index).lowerBound
        return grant.isForeign ? .position(marks.last { $0 <= end } ?? end) : live(at: end)
      case .known(.extent(let extent)):
        let frontier = extent.frontier
        guard extent.isStillCurrent else {
          noteEnded(extent)
          return .needsExtent(index)
        }
        guard frontier == plan.range(of: index).upperBound else {
          return live(at: min(frontier, byteCount ?? .max))
        }
        index += 1
      case .known(.spooled):
        let end = plan.range(of: index).upperBound
        if let byteCount, byteCount <= end { return live(at: byteCount) }
        index += 1
      case .known(.scratch(let part)):
        let range = plan.range(of: index)
        let end = min(part.coveredEnd(from: range.lowerBound), byteCount ?? .max)
        guard end == range.upperBound else { return live(at: end) }
        index += 1
      case .known(.foreign(let ring)):
        if index == 0 { marks = try ring.marks() }
        let frontier = try ring.frontier()
        guard try ring.isCurrent() else {
          noteEnded(ring)
          return .needsExtent(index)
        }
        guard frontier == plan.range(of: index).upperBound else {
          let end = min(frontier, byteCount ?? .max)
          return .position(marks.last { $0 <= end } ?? end)
        }
        index += 1
      }
    }
  }

  /// Marks are known as long as the first extent is in memory, which it is while the blob is open.
  private func live(at frontier: Int) -> LiveLook {
    guard let first = mappedExtents(in: 0..<1).first else { return .position(frontier) }
    let mark = first.marks.last(notAbove: frontier)
    return .position(first.isStillCurrent ? mark ?? frontier : frontier)
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

/// A place in a blob that moves as it reads. Belongs to one task at a time. A copy of it reads on its
/// own, but a publisher that waits for its subscribers sees the two as one: make another cursor
/// instead.
public struct SubscriberCursor {
  /// The blob it reads.
  public let subscriber: Subscriber
  /// The position of the next byte.
  public internal(set) var position: Int
  /// Where a publisher that waits for its subscribers sees this cursor.
  let place: SequentialPlace?
  private var pace = CursorPace()

  init(_ subscriber: Subscriber, _ position: Int) {
    self.subscriber = subscriber
    self.position = position
    place = SequentialPlace(subscriber)
  }

  /// Lets a publisher with the policy `backpressure` wait for this cursor from now on. The first read
  /// does it too; called before the publisher begins, nothing can be missed. Blocks for the broker's
  /// answer; does nothing for blobs with another policy.
  /// - Throws: `overrun` when the cursor's place has been given up already; `limitReached` for the
  ///   65th windowed blob of a client or the 1025th subscriber of a blob; `closed`, `noBroker`,
  ///   `timedOut`.
  @available(*, noasync)
  public func attach(deadline: Deadline = .standard) throws(PatchbayError) {
    try subscriber.join(place, at: position, deadline: deadline)
  }

  /// Reads what is there, waiting until at least one byte is, and moves behind it. From the first
  /// read on a publisher with the policy `backpressure` waits for this cursor.
  /// - Returns: how many bytes were added; nil at the end of the blob.
  /// - Throws: as `Subscriber.read`. After an `overrun` the cursor stays; go on with `seek` to its
  ///   `resumePosition`.
  @available(*, noasync)
  public mutating func read(
    into output: inout OutputSpan<UInt8>, deadline: Deadline = .never
  ) throws(PatchbayError) -> Int? {
    if let count = place?.read(into: &output, at: position, &pace), count > 0 {
      position += count
      return count
    }
    try subscriber.join(place, at: position, deadline: deadline)
    do throws(PatchbayError) {
      let count = try subscriber.read(into: &output, at: position, deadline: deadline)
      move(by: count ?? 0)
      return count
    } catch {
      place?.note(error)
      throw error
    }
  }

  /// Reads at most so many bytes; as the other `read`.
  /// - Throws: as `Subscriber.read`.
  @available(*, noasync)
  public mutating func read(
    upTo byteCount: Int, deadline: Deadline = .never
  ) throws(PatchbayError) -> [UInt8]? {
    try subscriber.join(place, at: position, deadline: deadline)
    do throws(PatchbayError) {
      let bytes = try subscriber.read(upTo: byteCount, at: position, deadline: deadline)
      move(by: bytes?.count ?? 0)
      return bytes
    } catch {
      place?.note(error)
      throw error
    }
  }

  mutating func move(by count: Int) {
    position += count
    place?.advance(to: position)
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

  /// Waits until the blob is sealed; its length. Of a blob that is fetched on demand all is fetched then.
  /// - Throws: as `read`.
  @available(*, noasync)
  @discardableResult
  public func waitUntilSealed(deadline: Deadline = .never) throws(PatchbayError) -> Int {
    if let length = try lookForSeal() { return length }
    let want = wantEnd()
    defer { want?.cancel() }
    return try wait(at: 0, deadline: deadline) { () throws(PatchbayError) in
      if let length = try lookForSeal() { return length }
      try want?.check()
      return nil
    }
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
