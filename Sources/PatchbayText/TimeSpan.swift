// Durations as people type them: `250ms`, `10s`, `5m`.

/// A duration that was typed.
package struct TimeSpan: Sendable, Hashable {
  package let duration: Duration

  package init(duration: Duration) { self.duration = duration }

  private static let units: [(suffix: String, nanoseconds: Int)] = [
    ("ns", 1), ("us", 1000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000),
    ("h", 3_600_000_000_000), ("d", 86_400_000_000_000),
  ]

  /// Reads decimal digits and a unit. Nil for anything else, a number without unit included: whether
  /// seconds or milliseconds were meant should not be guessed.
  package init?(_ text: String) {
    guard let unit = Self.units.first(where: { text.hasSuffix($0.suffix) }),
      let number = wholeNumber(text.dropLast(unit.suffix.count))
    else { return nil }
    let (product, overflow) = number.multipliedReportingOverflow(by: unit.nanoseconds)
    guard !overflow else { return nil }
    duration = .nanoseconds(product)
  }
}

extension TimeSpan: CustomStringConvertible {
  /// With the largest unit that leaves a whole number: it can be typed back.
  package var description: String {
    let (seconds, attoseconds) = duration.components
    let total = seconds * 1_000_000_000 + attoseconds / 1_000_000_000
    let unit = Self.units.last { total % Int64($0.nanoseconds) == 0 }
    guard total != 0, let unit else { return "0s" }
    return "\(total / Int64(unit.nanoseconds))\(unit.suffix)"
  }
}
