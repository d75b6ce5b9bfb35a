// Where the extents of a `keep` blob begin and end. The plan is arithmetic, so broker, publisher
// and subscriber agree on it without exchanging a table, and an extent in the middle can exist
// before those in front of it.

/// The extents of one blob: the first has `first` bytes, each next one twice as many up to `limit`.
package struct ExtentPlan: Sendable, Hashable {
  /// Bytes of the first extent; a whole number of pages.
  package let first: Int
  /// The most bytes of an extent; `first` times a power of two, or `first` itself.
  package let limit: Int

  package static let page = 4096
  /// No blob is longer: positions and sizes stay far from overflow.
  @inlinable package static var positionLimit: Int { 1 << 46 }

  /// A plan that was checked.
  /// - Throws: `protocolViolation` for sizes that are not whole pages or not in ratio.
  package init(first: Int, limit: Int) throws(PatchbayError) {
    guard first >= Self.page, first % Self.page == 0, first <= Self.positionLimit,
      limit >= first, limit <= Self.positionLimit, limit % first == 0,
      (limit / first).nonzeroBitCount == 1
    else {
      throw PatchbayError(
        .protocolViolation,
        "Extents of \(first) up to \(limit) bytes were asked for; sizes are whole pages of "
          + "\(Self.page) and the largest is the first times a power of two.")
    }
    self.first = first
    self.limit = limit
  }

  private var doublingCount: Int { (limit / first).trailingZeroBitCount }
  /// Where the extents of full size begin: the sum of all smaller ones.
  private var startOfFullSize: Int { first * ((1 << doublingCount) - 1) }

  /// The extent that holds this position.
  package func index(of position: Int) -> Int {
    precondition(position >= 0)
    if position >= startOfFullSize {
      return doublingCount + (position - startOfFullSize) / limit
    }
    // first * (2^i - 1) <= position  <=>  2^i <= position / first + 1
    return (position / first + 1).bitWidth - 1 - (position / first + 1).leadingZeroBitCount
  }

  /// The positions of an extent.
  package func range(of index: Int) -> Range<Int> {
    precondition(index >= 0)
    if index >= doublingCount {
      let start = startOfFullSize + (index - doublingCount) * limit
      return start..<start + limit
    }
    let start = first * ((1 << index) - 1)
    return start..<start + first << index
  }
}
