// The bytes that are sent: a function of the position and the seed, never zero, so that a hole, a
// byte out of place and a byte of another run all show. They repeat after a period that is no
// multiple of a page, which lets a writer take any piece from one buffer without making it first.

import CFloor
import Glibc

/// A buffer of this process that lives as long as this object; its pages are touched at once.
@safe final class PrivateBuffer {
  @unsafe let bytes: UnsafeMutableRawBufferPointer

  init(byteCount: Int) {
    let place = UnsafeMutableRawBufferPointer.allocate(
      byteCount: max(byteCount, 1), alignment: 4096)
    unsafe place.initializeMemory(as: UInt8.self, repeating: 0)
    unsafe bytes = unsafe place
  }

  deinit { unsafe bytes.deallocate() }
}

/// Predictable bytes.
struct Content {
  /// Whole cache lines, so aligned pieces stay aligned, and a prime number of them.
  static let period = 64 * 1031

  let buffer: PrivateBuffer

  /// - Parameter longest: the most bytes that are taken or compared at once.
  init(seed: UInt64, longest: Int) {
    buffer = PrivateBuffer(byteCount: Self.period + longest)
    var random = SplitMix(state: seed)
    for offset in stride(from: 0, to: Self.period, by: 8) {
      let word = random.next() | 0x0101_0101_0101_0101
      unsafe buffer.bytes.storeBytes(of: word.littleEndian, toByteOffset: offset, as: UInt64.self)
    }
    for offset in Self.period..<Self.period + longest {
      unsafe buffer.bytes[offset] = buffer.bytes[offset - Self.period]
    }
  }

  /// The bytes that stand at a range of positions, as long as the content lives.
  func withBytes<Result, Failure>(
    at position: Int, count: Int, _ body: (Span<UInt8>) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    let start = position % Self.period
    let piece = unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[start..<start + count])
    return try unsafe body(piece.bindMemory(to: UInt8.self).span)
  }

  /// The first position whose byte is wrong; nil when all are right.
  func mismatch(_ bytes: Span<UInt8>, at position: Int) -> Int? {
    let expected = unsafe buffer.bytes.baseAddress.map { unsafe $0 + position % Self.period }
    let wrong = unsafe bytes.withUnsafeBytes {
      unsafe pf_mismatch($0.baseAddress, expected, $0.count)
    }
    return wrong < 0 ? nil : position + Int(wrong)
  }

  /// The same content for the floor.
  @unsafe var forFloor: pf_content {
    unsafe pf_content(
      source: UnsafePointer(buffer.bytes.assumingMemoryBound(to: UInt8.self).baseAddress),
      period: UInt64(Self.period))
  }
}

/// A small generator with a seed, for reproducible bytes.
struct SplitMix: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var word = state
    word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
    word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
    return word ^ word >> 31
  }
}
