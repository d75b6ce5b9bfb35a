// The ranges that this process is writing right now. A write enters its range, looks what is covered,
// copies, covers, and leaves; one that overlaps an entry waits for it. So within a process a covered
// byte never changes; between processes disjoint claims see to that, which are held for longer than
// their range is in flight. Sealing and ending wait until
// the list is empty, so no mark follows a seal.

import PatchbaySystem
import PatchbayTypes
import Synchronization

final class WritesInFlight: Sendable {
  private struct State {
    var ranges: [Range<Int>] = []
    /// Nothing enters any more; the error says why.
    var closed: PatchbayError?
    /// Who waits until a range leaves.
    var line = WaitingLine()
    /// End of the highest range that was ever covered.
    var highest = 0
  }

  private let state = Mutex(State())
  private let departures = LineSignal()

  // MARK: Without waiting

  /// Enters a range if nothing in flight overlaps it and `admit` lets it.
  /// - Parameters:
  ///   - stand: called under the list's lock when the caller must wait: puts it in line.
  ///   - admit: called under the list's lock, so what it finds covered stays so and what it finds
  ///     uncovered is nobody else's.
  /// - Returns: nil when the caller must wait until a range leaves.
  func tryEnter<Admission>(
    _ range: Range<Int>, _ stand: (inout WaitingLine) -> Void,
    _ admit: () throws(PatchbayError) -> Admission
  ) throws(PatchbayError) -> Admission? {
    try state.withLock { (state) throws(PatchbayError) -> Admission? in
      if let closed = state.closed { throw closed }
      guard !state.ranges.contains(where: { $0.overlaps(range) }) else {
        stand(&state.line)
        return nil
      }
      let admission = try admit()
      state.ranges.append(range)
      return admission
    }
  }

  /// Enters the first of some ranges that nothing in flight overlaps; its place.
  /// - Parameter stand: called under the list's lock when there is none: puts the caller in line.
  func tryEnterFirst(
    of ranges: [Range<Int>], _ stand: (inout WaitingLine) -> Void
  ) throws(PatchbayError) -> Int? {
    try state.withLock { (state) throws(PatchbayError) -> Int? in
      if let closed = state.closed { throw closed }
      let free = ranges.firstIndex { range in !state.ranges.contains { $0.overlaps(range) } }
      guard let free else {
        stand(&state.line)
        return nil
      }
      state.ranges.append(ranges[free])
      return free
    }
  }

  /// Takes a range out.
  /// - Parameter end: where the covered bytes of the range end; its start when it was given up.
  func leave(_ range: Range<Int>, coveredTo end: Int) {
    let call = state.withLock { state -> WaitingLine.Call? in
      guard let index = state.ranges.firstIndex(of: range) else { return nil }
      if end > range.lowerBound { state.highest = max(state.highest, end) }
      state.ranges.swapAt(index, state.ranges.count - 1)
      state.ranges.removeLast()
      return state.line.call()
    }
    departures.wake(call)
  }

  /// Makes one entry of two that meet; the one entry.
  func join(_ first: Range<Int>, _ second: Range<Int>) -> Range<Int> {
    state.withLock { state in
      state.ranges.removeAll { $0 == first || $0 == second }
      let joined = first.lowerBound..<second.upperBound
      state.ranges.append(joined)
      return joined
    }
  }

  /// Lets nothing enter any more; whoever waits to enter gets the error.
  func refuse(_ error: PatchbayError) {
    let call = state.withLock { state in
      state.closed = error
      return state.line.call()
    }
    departures.wake(call)
  }

  /// Whether nothing is in flight; if something is, `stand` puts the caller in line.
  private func isEmpty(_ stand: (inout WaitingLine) -> Void) -> Bool {
    state.withLock { state in
      if !state.ranges.isEmpty { stand(&state.line) }
      return state.ranges.isEmpty
    }
  }

  var isIdle: Bool { state.withLock { $0.ranges.isEmpty } }

  /// Lets writes enter again, after a seal that was refused.
  func reopen() { state.withLock { $0.closed = nil } }

  /// End of the highest range that was ever covered.
  var highestEnd: Int { state.withLock { $0.highest } }

  /// Threads and tasks that wait until a range leaves.
  var waiterCount: Int { state.withLock { $0.line.count } }

  // MARK: For threads

  /// To be taken before the look that says that one must wait.
  var now: UInt32 { departures.now }

  /// Sleeps until a range leaves. The caller stands in line as a thread, and leaves it here.
  func sleep(since before: UInt32, until: MonotonicTime) throws(PatchbayError) {
    defer { state.withLock { $0.line.removeThread() } }
    guard departures.sleep(since: before, until: until) else { throw Self.timedOut }
  }

  /// Waits until nothing in flight overlaps the range, then enters it if `admit` lets it.
  func enter<Admission>(
    _ range: Range<Int>, until: MonotonicTime, _ admit: () throws(PatchbayError) -> Admission
  ) throws(PatchbayError) -> Admission {
    while true {
      let before = now
      if let admission = try tryEnter(range, { $0.addThread() }, admit) { return admission }
      try sleep(since: before, until: until)
    }
  }

  /// Lets nothing enter any more and waits until the list is empty.
  func close(_ error: PatchbayError, until: MonotonicTime) throws(PatchbayError) {
    state.withLock { $0.closed = error }
    while true {
      let before = now
      if isEmpty({ $0.addThread() }) { return }
      try sleep(since: before, until: until)
    }
  }

  // MARK: For tasks

  /// Waits until a range leaves. The caller has put the wait in line.
  func wait(_ wait: Awaited<Void>, deadline: Deadline) async throws(PatchbayError) {
    do throws(PatchbayError) {
      try await wait.value(
        until: deadline, timedOut: Self.timedOut,
        cancelled: PatchbayError(
          .cancelled,
          "The task was cancelled while it waited for another write to the same range."))
    } catch {
      state.withLock { $0.line.remove(wait) }
      throw error
    }
  }

  /// As the blocking `enter`.
  func enter<Admission>(
    _ range: Range<Int>, deadline: Deadline, _ admit: () throws(PatchbayError) -> Admission
  ) async throws(PatchbayError) -> Admission {
    while true {
      var turn: Awaited<Void>?
      if let admission = try tryEnter(range, { $0.add(&turn) }, admit) { return admission }
      if let turn { try await wait(turn, deadline: deadline) }
    }
  }

  /// As the blocking `close`.
  func close(_ error: PatchbayError, deadline: Deadline) async throws(PatchbayError) {
    state.withLock { $0.closed = error }
    while true {
      var turn: Awaited<Void>?
      if isEmpty({ $0.add(&turn) }) { return }
      if let turn { try await wait(turn, deadline: deadline) }
    }
  }

  private static let timedOut = PatchbayError(
    .timedOut, "Another write to the same range had not ended when the deadline came.")
}
