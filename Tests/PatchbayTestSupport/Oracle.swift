// The content of every test blob: each byte is a function of (generation, position) and never zero,
// so a reader can tell a wrong byte, an absent byte and another life's byte from the right one.

/// The byte that belongs at a position of a generation.
@inline(__always)
package func oracleByte(_ generation: UInt64, _ position: Int) -> UInt8 {
  var mixed = UInt64(truncatingIfNeeded: position) &* 0x9e37_79b9_7f4a_7c15 ^ generation
  mixed ^= mixed >> 29
  mixed = mixed &* 0xbf58_476d_1ce4_e5b9
  mixed ^= mixed >> 32
  return UInt8(truncatingIfNeeded: mixed % 255) &+ 1
}

/// The bytes of a range.
package func oracleBytes(_ generation: UInt64, _ range: Range<Int>) -> [UInt8] {
  [UInt8](unsafeUninitializedCapacity: range.count) { buffer, count in
    for index in 0..<range.count {
      unsafe buffer[index] = oracleByte(generation, range.lowerBound + index)
    }
    count = range.count
  }
}

/// The position of the first byte that differs from the oracle, nil when all are right.
package func firstWrong(_ bytes: Span<UInt8>, _ generation: UInt64, at position: Int) -> Int? {
  for index in bytes.indices where bytes[index] != oracleByte(generation, position + index) {
    return position + index
  }
  return nil
}

/// SplitMix64: small, seeded, the same everywhere.
package struct SeededRandom: RandomNumberGenerator, Sendable {
  private var state: UInt64
  package init(seed: UInt64) { state = seed }
  package mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}
