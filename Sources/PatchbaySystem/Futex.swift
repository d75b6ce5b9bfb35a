// Sleeping on a word of shared memory, and waking whoever sleeps there. The words' meaning and the
// order of steps around these calls belong to the doorbell.

import CPatchbaySystem
import Glibc
import Synchronization

package enum Futex {
  package enum Outcome: Sendable {
    case woken
    /// The word had changed already, or a signal came: look again.
    case notAsleep
    case timedOut
  }

  /// Sleeps while the word equals `expected`, until a wake whose mask shares a bit, or the time.
  @unsafe package static func wait(
    on word: UnsafePointer<Atomic<UInt32>>, expected: UInt32, mask: UInt32, until: MonotonicTime
  ) -> Outcome {
    let result = unsafe pb_futex_wait(
      UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self), expected, mask,
      until.nanoseconds)
    return switch result {
    case 0: .woken
    case -ETIMEDOUT: .timedOut
    default: .notAsleep
    }
  }

  /// Tells the core that this thread spins.
  @inline(__always) package static func pause() { pb_pause() }

  /// Wakes every waiter whose mask shares a bit; how many there were.
  @unsafe package static func wake(
    _ word: UnsafeMutablePointer<Atomic<UInt32>>, mask: UInt32
  ) -> Int {
    let result = unsafe pb_futex_wake(
      UnsafeMutableRawPointer(word).assumingMemoryBound(to: UInt32.self), mask)
    return max(0, Int(result))
  }
}
