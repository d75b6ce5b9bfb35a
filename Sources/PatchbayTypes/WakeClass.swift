// Which bit of a doorbell a position rings. Classes repeat over the blob, so a sequential reader at
// any place shares its class with one in 32 places only.

/// The wake classes of one blob: position p belongs to class (p >> shift) mod 32.
package struct WakeClasses: Sendable, Hashable {
  /// log2 of the bytes in a row that share a class.
  package let shift: UInt8

  package static let count = 32
  package static let shiftRange: ClosedRange<UInt8> = 6...30

  package init(shift: UInt8) throws(PatchbayError) {
    guard Self.shiftRange.contains(shift) else {
      throw PatchbayError(
        .protocolViolation,
        "The wake class shift is \(shift), but only \(Self.shiftRange) make sense.")
    }
    self.shift = shift
  }

  /// Spreads a blob of a known length over all classes, down to a line and up to 1 MiB for each: so
  /// waiters for different ranges fall into different classes, and a write of a few hundred KiB
  /// rings one or two of them and not all. Of unknown length: 16 KiB for each.
  package init(forByteCount byteCount: Int?) {
    let share = byteCount.map { $0 / Self.count } ?? 1 << 14
    let exponent = share < 64 ? 6 : Int.bitWidth - 1 - share.leadingZeroBitCount
    shift = UInt8(min(exponent, 20))
  }

  /// The bit of the class that this position belongs to.
  package func bit(of position: Int) -> UInt32 {
    1 << UInt32(truncatingIfNeeded: (position >> Int(shift)) & (Self.count - 1))
  }

  /// The bits of all classes that a range touches; 0 for an empty range.
  package func mask(of range: Range<Int>) -> UInt32 {
    guard !range.isEmpty else { return 0 }
    let first = range.lowerBound >> Int(shift)
    let count = (range.upperBound - 1) >> Int(shift) - first + 1
    guard count < Self.count else { return .max }
    let bits = UInt32(1) << UInt32(count) - 1
    let turn = UInt32(first & (Self.count - 1))
    return bits << turn | (turn == 0 ? 0 : bits >> (UInt32(Self.count) - turn))
  }
}
