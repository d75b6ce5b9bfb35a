// Coming back to a broker that has taken the place of another: what a client says it had, to bytes and
// back.

import PatchbayTypes

/// A handle that a client had. A publisher with long lists sends several, which add up.
package struct ReattachRequest: Sendable, Hashable {
  package enum Role: UInt8, Sendable, CaseIterable {
    case publisher = 1
    case reader, observer
  }
  package struct Claim: Sendable, Hashable {
    /// The request that made it.
    package var number: UInt64
    package var range: Range<Int>
    package init(number: UInt64, range: Range<Int>) {
      self.number = number
      self.range = range
    }
  }

  package var blob: BlobReference
  package var role: Role
  /// The request that made the handle.
  package var number: UInt64
  /// Extents that a publisher has for writing.
  package var extents: [Int] = []
  package var claims: [Claim] = []

  package static let extentLimit = 1024
  package static let claimLimit = 1024

  package init(blob: BlobReference, role: Role, number: UInt64) {
    self.blob = blob
    self.role = role
    self.number = number
  }

  func encode(_ writer: inout WireWriter) {
    writer.put(blob)
    writer.put(role.rawValue)
    writer.put(number)
    writer.put(list: extents) { writer, index in writer.put(index: index) }
    writer.put(list: claims) { writer, claim in
      writer.put(claim.number)
      writer.put(claim.range)
    }
  }

  init(from reader: inout WireReader) throws(PatchbayError) {
    self.init(
      blob: try reader.takeReference(), role: try reader.takeCase("a handle's role"),
      number: try reader.take())
    extents = try reader.takeList(atMost: Self.extentLimit, "the extents of a handle") {
      (reader) throws(PatchbayError) in try reader.takeIndex()
    }
    claims = try reader.takeList(atMost: Self.claimLimit, "the claims of a handle") {
      (reader) throws(PatchbayError) in
      Claim(number: try reader.take(), range: try reader.takeRange("a claim"))
    }
  }
}
