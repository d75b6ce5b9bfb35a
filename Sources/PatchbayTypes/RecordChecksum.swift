// The checksum of journal records, of their bodies and of container headers, described here and
// nowhere else.
//
// The bytes are taken as 64-bit little-endian words, the last one filled up with zeros. Beginning
// with a state made of the byte count, each word w does
//
//   state = rotate_left(state xor (w * A), 29) * B + C
//
// with odd A and B, and three rounds of shift-and-multiply spread the result. Every step is a
// bijection of the state for a given word and of the word for a given state, so two texts of one
// length that differ in a single word, and so every single flipped bit, never have the same sum.
// It guards against torn writes and bit rot, not against anybody who can compute it.

package enum RecordChecksum {
  private static let wordFactor: UInt64 = 0x9e37_79b9_7f4a_7c15
  private static let stateFactor: UInt64 = 0xc2b2_ae3d_27d4_eb4f
  private static let increment: UInt64 = 0x1656_67b1_9e37_79f9

  /// The sum of a piece of an array.
  package static func of(_ bytes: ArraySlice<UInt8>) -> UInt64 {
    unsafe bytes.withUnsafeBytes { unsafe of($0) }
  }

  package static func of(_ bytes: [UInt8]) -> UInt64 { of(bytes[...]) }

  @unsafe private static func of(_ bytes: UnsafeRawBufferPointer) -> UInt64 {
    var state = UInt64(bytes.count) &* stateFactor &+ increment
    let wholeCount = bytes.count / 8
    for index in 0..<wholeCount {
      let word = unsafe bytes.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self)
      mix(&state, UInt64(littleEndian: word))
    }
    if wholeCount * 8 < bytes.count {
      var word: UInt64 = 0
      for index in wholeCount * 8..<bytes.count {
        word |= unsafe UInt64(bytes[index]) << UInt64(index % 8 * 8)
      }
      mix(&state, word)
    }
    return spread(state)
  }

  private static func mix(_ state: inout UInt64, _ word: UInt64) {
    let mixed = state ^ (word &* wordFactor)
    state = ((mixed << 29) | (mixed >> 35)) &* stateFactor &+ increment
  }

  private static func spread(_ state: UInt64) -> UInt64 {
    var state = state
    state = (state ^ (state >> 32)) &* wordFactor
    state = (state ^ (state >> 29)) &* stateFactor
    return state ^ (state >> 32)
  }
}
