// The place of a sequential reader of a window: while it stands, the publisher of a blob with the
// policy `backpressure` does not overtake it. It tells the publisher where it is whenever it leaves a
// segment, for segments are what is given up.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

final class SequentialPlace: Sendable {
  private let subscriber: Subscriber
  /// Nil for a window of another user, which is not mapped.
  private let window: Window?
  private let sight: WindowSight?
  private let state: Mutex<State>
  /// What the table says while the place stands, else the highest number: what a reader that only
  /// goes on looks at, without the lock.
  private let standing = Atomic<Int>(.max)
  private let shift: Int

  private struct State {
    /// The entry of the client's table, while there is one.
    var entry: Int?
    /// What the table says.
    var told = 0
    /// The broker has been asked to let the publisher wait, and nothing has been lost since.
    var isJoined = false
  }

  /// Nil for a blob whose publisher waits for nobody.
  init?(_ subscriber: Subscriber) {
    guard subscriber.handle.grant.policy == .backpressure,
      let shape = subscriber.handle.windowShape
    else { return nil }
    self.subscriber = subscriber
    window = subscriber.handle.window
    sight = window?.sight
    shift = shape.segmentShift
    state = Mutex(State())
  }

  deinit {
    guard let entry = state.withLock({ $0.entry }) else { return }
    let session = subscriber.handle.session
    session.connection.post(
      .unsubscribe(SubscriptionRequest(generation: subscriber.generation, entry: entry)))
    session.table.endPosition(entry)
  }

  /// The short way of a read: when the place stands and bytes are there, copies them and tells how far
  /// it has got. Takes no lock and never waits.
  /// - Returns: how many bytes were added; 0: something is in the way, the long way tells what.
  @inline(__always)
  func read(
    into output: inout OutputSpan<UInt8>, at position: Int, _ pace: inout CursorPace
  ) -> Int {
    // relaxed: a figure of the one task that reads.
    guard position >= standing.load(ordering: .relaxed), let sight else { return 0 }
    if position >= pace.seen || output.freeCapacity > pace.seen - position {
      pace.look(at: position, sight, subscriber.patience)
    }
    let count = unsafe output.withUnsafeMutableBufferPointer { place, filled in
      let free = unsafe UnsafeMutableRawBufferPointer(
        rebasing: UnsafeMutableRawBufferPointer(place)[filled...])
      let count = unsafe sight.copy(from: position, into: free, below: pace.seen)
      guard count > 0, subscriber.isHolding else { return 0 }
      filled += count
      return count
    }
    if count > 0 { advance(to: position + count) }
    return count
  }

  /// Tells the own position before a read from it.
  /// - Returns: what the broker is to be asked first; nil: the place stands.
  func prepare(at position: Int) throws(PatchbayError) -> Request? {
    let table = subscriber.handle.session.table
    return try state.withLock { (state) throws(PatchbayError) in
      if state.isJoined {
        guard position < state.told else { return nil }
        leave(&state)
      }
      guard subscriber.state == .open else { return nil }
      if let entry = state.entry {
        table.movePosition(entry, to: position)
      } else {
        state.entry = try table.takePosition(of: subscriber.generation, at: position)
      }
      state.told = position
      return state.entry.map {
        .subscribe(SubscriptionRequest(generation: subscriber.generation, entry: $0))
      }
    }
  }

  /// Takes in that the broker has answered.
  /// - Throws: `overrun` when the publisher has passed the position already.
  func joined(at position: Int) throws(PatchbayError) {
    try subscriber.looking { () throws(PatchbayError) in
      try subscriber.handle.checkIntent(position)
    }
    state.withLock { state in
      state.isJoined = true
      // relaxed: as in `read`.
      standing.store(state.told, ordering: .relaxed)
    }
  }

  private func leave(_ state: inout State) {
    state.isJoined = false
    // relaxed: as in `read`.
    standing.store(.max, ordering: .relaxed)
  }

