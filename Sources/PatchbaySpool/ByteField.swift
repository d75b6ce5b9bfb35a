// A little-endian number at a fixed place: its name, offset and size stand once, are used by all code
// that reads or writes it, and are what the documentation's tables are compared with.

/// One field of a record on disk.
package struct ByteField: Sendable, Hashable {
  /// As the documentation has it.
  package let name: String
  /// From the beginning of the record.
  package let offset: Int
  package let byteCount: Int

  init(_ name: String, at offset: Int, _ byteCount: Int) {
    self.name = name
    self.offset = offset
    self.byteCount = byteCount
  }

  /// The number in a record that begins at an index of some bytes and is whole.
  func load(_ bytes: [UInt8], at start: Int = 0) -> UInt64 {
    var value: UInt64 = 0
    for index in 0..<byteCount {
      value |= UInt64(bytes[start + offset + index]) << UInt64(index * 8)
    }
    return value
  }

  /// Puts a number into such a record.
  func store(_ value: UInt64, in bytes: inout [UInt8], at start: Int = 0) {
    for index in 0..<byteCount {
      bytes[start + offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
    }
  }
}
