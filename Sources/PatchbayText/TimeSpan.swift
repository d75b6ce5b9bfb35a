// Durations as people type them: `250ms`, `10s`, `5m`.

/// A duration that was typed.
package struct TimeSpan: Sendable, Hashable {
  package let duration: Duration

  package init(duration: Duration) { self.duration = duration }

  private static let units: [(suffix: String, nanoseconds: Int)] = [
    ("ns", 1), ("us", 1000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
  ]

  /// Reads a decimal number and a unit, `1.5m` for one. Nil for anything else, a number without unit
  /// included: whether seconds or milliseconds were meant should not be guessed.
  package init?(_ text: String) {
    let unit = Self.units.last { text.hasSuffix($0.suffix) && $0.suffix.count > 1 }
    guard let unit = unit ?? Self.units.first(where: { text.hasSuffix($0.suffix) }),
      let number = scaled(text.dropLast(unit.suffix.count), by: unit.nanoseconds)
    else { return nil }
    duration = .nanoseconds(number)
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