  /// After an overrun the publisher waits for this place no more.
  func note(_ error: PatchbayError) {
    if error.code == .overrun { state.withLock { leave(&$0) } }
  }

  /// Tells that everything below a position has been read.
  @inline(__always)
  func advance(to position: Int) {
    // relaxed: as in `read`.
    let told = standing.load(ordering: .relaxed)
    if told != .max, told >> shift == position >> shift { return }
    tell(position)
  }

  private func tell(_ position: Int) {
    let (entry, left) = state.withLock { state in
      let left = state.told >> shift..<max(state.told, position) >> shift
      if !left.isEmpty {
        state.told = position
        // relaxed: as in `read`.
        if state.isJoined { standing.store(position, ordering: .relaxed) }
      }
      return (state.entry, left)
    }
    guard let entry, !left.isEmpty else { return }
    subscriber.handle.session.table.movePosition(entry, to: position)
    subscriber.handle.spaceBell?.ring(Self.classes(left))
  }

  /// The classes of these segments.
  private static func classes(_ segments: Range<Int>) -> UInt32 {
    guard segments.count < 32 else { return .max }
    return segments.reduce(0) { $0 | 1 << UInt32(truncatingIfNeeded: $1 & 31) }
  }
}

/// What a cursor remembers from one read to the next.
struct CursorPace {
  /// A frontier of the window that this task has seen: below it bytes are read without another look,
  /// which would take the line from the publisher.
  private(set) var seen = 0
  private var moderation = Moderation()

  @inline(__always)
  mutating func look(at position: Int, _ sight: WindowSight, _ patience: SpinPatience) {
    seen = sight.currentFrontier
    guard seen &- position < Moderation.little else { return }
    if moderation.hasPaused(at: position, pays: patience.pays) { seen = sight.currentFrontier }
  }
}

extension Subscriber {
  /// Makes a place stand before a read from it. Blocks while the broker is asked; does nothing for
  /// a blob whose publisher waits for nobody.
  /// - Throws: `overrun` when the publisher has passed the position already; `limitReached`,
  ///   `timedOut`, `noBroker`, `closed`.
  func join(
    _ place: SequentialPlace?, at position: Int, deadline: Deadline
  ) throws(PatchbayError) {
    guard let place, let request = try place.prepare(at: position) else { return }
    try handle.session.perform(request, deadline: deadline.atLeast(.seconds(1)))
    try place.joined(at: position)
  }
}

extension BlobHandle {
  /// - Throws: `overrun` when the publisher has given up a position, or is about to.
  func checkIntent(_ position: Int) throws(PatchbayError) {
    if let window, window.intent > position { throw overrun(at: position, window) }
    guard let foreignWindow, try foreignWindow.intent() > position else { return }
    throw try overrun(at: position, foreignWindow)
  }

  /// The error for bytes that a window has given up.
  func overrun(at position: Int, _ window: Window) -> PatchbayError {
    let base = max(window.base, window.intent)
    let marks = window.marks
    let resume = marks.isEmpty ? base : marks.first(notBelow: base) ?? marks.newest ?? base
    return overrun(at: position, window.shape, base: base, resume: resume)
  }

  /// The same of another user's blob.
  /// - Throws: what reading its ring throws.
  func overrun(at position: Int, _ ring: ForeignRing) throws(PatchbayError) -> PatchbayError {
    let base = max(try ring.base(), try ring.intent())
    let marks = try ring.marks()
    return overrun(
      at: position, ring.window, base: base,
      resume: marks.first { $0 >= base } ?? marks.last ?? base)
  }

  private func overrun(
    at position: Int, _ shape: WindowShape?, base: Int, resume: Int
  ) -> PatchbayError {
    PatchbayError(
      .overrun,
      "Byte \(position) of the blob \(key) is gone: its window of \(shape?.ringByteCount ?? 0) bytes "
        + "begins at \(base) by now. Go on at \(resume), or read faster.",
      resumePosition: resume)
  }
}
