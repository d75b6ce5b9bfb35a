// Which granules of one chunk are taken: a bit each. Bodies go to the lowest free run that holds
// them, so a long free run stays at the end, where the reserve for the largest body is looked for.

package struct GranuleMap {
  private var taken: [UInt64]
  package let count: Int
  package private(set) var freeCount: Int
  /// Nothing below is free.
  private var lowestFree = 0
  /// Everything from here on is free.
  private var tail = 0
  /// No free run is longer.
  private var longestRun: Int

  package init(count: Int) {
    self.count = count
    freeCount = count
    longestRun = count
    taken = Array(repeating: 0, count: (count + 63) / 64)
  }

  /// Length of the free run at the end.
  package var tailCount: Int { count - tail }

  private mutating func mark(_ range: Range<Int>, taken isTaken: Bool) {
    for index in range {
      let bit: UInt64 = 1 << UInt64(index % 64)
      if isTaken { taken[index / 64] |= bit } else { taken[index / 64] &= ~bit }
    }
  }

  /// Takes the lowest free run of this length; nil when there is none.
  package mutating func take(_ length: Int) -> Range<Int>? {
    guard length > 0, length <= freeCount, length <= longestRun else { return nil }
    guard let start = search(length) else {
      longestRun = length - 1
      return nil
    }
    let range = start..<start + length
    mark(range, taken: true)
    freeCount -= length
    if lowestFree == start { lowestFree = range.upperBound }
    tail = max(tail, range.upperBound)
    return range
  }

  /// Takes this run if all of it is free.
  package mutating func occupy(_ range: Range<Int>) -> Bool {
    guard range.lowerBound >= 0, range.upperBound <= count,
      first(from: range.lowerBound, isTaken: true) >= range.upperBound
    else { return false }
    mark(range, taken: true)
    freeCount -= range.count
    tail = max(tail, range.upperBound)
    return true
  }

  /// Goes from free run to free run.
  private func search(_ length: Int) -> Int? {
    var start = first(from: lowestFree, isTaken: false)
    while start < tail {
      let end = first(from: start, isTaken: true)
      if end - start >= length { return start }
      start = first(from: end, isTaken: false)
    }
    return count - start >= length ? start : nil
  }

  package mutating func release(_ range: Range<Int>) {
    mark(range, taken: false)
    freeCount += range.count
    lowestFree = min(lowestFree, range.lowerBound)
    let start = endOfTaken(before: range.lowerBound)
    if range.upperBound == tail { tail = start }
    longestRun = max(longestRun, first(from: range.upperBound, isTaken: true) - start)
  }

  // MARK: Words of 64

  /// The first granule from here on that is taken, or that is free; `count` if there is none.
  private func first(from start: Int, isTaken: Bool) -> Int {
    guard start < count else { return count }
    let flip: UInt64 = isTaken ? 0 : .max
    var word = start / 64
    var bits = (taken[word] ^ flip) & (.max << UInt64(start % 64))
    while bits == 0 {
      word += 1
      guard word < taken.count else { return count }
      bits = taken[word] ^ flip
    }
    return min(count, word * 64 + bits.trailingZeroBitCount)
  }

  /// One behind the last taken granule below this one; 0 if there is none.
  private func endOfTaken(before end: Int) -> Int {
    var word = end / 64
    var bits = word < taken.count ? taken[word] & ~(.max << UInt64(end % 64)) : 0
    while bits == 0 {
      guard word > 0 else { return 0 }
      word -= 1
      bits = taken[word]
    }
    return word * 64 + 64 - bits.leadingZeroBitCount
  }
}
