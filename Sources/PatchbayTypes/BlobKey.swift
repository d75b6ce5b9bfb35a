// A key is bytes, not text: 1 to 1024 of any value. For people it is shown percent-encoded where it
// is not printable UTF-8, and what is shown can be typed back.

/// The name of a blob: 1 to 1024 bytes of any value.
public struct BlobKey: Hashable, Sendable {
  /// The most bytes a key may have.
  public static let byteLimit = 1024

  /// The bytes themselves.
  public let bytes: [UInt8]

  /// A key from its bytes.
  /// - Throws: `invalidKey` unless there are 1 to 1024 of them.
  public init(_ bytes: [UInt8]) throws(PatchbayError) {
    guard (1...Self.byteLimit).contains(bytes.count) else {
      throw PatchbayError(
        .invalidKey, "A key has 1 to \(Self.byteLimit) bytes; this one has \(bytes.count).")
    }
    self.bytes = bytes
  }

  /// A key from the UTF-8 bytes of a string, taken as they are.
  /// - Throws: `invalidKey` unless there are 1 to 1024 of them.
  public init(_ string: String) throws(PatchbayError) {
    try self.init(Array(string.utf8))
  }

  /// A key as people type it: `%XX` stands for one byte, everything else for its UTF-8 bytes.
  /// - Throws: `invalidKey` for a `%` without two hexadecimal digits, or a wrong length.
  public init(percentEncoded text: String) throws(PatchbayError) {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte)
        continue
      }
      guard let high = rest.popFirst().flatMap(Self.hexValue),
        let low = rest.popFirst().flatMap(Self.hexValue)
      else {
        throw PatchbayError(
          .invalidKey,
          "In the key \(text) a % is not followed by two hexadecimal digits; write %25 for a % itself."
        )
      }
      bytes.append(high << 4 | low)
    }
    try self.init(bytes)
  }

  private static func hexValue(_ digit: UInt8) -> UInt8? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
    default: nil
    }
  }
}

extension BlobKey: ExpressibleByStringLiteral {
  /// A key written in the source. A literal of a wrong length is a mistake of the program and traps.
  public init(stringLiteral literal: String) {
    let bytes = Array(literal.utf8)
    precondition(
      (1...Self.byteLimit).contains(bytes.count),
      "a key literal has 1 to \(Self.byteLimit) bytes; this one has \(bytes.count)")
    self.bytes = bytes
  }
}

extension BlobKey: CustomStringConvertible {
  /// Percent-encoded where needed: control bytes, blanks at the ends, `%` and what is not UTF-8.
  public var description: String {
    let isText = String(validating: bytes, as: UTF8.self) != nil
    var shown: [UInt8] = []
    for (index, byte) in bytes.enumerated() {
      let isEnd = index == 0 || index == bytes.count - 1
      let isPlain =
        byte >= 0x80
        ? isText
        : byte > 0x20 && byte != 0x7f && byte != UInt8(ascii: "%") || (byte == 0x20 && !isEnd)
      if isPlain {
        shown.append(byte)
      } else {
        let digits = Array("0123456789ABCDEF".utf8)
        shown += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
      }
    }
    return String(decoding: shown, as: UTF8.self)
  }

  /// The key as a string when its bytes are UTF-8, else nil.
  public var utf8String: String? { String(validating: bytes, as: UTF8.self) }
}

extension BlobKey: Comparable {
  /// Byte by byte, a prefix first: the order of listings.
  public static func < (left: BlobKey, right: BlobKey) -> Bool {
    left.bytes.lexicographicallyPrecedes(right.bytes)
  }
}
