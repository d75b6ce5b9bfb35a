// What says that bytes are the right ones: an algorithm and the value it gives for them. A value is
// input wherever it comes from, so it is checked when it is made; how it is computed is not known here.

/// The digest of some bytes: which algorithm, and what it gives.
public struct ContentDigest: Sendable, Hashable {
  /// How a digest is computed. Numbers are those of the wire and the journal.
  public enum Algorithm: UInt8, Sendable, Hashable, CaseIterable {
    /// SHA-256 of FIPS 180-4.
    case sha256 = 1
    /// SHA-384 of FIPS 180-4.
    case sha384 = 2
    /// SHA-512 of FIPS 180-4.
    case sha512 = 3

    /// Bytes of a digest: 32, 48 or 64.
    public var byteCount: Int {
      switch self {
      case .sha256: 32
      case .sha384: 48
      case .sha512: 64
      }
    }

    /// An algorithm by its name, which is `sha256`, `sha384` or `sha512`.
    /// - Throws: `protocolViolation` for any other.
    public init(named name: String) throws(PatchbayError) {
      guard let found = Self.allCases.first(where: { "\($0)" == name }) else {
        throw PatchbayError(
          .protocolViolation,
          "\(Self.shown(name)) is no digest algorithm that is known here. Use \(Self.names).")
      }
      self = found
    }

    private static func shown(_ name: String) -> String {
      "\"\(name.count > 32 ? name.prefix(32) + "..." : name[...])\""
    }

    fileprivate static var names: String {
      allCases.map { "\($0)" }.joined(separator: ", ")
    }
  }

  /// How it was computed.
  public let algorithm: Algorithm
  /// What came of it: `algorithm.byteCount` bytes.
  public let bytes: [UInt8]

  /// A digest of its parts.
  /// - Throws: `protocolViolation` when the count of bytes is not the algorithm's.
  public init(_ algorithm: Algorithm, _ bytes: [UInt8]) throws(PatchbayError) {
    guard bytes.count == algorithm.byteCount else {
      throw PatchbayError(
        .protocolViolation,
        "A digest of \(algorithm) has \(algorithm.byteCount) bytes, not \(bytes.count).")
    }
    self.algorithm = algorithm
    self.bytes = bytes
  }

  /// A digest as it is written: `sha256:` and 64 hexadecimal digits, or the like. Capital digits are
  /// as good as small ones.
  /// - Throws: `protocolViolation` that says what is wrong.
  public init(_ text: String) throws(PatchbayError) {
    guard let colon = text.firstIndex(of: ":") else {
      throw PatchbayError(
        .protocolViolation,
        "A digest is written ALGORITHM:HEX, with one of \(Algorithm.names), such as sha256:9f86...; "
          + "there is no colon in what was given.")
    }
    try self.init(Algorithm(named: String(text[..<colon])), hex: text[text.index(after: colon)...])
  }

  private init(
    _ algorithm: Algorithm, hex: some StringProtocol
  ) throws(PatchbayError) {
    let digits = hex.utf8.map(Self.value)
    guard digits.count == 2 * algorithm.byteCount else {
      throw PatchbayError(
        .protocolViolation,
        "A digest of \(algorithm) has \(2 * algorithm.byteCount) hexadecimal digits; "
          + "\(digits.count) were given.")
    }
    var bytes: [UInt8] = []
    for at in stride(from: 0, to: digits.count, by: 2) {
      guard let high = digits[at], let low = digits[at + 1] else {
        throw PatchbayError(
          .protocolViolation,
          "A digest of \(algorithm) has hexadecimal digits only; there is something else at "
            + "digit \(digits[at] == nil ? at : at + 1).")
      }
      bytes.append(high << 4 | low)
    }
    try self.init(algorithm, bytes)
  }

  private static func value(_ digit: UInt8) -> UInt8? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
    default: nil
    }
  }

  /// The SHA-256 with these 64 hexadecimal digits.
  /// - Throws: `protocolViolation` when they are none.
  public static func sha256(_ hex: String) throws(PatchbayError) -> ContentDigest {
    try ContentDigest(.sha256, hex: hex)
  }

  /// The SHA-384 with these 96 hexadecimal digits.
  /// - Throws: `protocolViolation` when they are none.
  public static func sha384(_ hex: String) throws(PatchbayError) -> ContentDigest {
    try ContentDigest(.sha384, hex: hex)
  }

  /// The SHA-512 with these 128 hexadecimal digits.
  /// - Throws: `protocolViolation` when they are none.
  public static func sha512(_ hex: String) throws(PatchbayError) -> ContentDigest {
    try ContentDigest(.sha512, hex: hex)
  }

  /// The hexadecimal digits, small.
  public var hex: String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes { text += [digits[Int(byte >> 4)], digits[Int(byte & 15)]] }
    return String(decoding: text, as: UTF8.self)
  }
}

extension ContentDigest: CustomStringConvertible {
  /// As it is written: `sha256:` and the digits.
  public var description: String { "\(algorithm):\(hex)" }
}

/// What was asked for at a blob's creation: that its digest be computed, and what it is to be.
package struct DigestWish: Sendable, Hashable {
  package let algorithm: ContentDigest.Algorithm
  /// Nil: any will do.
  package let expected: ContentDigest?

  package init(_ algorithm: ContentDigest.Algorithm) {
    self.algorithm = algorithm
    expected = nil
  }

  package init(expecting digest: ContentDigest) {
    algorithm = digest.algorithm
    expected = digest
  }

  /// Whether content with this digest is what was asked for.
  package func accepts(_ found: ContentDigest) -> Bool {
    found.algorithm == algorithm && (expected == nil || expected == found)
  }
}
