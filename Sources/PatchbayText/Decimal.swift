// A decimal number with a unit, exactly: what does not come out whole is refused, not rounded.

/// Decimal digits with at most one point between digits, times a factor; nil for anything else, for
/// a product that is not whole, and for one beyond an `Int`.
func scaled(_ text: Substring, by factor: Int) -> Int? {
  let parts = text.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
  guard let whole = digits(parts[0]) else { return nil }
  let (product, overflow) = whole.multipliedReportingOverflow(by: factor)
  guard !overflow else { return nil }
  guard parts.count == 2 else { return product }
  guard let extra = fraction(parts[1], of: factor) else { return nil }
  let (sum, sumOverflow) = product.addingReportingOverflow(extra)
  return sumOverflow ? nil : sum
}

private func fraction(_ text: Substring, of factor: Int) -> Int? {
  guard text.utf8.count <= 9, let value = digits(text) else { return nil }
  let power = (0..<text.utf8.count).reduce(1) { power, _ in power * 10 }
  let (high, low) = factor.multipliedFullWidth(by: value)
  let (quotient, remainder) = power.dividingFullWidth((high, low))
  return remainder == 0 ? quotient : nil
}

private func digits(_ text: Substring) -> Int? {
  guard !text.isEmpty, text.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
  return Int(text)
}
