// The names of the broker's shared objects. Each begins with the instance's number, so what a dead
// instance has left behind can be told from everything else.

import PatchbayLedger

enum ObjectName {
  /// A number as 16 hexadecimal digits.
  static func hex(_ number: UInt64) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }

  /// What all names of an instance begin with, without the slash.
  static func prefix(instance: UInt64) -> String { "patchbay-\(hex(instance))-" }

  static func ring(instance: UInt64, _ ring: RingID) -> String {
    "/\(prefix(instance: instance))\(hex(ring.rawValue))"
  }

  /// Whether the end of a name, behind the instance, is that of a ring or of a chunk of a journal.
  static func isOurs(_ rest: some StringProtocol) -> Bool {
    if let number = UInt64(rest, radix: 16), rest == hex(number) { return true }
    let digits = rest.dropFirst("journal-".count)
    guard let chunk = UInt32(digits) else { return false }
    return rest == "journal-\(chunk)"
  }

  static func journal(instance: UInt64, chunk: Int) -> String {
    "/\(journalPrefix(instance: instance))\(chunk)"
  }

  /// What the names of all chunks of a journal begin with, without the slash.
  static func journalPrefix(instance: UInt64) -> String {
    "\(prefix(instance: instance))journal-"
  }
}
