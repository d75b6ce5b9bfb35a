// Whatever can wait takes one of these as its last parameter.

/// The moment at which a waiting call gives up with `timedOut`.
public struct Deadline: Sendable, Hashable {
  /// Nil: never.
  package let instant: ContinuousClock.Instant?

  /// Waits as long as it takes.
  public static let never = Deadline(instant: nil)

  /// A span from now. Zero or less: looks once and does not wait.
  public static func after(_ duration: Duration) -> Deadline {
    Deadline(instant: ContinuousClock.now + duration)
  }

  /// 30 seconds from now: how long a call waits for the broker where its caller does not say.
  public static var standard: Deadline { .after(.seconds(30)) }

  /// A moment of the continuous clock.
  public static func at(_ instant: ContinuousClock.Instant) -> Deadline {
    Deadline(instant: instant)
  }

  /// This deadline, or a span from now if that is later.
  package func atLeast(_ duration: Duration) -> Deadline {
    guard let instant else { return .never }
    return Deadline(instant: max(instant, ContinuousClock.now + duration))
  }

  /// This deadline, or a span from now if that is sooner.
  package func atMost(_ duration: Duration) -> Deadline {
    let soon = ContinuousClock.now + duration
    return Deadline(instant: instant.map { min($0, soon) } ?? soon)
  }

  /// How long is left: nil when there is no deadline, never negative.
  package var remaining: Duration? {
    instant.map { max(.zero, $0 - ContinuousClock.now) }
  }
}

extension Duration {
  /// Whole nanoseconds, capped at about 292 years.
  package var wholeNanoseconds: Int64 {
    let (seconds, attoseconds) = components
    let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    guard !overflow else { return seconds < 0 ? .min : .max }
    let (sum, sumOverflow) = product.addingReportingOverflow(attoseconds / 1_000_000_000)
    return sumOverflow ? (seconds < 0 ? .min : .max) : sum
  }
}
