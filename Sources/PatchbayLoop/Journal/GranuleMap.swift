// Which granules of one chunk are taken: a bit each. Bodies go to the lowest free run that holds
// them, so a long free run stays at the end, where the reserve for the largest body is looked for.

struct GranuleMap {
  private var taken: [UInt64]
  let count: Int
  private(set) var freeCount: Int
  /// Nothing below is free.
  private var lowestFree = 0
  /// Everything from here on is free.
  private var tail = 0
  /// No free run is longer, as far as searches have shown since the last release.
  private var longestRun: Int

  init(count: Int) {
    self.count = count
    freeCount = count
    longestRun = count
    taken = Array(repeating: 0, count: (count + 63) / 64)
  }

  /// Length of the free run at the end.
  var tailCount: Int { count - tail }

  private func isTaken(_ index: Int) -> Bool { taken[index / 64] & (1 << UInt64(index % 64)) != 0 }

  private mutating func mark(_ range: Range<Int>, taken isTaken: Bool) {
    for index in range {
      let bit: UInt64 = 1 << UInt64(index % 64)
      if isTaken { taken[index / 64] |= bit } else { taken[index / 64] &= ~bit }
    }
  }

  /// Takes the lowest free run of this length; nil when there is none.
  mutating func take(_ length: Int) -> Range<Int>? {
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

  private func search(_ length: Int) -> Int? {
    var start = lowestFree
    var at = lowestFree
    while at < tail {
      if at % 64 == 0 && taken[at / 64] == .max {
        at += 64
        start = at
      } else {
        if isTaken(at) { start = at + 1 }
        at += 1
      }
      if at - start >= length { return start }
    }
    start = min(start, tail)
    return count - start >= length ? start : nil
  }

  mutating func release(_ range: Range<Int>) {
    mark(range, taken: false)
    freeCount += range.count
    lowestFree = min(lowestFree, range.lowerBound)
    if range.upperBound == tail {
      tail = range.lowerBound
      while tail > 0 && !isTaken(tail - 1) { tail -= 1 }
    }
    longestRun = count
  }
}
