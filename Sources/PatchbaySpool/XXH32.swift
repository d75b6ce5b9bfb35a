// The checksum of LZ4 frames, XXH32 with seed 0, after the specification
// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md ("XXH32 Algorithm Description").
// liblz4 has one inside that it does not give out.

/// The 32-bit xxHash of some bytes.
package enum XXH32 {
  private static let prime1: UInt32 = 0x9e37_79b1
  private static let prime2: UInt32 = 0x85eb_ca77
  private static let prime3: UInt32 = 0xc2b2_ae3d
  private static let prime4: UInt32 = 0x27d4_eb2f
  private static let prime5: UInt32 = 0x1656_67b1

  package static func of(_ bytes: [UInt8]) -> UInt32 {
    unsafe bytes.withUnsafeBytes { unsafe of($0) }
  }

  @unsafe package static func of(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    var offset = 0
    var sum = prime5
    if bytes.count >= 16 {
      sum = unsafe stripes(bytes)
      offset = bytes.count & ~15
    }
    sum &+= UInt32(truncatingIfNeeded: bytes.count)
    while offset + 4 <= bytes.count {
      sum = rotate(unsafe sum &+ word(bytes, offset) &* prime3, 17) &* prime4
      offset += 4
    }
    while offset < bytes.count {
      sum = rotate(unsafe sum &+ UInt32(bytes[offset]) &* prime5, 11) &* prime1
      offset += 1
    }
    return avalanche(sum)
  }

  /// Four lanes over all whole stripes of 16 bytes, then brought together.
  @unsafe private static func stripes(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    var lane1 = prime1 &+ prime2
    var lane2 = prime2
    var lane3: UInt32 = 0
    var lane4 = 0 &- prime1
    var offset = 0
    while offset + 16 <= bytes.count {
      lane1 = unsafe round(lane1, word(bytes, offset))
      lane2 = unsafe round(lane2, word(bytes, offset + 4))
      lane3 = unsafe round(lane3, word(bytes, offset + 8))
      lane4 = unsafe round(lane4, word(bytes, offset + 12))
      offset += 16
    }
    return rotate(lane1, 1) &+ rotate(lane2, 7) &+ rotate(lane3, 12) &+ rotate(lane4, 18)
  }

  @unsafe @inline(__always)
  private static func word(_ bytes: UnsafeRawBufferPointer, _ offset: Int) -> UInt32 {
    unsafe UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
  }

  @inline(__always) private static func round(_ lane: UInt32, _ word: UInt32) -> UInt32 {
    rotate(lane &+ word &* prime2, 13) &* prime1
  }

  @inline(__always) private static func rotate(_ value: UInt32, _ count: UInt32) -> UInt32 {
    value &<< count | value &>> (32 &- count)
  }

  private static func avalanche(_ sum: UInt32) -> UInt32 {
    var sum = sum
    sum = (sum ^ sum >> 15) &* prime2
    sum = (sum ^ sum >> 13) &* prime3
    return sum ^ sum >> 16
  }
}
