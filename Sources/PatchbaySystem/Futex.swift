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

  /// Several words to sleep on at once, and what each must still hold.
  @safe package struct Words: ~Copyable {
    private var words: [pb_futex_word]

    /// The most words of one sleep.
    package static let limit = Int(PB_FUTEX_WORD_LIMIT)

    package init() { unsafe words = [] }

    package mutating func removeAll() { unsafe words.removeAll(keepingCapacity: true) }

    /// Adds a word, which stays where it is while this is slept on.
    @unsafe package mutating func add(_ word: UnsafePointer<Atomic<UInt32>>, expected: UInt32) {
      unsafe words.append(
        pb_futex_word(
          word: UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self), expected: expected))
    }

    /// Sleeps while each word holds what was expected, until a wake of one of them with any mask, or
    /// the time.
    package func wait(until: MonotonicTime) -> Outcome {
      switch unsafe pb_futex_wait_any(words, Int32(words.count), until.nanoseconds) {
      case 0...: .woken
      case -ETIMEDOUT: .timedOut
      default: .notAsleep
      }
    }
  }

  /// Whether this process can sleep on several words: Linux 5.16 and later, and no filter in the way.
  /// A kernel that can says of no words at all that they are too few; an older one and a filter of
  /// system calls (seccomp, as containers have it) give other errors, and would at each sleep.
  package static let canWaitForSeveral = pb_futex_wait_any(nil, 0, 0) == -EINVAL

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
