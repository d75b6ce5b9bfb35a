// Fields to bytes and back. A reader checks each length against what is left before it uses it; a
// message that is too short, too long or holds an unknown number becomes a `protocolViolation`.

import PatchbayTypes

/// Appends little-endian fields to a message body.
package struct WireWriter {
  package private(set) var bytes: [UInt8] = []

  package init() {}

  package mutating func put<Number: FixedWidthInteger>(_ number: Number) {
    var rest = Number.Magnitude(truncatingIfNeeded: number)
    for _ in 0..<MemoryLayout<Number>.size {
      bytes.append(UInt8(truncatingIfNeeded: rest))
      rest >>= 8
    }
  }

  package mutating func put(_ flag: Bool) { put(flag ? 1 as UInt8 : 0) }

  /// A 32-bit count, then the bytes.
  package mutating func put(_ block: [UInt8]) {
    put(UInt32(block.count))
    bytes += block
  }

  package mutating func put(_ text: String) { put(Array(text.utf8)) }
  package mutating func put(_ key: BlobKey) { put(key.bytes) }

  /// -1 stands for nil.
  package mutating func put(optional byteCount: Int?) { put(Int64(byteCount ?? -1)) }

  package mutating func put(_ range: Range<Int>) {
    put(Int64(range.lowerBound))
    put(Int64(range.upperBound))
  }

  package mutating func put(_ access: Access) {
    put(access.uid)
    put(access.gid)
    put(access.mode)
  }

  package mutating func put<Element>(
    list: [Element], _ putOne: (inout WireWriter, Element) -> Void
  ) {
    put(UInt32(list.count))
    for element in list { putOne(&self, element) }
  }

  /// Overwrites four bytes that were put before.
  mutating func patch(_ number: UInt32, at offset: Int) {
    for index in 0..<4 { bytes[offset + index] = UInt8(truncatingIfNeeded: number >> (8 * index)) }
  }
}

/// Takes little-endian fields out of a message body.
package struct WireReader {
  private let bytes: ArraySlice<UInt8>
  private var at: Int

  package init(_ bytes: ArraySlice<UInt8>) {
    self.bytes = bytes
    at = bytes.startIndex
  }

  package var remaining: Int { bytes.endIndex - at }

  private func tooShort(_ what: String, _ needed: Int) -> PatchbayError {
    PatchbayError(
      .protocolViolation,
      "A control message ends inside \(what): \(needed) bytes needed, \(remaining) left.")
  }

  package mutating func take<Number: FixedWidthInteger>(
    _: Number.Type = Number.self
  ) throws(PatchbayError) -> Number {
    let size = MemoryLayout<Number>.size
    guard remaining >= size else { throw tooShort("a number", size) }
    var number: Number.Magnitude = 0
    for index in 0..<size { number |= Number.Magnitude(bytes[at + index]) << (8 * index) }
    at += size
    return Number(truncatingIfNeeded: number)
  }

  package mutating func takeFlag() throws(PatchbayError) -> Bool {
    switch try take(UInt8.self) {
    case 0: return false
    case 1: return true
    case let other:
      throw PatchbayError(.protocolViolation, "A yes-or-no field holds \(other), not 0 or 1.")
    }
  }

  /// A counted block of at most `limit` bytes.
  package mutating func takeBlock(
    atMost limit: Int, _ what: String
  ) throws(PatchbayError) -> [UInt8] {
    let count = Int(try take(UInt32.self))
    guard count <= limit else {
      throw PatchbayError(
        .protocolViolation, "\(what) has \(count) bytes; at most \(limit) are allowed.")
    }
    guard remaining >= count else { throw tooShort(what, count) }
    defer { at += count }
    return Array(bytes[at..<at + count])
  }

  package mutating func takeText(
    atMost limit: Int, _ what: String
  ) throws(PatchbayError) -> String {
    let block = try takeBlock(atMost: limit, what)
    guard let text = String(validating: block, as: UTF8.self) else {
      throw PatchbayError(.protocolViolation, "\(what) is not UTF-8.")
    }
    return text
  }

  /// A key of a wrong length is an `invalidKey`, too long or empty: a mistake to go on after.
  package mutating func takeKey() throws(PatchbayError) -> BlobKey {
    try BlobKey(takeBlock(atMost: Frame.byteLimit, "a key"))
  }

  package mutating func takePosition(_ what: String) throws(PatchbayError) -> Int {
    let number = try take(Int64.self)
    guard (0...Int64(ExtentPlan.positionLimit)).contains(number) else {
      throw PatchbayError(
        .protocolViolation,
        "\(what) is \(number); positions and sizes are 0 to \(ExtentPlan.positionLimit).")
    }
    return Int(number)
  }

  package mutating func takeOptionalPosition(_ what: String) throws(PatchbayError) -> Int? {
    var ahead = self
    guard try ahead.take(Int64.self) != -1 else {
      self = ahead
      return nil
    }
    return try takePosition(what)
  }

  package mutating func takeRange(_ what: String) throws(PatchbayError) -> Range<Int> {
    let lower = try takePosition(what)
    let upper = try takePosition(what)
    guard lower <= upper else {
      throw PatchbayError(
        .protocolViolation, "\(what) ends at \(upper), before its start \(lower).")
    }
    return lower..<upper
  }

  package mutating func takeAccess() throws(PatchbayError) -> Access {
    Access(uid: try take(), gid: try take(), mode: try take())
  }

  package mutating func takeCase<Term: RawRepresentable>(
    _ what: String
  ) throws(PatchbayError) -> Term where Term.RawValue == UInt8 {
    let number = try take(UInt8.self)
    guard let term = Term(rawValue: number) else {
      throw PatchbayError(.protocolViolation, "\(what) has the unknown number \(number).")
    }
    return term
  }

  package mutating func takeList<Element>(
    atMost limit: Int, _ what: String,
    _ takeOne: (inout WireReader) throws(PatchbayError) -> Element
  ) throws(PatchbayError) -> [Element] {
    let count = Int(try take(UInt32.self))
    guard count <= limit else {
      throw PatchbayError(
        .protocolViolation, "\(what) has \(count) entries; at most \(limit) are allowed.")
    }
    // Nothing is reserved for `count`: an entry has at least a byte, so a lie ends at the packet's.
    var list: [Element] = []
    for _ in 0..<count { list.append(try takeOne(&self)) }
    return list
  }

  package func finish() throws(PatchbayError) {
    guard remaining == 0 else {
      throw PatchbayError(
        .protocolViolation, "A control message has \(remaining) bytes after its last field.")
    }
  }
}
