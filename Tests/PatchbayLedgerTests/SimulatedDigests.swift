// What must be true of the orders for digests, and of what becomes of blobs that have one. Each check
// gives what is wrong, nil if nothing is.

import PatchbayLedger
import PatchbayTypes

struct SimulatedDigests {
  /// Orders that a worker has.
  private var orders: [Generation: DigestOrder] = [:]
  /// Blobs of which a worker knows something.
  private(set) var begun: Set<Generation> = []
  private var found: [Generation: ContentDigest] = [:]

  mutating func ordered(_ order: DigestOrder, posted: BlobState?) -> String? {
    let generation = order.generation
    defer {
      orders[generation] = order
      begun.insert(generation)
    }
    if orders[generation] != nil { return "two digests of \(generation) are made at once" }
    if posted != .open { return "a digest of \(generation), which is \(posted as Any)" }
    let indices = order.extents.map(\.index) + order.spooled + order.scratch.map(\.index)
    let first = indices.min() ?? 0
    guard indices.sorted() == Array(first..<first + indices.count) else {
      return "extents of \(generation) to be taken in order have gaps: \(indices)"
    }
    return nil
  }

  mutating func finished(_ generation: Generation, _ result: DigestResult) {
    orders[generation] = nil
    if case .found(let digest, _) = result { found[generation] = digest }
  }

  mutating func dropped(_ generation: Generation) -> String? {
    begun.remove(generation) == nil ? "no digest of \(generation) was begun" : nil
  }

  /// A sealed blob has the digest that was asked for, and no other blob has one.
  func recorded(_ record: BlobRecord) -> String? {
    let generation = record.info.generation
    guard record.info.state == .sealed, let wish = record.terms.digest else {
      return record.info.digest == nil ? nil : "\(generation) has a digest too early, or unasked"
    }
    guard let digest = record.info.digest else { return "\(generation) has no digest" }
    guard wish.accepts(digest) else { return "\(generation) was sealed with wrong content" }
    if begun.contains(generation) { return "\(generation) is sealed and its digest goes on" }
    if record.inlineBytes != nil || record.info.byteCount == 0 { return nil }
    return found[generation] == digest ? nil : "nobody found the digest of \(generation)"
  }
}
