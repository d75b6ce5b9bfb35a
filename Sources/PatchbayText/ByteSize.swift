// Numbers of bytes as people type and read them: `4096`, `64KiB`, `1MiB`, `4GiB`.

/// A number of bytes that was typed.
package struct ByteSize: Sendable, Hashable {
  package let byteCount: Int

  package init(byteCount: Int) { self.byteCount = byteCount }

  private static let units: [(suffix: String, byteCount: Int)] = [
    ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1),
  ]

  /// Reads a decimal number with or without a unit, `1.5GiB` for one. Nil for anything else, a sign
  /// included, for what is not whole bytes, and for what does not fit.
  package init?(_ text: String) {
    let unit = Self.units.first { text.hasSuffix($0.suffix) }
    guard
      let number = scaled(
        text.dropLast(unit?.suffix.count ?? 0), by: unit?.byteCount ?? 1)
    else { return nil }
    byteCount = number
  }
}

extension ByteSize: CustomStringConvertible {
  /// With the largest unit that leaves a whole number: it can be typed back.
  package var description: String {
    guard byteCount > 0,
      let unit = Self.units.first(where: { byteCount % $0.byteCount == 0 }), unit.byteCount > 1
    else { return String(byteCount) }
    return "\(byteCount / unit.byteCount)\(unit.suffix)"
  }

  /// For reading only: the largest unit that leaves at least 1, one digit behind the point below
  /// ten.
  package var rounded: String {
    guard let unit = Self.units.first(where: { byteCount >= $0.byteCount }), unit.byteCount > 1
    else { return "\(byteCount) B" }
    let tenths = (Double(byteCount) / Double(unit.byteCount) * 10).rounded() / 10
    return tenths < 10 ? "\(tenths) \(unit.suffix)" : "\(Int(tenths.rounded())) \(unit.suffix)"
  }
}
