// How a waiter spends the time before it sleeps.

import PatchbaySystem
import PatchbayTypes
import Synchronization

/// How long a waiter looks before it sleeps: about as long as a sleep with its wake-up costs, while
/// that finds something. Longer looks take the core from others where there are more processes than
/// cores: with four readers on two cores a stream is a third faster at 5 us than at 20 us, and a round
/// trip, which takes less than that, loses nothing (`patchbay-load throughput --policy backpressure
/// --readers 4` and `latency`). When a look finds nothing, because the peer is slow or needs this very
/// core, the next waits sleep at once, twice as many after each failure; then looking is tried again,
/// since after a change of pace, or of the core, it may pay again.
package final class SpinPatience: Sendable {
  /// Waits still to be slept through at once.
  private let sleepsLeft = Atomic<Int>(0)
  /// How many that are after the next failure.
  private let penalty = Atomic<Int>(1)

  private static let limit = Duration.microseconds(5)
  private static let penaltyLimit = 256
  private static let looksPerClock = 32

  package init() {}

  /// Whether the last look was not in vain: waits are shorter than a sleep.
  package var pays: Bool {
    // relaxed (both): as in `spin`.
    sleepsLeft.load(ordering: .relaxed) == 0 && penalty.load(ordering: .relaxed) == 1
  }

  /// Looks for a bounded time.
  package func spin<Found>(
    _ look: () throws(PatchbayError) -> Found?
  ) throws(PatchbayError) -> Found? {
    // relaxed (all): figures of this process that only size the loop; threads that wait at once
    // may overwrite each other's.
    let sleeps = sleepsLeft.load(ordering: .relaxed)
    guard sleeps == 0 else {
      // relaxed: as above.
      sleepsLeft.store(sleeps - 1, ordering: .relaxed)
      return nil
    }
    let end = MonotonicTime.now.advanced(by: Self.limit)
    repeat {
      for _ in 0..<Self.looksPerClock {
        Futex.pause()
        guard let found = try look() else { continue }
        // relaxed: as above.
        penalty.store(1, ordering: .relaxed)
        return found
      }
    } while MonotonicTime.now < end
    noteFailure()
    return nil
  }

  private func noteFailure() {
    // relaxed (all): as in `spin`.
    let sleeps = penalty.load(ordering: .relaxed)
    // relaxed: as in `spin`.
    sleepsLeft.store(sleeps, ordering: .relaxed)
    // relaxed: as in `spin`.
    penalty.store(min(sleeps * 2, Self.penaltyLimit), ordering: .relaxed)
  }
}
