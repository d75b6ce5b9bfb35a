// Leaving a publisher alone for a moment.

import PatchbaySystem
import PatchbayTypes

/// Whether a sequential reader that has caught up pauses before it looks again.
///
/// A reader that is faster than its publisher and looks at every byte as it comes takes each cache
/// line out of the publisher's hands while it is being written: appends of 4 KiB then run at 8 GB/s
/// instead of 20 (`patchbay-load throughput --policy backpressure --write-size 4KiB`). A pause of
/// some microseconds lets both work on lines of their own. So both ways are tried and timed, and the
/// reader pauses as long as that makes the stream a fifth faster at least: who exchanges single
/// messages, or has a publisher with a pace of its own, loses nothing but a trial now and then.
/// Network drivers do the same with interrupts: "interrupt moderation".
package struct Moderation: Sendable {
  /// Bytes per nanosecond, as measured.
  private var rateAtOnce = 0.0
  private var ratePausing = 0.0
  /// What is done now; a trial when it is not what was chosen.
  private var isPausing = false
  private var hasChosenPausing = false
  /// Stretches until the next trial, and between the last two.
  private var untilTrial = Self.firstInterval
  private var interval = Self.firstInterval
  /// The stretch under way.
  private var looks = 0
  private var startPosition = 0
  private var start: Int64 = 0

  private static let pause = Duration.microseconds(3)
  /// A look that finds less has caught up.
  package static let little = 16 * 1024
  private static let stretchLooks = 32
  private static let stretchNanoseconds: Int64 = 50_000
  private static let firstInterval = 8
  private static let intervalLimit = 512
  private static let leastGain = 1.2

  package init() {}

  /// To be called after a look that has found little: pauses if that pays.
  /// - Parameters:
  ///   - position: how far has been read.
  ///   - pays: whether looking pays, and not only sleeping.
  /// - Returns: whether it has paused: then the caller looks once more.
  package mutating func hasPaused(at position: Int, pays: Bool) -> Bool {
    guard pays else {
      looks = 0
      return false
    }
    if looks == 0 { (start, startPosition) = (MonotonicTime.now.nanoseconds, position) }
    looks += 1
    if looks % Self.stretchLooks == 0 { endStretch(at: position) }
    if isPausing { pause() }
    return isPausing
  }

  private mutating func endStretch(at position: Int) {
    let elapsed = MonotonicTime.now.nanoseconds - start
    guard elapsed >= Self.stretchNanoseconds else { return }
    looks = 0
    let rate = Double(position - startPosition) / Double(elapsed)
    if isPausing { ratePausing = rate } else { rateAtOnce = rate }
    choose()
  }

  private mutating func choose() {
    if isPausing == hasChosenPausing {
      untilTrial -= 1
    } else {
      let choice = ratePausing > rateAtOnce * Self.leastGain
      interval =
        choice == hasChosenPausing ? min(interval * 4, Self.intervalLimit) : Self.firstInterval
      (hasChosenPausing, untilTrial) = (choice, interval)
    }
    isPausing = untilTrial == 0 ? !hasChosenPausing : hasChosenPausing
  }

  private func pause() {
    let end = MonotonicTime.now.advanced(by: Self.pause)
    repeat {
      for _ in 0..<8 { Futex.pause() }
    } while MonotonicTime.now < end
  }
}
