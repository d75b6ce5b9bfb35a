// Whatever can wait takes one of these as its last parameter.

/// The moment at which a waiting call gives up with `timedOut`.
public struct Deadline: Sendable, Hashable {
  /// Nanoseconds of the continuous clock since `epoch`; the highest number: never. One plain number,
  /// for it is handed to every read.
  @usableFromInline let nanoseconds: Int64

  @usableFromInline init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  private static let epoch = ContinuousClock.now

  private init(instant: ContinuousClock.Instant) {
    let since = Self.epoch.duration(to: instant).wholeNanoseconds
    nanoseconds = min(since, .max - 1)
  }

  /// The moment; nil: never.
  package var instant: ContinuousClock.Instant? {
    nanoseconds == .max ? nil : Self.epoch + .nanoseconds(nanoseconds)
  }

  /// Waits as long as it takes.
  @inlinable public static var never: Deadline { Deadline(nanoseconds: .max) }

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
