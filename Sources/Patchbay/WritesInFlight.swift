// The ranges that threads of this process are writing right now. A write enters its range, looks
// what is covered, copies, covers, and leaves; one that overlaps an entry waits for it. So between
// threads a covered byte never changes; between processes disjoint claims see to that. Sealing and
// ending wait until the list is empty, so no mark follows a seal.

import PatchbaySystem
import PatchbayTypes
import Synchronization

final class WritesInFlight: Sendable {
  private struct State {
    var ranges: [Range<Int>] = []
    /// Nothing enters any more; the error says why.
    var closed: PatchbayError?
    /// Threads that sleep, or are about to, until a range leaves: without one, no wake-up call.
    var waiterCount = 0
    /// End of the highest range that was ever covered.
    var highest = 0
  }

  private let state = Mutex(State())
  /// Changes whenever a range leaves: the word that waiting writers sleep on.
  private let departures = Atomic<UInt32>(0)

  /// Waits until nothing in flight overlaps the range, then enters it if `admit` lets it.
  /// - Parameter admit: called under the list's lock, so what it finds covered stays so and what
  ///   it finds uncovered is nobody else's.
  func enter<Admission>(
    _ range: Range<Int>, until: @autoclosure () -> MonotonicTime,
    _ admit: () throws(PatchbayError) -> Admission
  ) throws(PatchbayError) -> Admission {
    // Asked for only by a write that has to wait: clocks cost more than the rest of this.
    var end: MonotonicTime?
    while true {
      // acquiring: pairs with DEPARTURE; the list itself is read under its lock.
      let before = departures.load(ordering: .acquiring)
      let admitted = try state.withLock { (state) throws(PatchbayError) -> Admission? in
        if let closed = state.closed { throw closed }
        guard !state.ranges.contains(where: { $0.overlaps(range) }) else {
          state.waiterCount += 1
          return nil
        }
        let admission = try admit()
        state.ranges.append(range)
        return admission
      }
      if let admitted { return admitted }
      let moment = end ?? until()
      end = moment
      try sleep(since: before, until: moment)
    }
  }

  /// Takes a range out.
  /// - Parameter end: where the covered bytes of the range end; its start when it was given up.
  func leave(_ range: Range<Int>, coveredTo end: Int) {
    let waiterMayExist = state.withLock { state in
      guard let index = state.ranges.firstIndex(of: range) else { return false }
      if end > range.lowerBound { state.highest = max(state.highest, end) }
      state.ranges.swapAt(index, state.ranges.count - 1)
      state.ranges.removeLast()
      return state.waiterCount > 0
    }
    guard waiterMayExist else { return }
    // releasing: the shorter list, which is read under its lock; the word only ends a sleep.
    // DEPARTURE.
    departures.wrappingAdd(1, ordering: .releasing)
    _ = unsafe departures.withWord { unsafe Futex.wake($0, mask: .max) }
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
    state.withLock { $0.closed = error }
    // releasing: the refusal is read under the lock; the word only ends a sleep. DEPARTURE.
    departures.wrappingAdd(1, ordering: .releasing)
    _ = unsafe departures.withWord { unsafe Futex.wake($0, mask: .max) }
  }

  /// Lets nothing enter any more and waits until the list is empty.
  func close(_ error: PatchbayError, until: MonotonicTime) throws(PatchbayError) {
    state.withLock { $0.closed = error }
    while true {
      // acquiring: pairs with DEPARTURE.
      let before = departures.load(ordering: .acquiring)
      let isEmpty = state.withLock { state in
        if !state.ranges.isEmpty { state.waiterCount += 1 }
        return state.ranges.isEmpty
      }
      if isEmpty { return }
      try sleep(since: before, until: until)
    }
  }

  /// Lets writes enter again, after a seal that was refused.
  func reopen() { state.withLock { $0.closed = nil } }

  /// End of the highest range that was ever covered.
  var highestEnd: Int { state.withLock { $0.highest } }

  /// Sleeps until a range leaves; the caller has counted itself among the waiters.
  private func sleep(since before: UInt32, until: MonotonicTime) throws(PatchbayError) {
    defer { state.withLock { $0.waiterCount -= 1 } }
    guard MonotonicTime.now < until else {
      throw PatchbayError(
        .timedOut, "Another write to the same range had not ended when the deadline came.")
    }
    _ = unsafe departures.withWord {
      unsafe Futex.wait(on: $0, expected: before, mask: .max, until: until)
    }
  }
}
