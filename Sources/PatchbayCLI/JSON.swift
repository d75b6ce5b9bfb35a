// A writer of JSON, no reader: what the command prints is small and its own.

import Patchbay

/// A JSON value.
indirect enum JSON {
  case null
  case boolean(Bool)
  case integer(Int)
  case unsigned(UInt64)
  case seconds(Duration)
  case string(String)
  case array([JSON])
  case object(JSONFields)

  static func optional(_ text: String?) -> JSON { text.map(JSON.string) ?? .null }
  static func optional(_ number: Int?) -> JSON { number.map(JSON.integer) ?? .null }

  static func ranges(_ ranges: [Range<Int>]) -> JSON {
    .array(ranges.map { .array([.integer($0.lowerBound), .integer($0.upperBound)]) })
  }

  /// The value on one line, without a line end.
  var text: String {
    switch self {
    case .null: "null"
    case .boolean(let value): "\(value)"
    case .integer(let number): "\(number)"
    case .unsigned(let number): "\(number)"
    case .seconds(let duration): Self.seconds(duration)
    case .string(let text): Self.quoted(text)
    case .array(let values): "[" + values.map(\.text).joined(separator: ",") + "]"
    case .object(let fields):
      "{"
        + fields.members.map { "\(Self.quoted($0.name)):\($0.value.text)" }
        .joined(separator: ",") + "}"
    }
  }

  /// Seconds with six digits behind the point.
  private static func seconds(_ duration: Duration) -> String {
    let micros = max(0, duration.wholeNanoseconds / 1000)
    let fraction = String(micros % 1_000_000)
    return "\(micros / 1_000_000)." + String(repeating: "0", count: 6 - fraction.count) + fraction
  }

  /// A string literal. Besides what must be escaped, DEL and the two line separators are, so that
  /// one object stays on one line whoever splits lines.
  static func quoted(_ text: String) -> String {
    var quoted = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": quoted += "\\\""
      case "\\": quoted += "\\\\"
      case "\n": quoted += "\\n"
      case "\r": quoted += "\\r"
      case "\t": quoted += "\\t"
      case "\u{0}"..."\u{1f}", "\u{7f}", "\u{2028}", "\u{2029}":
        let digits = String(scalar.value, radix: 16)
        quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: quoted.unicodeScalars.append(scalar)
      }
    }
    return quoted + "\""
  }

  /// Base 64 by RFC 4648, padded.
  static func base64(_ bytes: [UInt8]) -> String {
    let alphabet = Array(
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var text: [UInt8] = []
    for start in stride(from: 0, to: bytes.count, by: 3) {
      let group = bytes[start..<min(start + 3, bytes.count)]
      let bits =
        group.reduce(0) { $0 << 8 | UInt32($1) } << UInt32(8 * (3 - group.count))
      for digit in 0..<4 {
        let value = Int(bits >> UInt32(18 - 6 * digit)) & 63
        text.append(digit <= group.count ? alphabet[value] : UInt8(ascii: "="))
      }
    }
    return String(decoding: text, as: UTF8.self)
  }
}

/// The members of an object, in the order they were set.
struct JSONFields {
  struct Member {
    let name: String
    let value: JSON
  }

  private(set) var members: [Member] = []

  init(_ members: [(String, JSON)] = []) {
    for (name, value) in members { self[name] = value }
  }

  subscript(name: String) -> JSON? {
    get { members.first { $0.name == name }?.value }
    set {
      if let index = members.firstIndex(where: { $0.name == name }) {
        members.remove(at: index)
      }
      if let newValue { members.append(Member(name: name, value: newValue)) }
    }
  }

  /// `key` as it is typed and shown, so that it can be given back to the command, and
  /// `keyBase64` besides where its bytes are not UTF-8.
  mutating func append(key: BlobKey?) {
    guard let key else {
      self["key"] = .null
      return
    }
    self["key"] = .string(key.description)
    if key.utf8String == nil { self["keyBase64"] = .string(JSON.base64(key.bytes)) }
  }
}
